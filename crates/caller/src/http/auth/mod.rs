//! Authentication of requests: credentials, OAuth2 tokens, signatures, and the secrets they are made from.

mod credentials;
mod oauth2;
mod secret;
mod signature;
mod watched_file;

pub(crate) use credentials::{AuthKind, AuthSettings, Credentials};
pub(crate) use secret::warn_if_others_may_read;
pub(crate) use signature::{Signature, SignatureSettings};
pub(crate) use watched_file::Watched;

#[cfg(test)]
pub(crate) use secret::SecretSource;
