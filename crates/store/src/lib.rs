//! The redb file of one partition: a cache of the changelog that may lag and is never ahead.
//!
//! What is written here is already committed in Kafka. So nothing that this crate loses is lost: a crash
//! falls back to the last durable commit with its checkpoint, and the changelog's tail brings the rest. A
//! file that does not say whose changelog it holds, or of which one page is not as redb wrote it, is deleted
//! and rebuilt.
//!
//! Assumed of the disk: what redb has synced stays as it is while the store is open. What changed while it
//! was closed is found when it is opened.

mod directory;
mod store;
mod tables;

pub use directory::{DirectoryError, StateDirectory};
pub use store::{Identity, Opened, Options, Store, StoreError, StoreUpdate};
