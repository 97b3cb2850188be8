//! Secrets from files or the environment, and values that are made again when their files change.

mod secret;
mod watched_file;

pub use secret::{HIDDEN, Secret, SecretSource, warn_if_others_may_read};
pub use watched_file::Watched;
