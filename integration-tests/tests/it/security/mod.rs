//! Security: TLS, passwords and access control of the cluster.

mod commands;
mod fixture;
mod permissions;
mod refused_connections;
mod rotation;
