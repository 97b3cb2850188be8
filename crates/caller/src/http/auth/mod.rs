//! Authentication of requests: credentials, OAuth2 tokens, signatures, and the secrets they are made from.

mod credentials;
mod oauth2;
mod signature;

pub(crate) use credentials::{AuthKind, AuthSettings, Credentials};
pub(crate) use signature::{Signature, SignatureSettings};
