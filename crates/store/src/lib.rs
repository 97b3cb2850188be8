//! The redb file of one partition: a cache of the changelog that may lag and is never ahead.
//!
//! Only what Kafka has committed is written here, so nothing that this crate loses is lost for good: a crash
//! falls back to the last durable checkpoint, and the changelog's tail restores the rest. A file that belongs
//! to another changelog, or is found not to be as it was written, is deleted and rebuilt. An error of the
//! operating system leaves it as it is.
//!
//! Everything that is read from the file is checked against a checksum when it is read, so that a file of any size
//! opens at once, and damage is never taken for a key that is not there.

mod directory;
mod error;
mod file;
mod identity;
mod inspect;
mod manifest;
mod open;
mod runs;
mod store;
mod writer;

pub use directory::{DirectoryError, StateDirectory};
pub use error::StoreError;
pub use identity::Identity;
pub use inspect::{InspectedDirectory, ReadOnlyStore, StoreFile};
pub use open::{Opened, Options};
pub use store::{Store, StoreUpdate};
pub use writer::StoreWriter;

#[cfg(test)]
mod tests;
