//! Sorted runs: how the entries of a store lie in its file.
//!
//! A batch of updates is sorted by the hashes of its keys and written as a run, which never changes. Runs are merged
//! into larger ones, and a key is looked for in each run from the newest to the oldest.
//!
//! ```text
//! run        rows in the order of their keys
//! segment    up to 960 blocks of it, and an index in memory: a filter, and the first key of each block
//! block      up to 67 rows, and a checksum that is checked whenever the block is read
//! row        hash of a key, and its entry
//! ```
//!
//! A new order's key, the common case, is in no run, and nearly always the filters say so without a read. Random keys
//! in one tree would touch a page each, and the tree would be rewritten again and again.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod merge;
pub(crate) mod policy;
pub(crate) mod row;
pub(crate) mod run;
pub(crate) mod segment;
