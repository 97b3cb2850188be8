//! The redb file of one partition: a cache of the changelog that may lag and is never ahead.
//!
//! Only what Kafka has committed is written here, so nothing that this crate loses is lost for good: a crash
//! falls back to the last durable checkpoint, and the changelog's tail restores the rest. A file that belongs
//! to another changelog, or has a page that is not as redb wrote it, is deleted and rebuilt. An error of the
//! operating system leaves it as it is.
//!
//! Assumption about the disk: what redb has synced does not change while the store is open. Changes made
//! while it was closed are found when it is opened.

mod directory;
mod error;
mod identity;
mod inspect;
mod open;
mod read;
mod store;
mod tables;
mod write;

pub use directory::{DirectoryError, StateDirectory};
pub use error::StoreError;
pub use identity::Identity;
pub use inspect::{InspectedDirectory, ReadOnlyStore, StoreFile};
pub use open::{Opened, Options};
pub use store::Store;
pub use write::StoreUpdate;

#[cfg(test)]
mod tests;
