//! Security: TLS, passwords and access control of the cluster.

mod fixture;
mod permissions;
mod refused_connections;
mod rotation;
