//! The tables of a store's file.

use redb::TableDefinition;

/// Encoded entries by idempotency key.
pub(crate) const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// Changelog offset up to which the entries are equal to the changelog, under [`CHECKPOINT_ROW`]. No row
/// means that nothing was restored yet.
pub(crate) const CHECKPOINT: TableDefinition<'_, u8, i64> = TableDefinition::new("checkpoint");

/// Key of the only row in [`CHECKPOINT`].
pub(crate) const CHECKPOINT_ROW: u8 = 0;

/// Text of the store's identity, under [`IDENTITY_ROW`].
pub(crate) const IDENTITY: TableDefinition<'_, u8, &str> = TableDefinition::new("identity");

/// Key of the only row in [`IDENTITY`].
pub(crate) const IDENTITY_ROW: u8 = 0;
