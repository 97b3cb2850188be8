//! The tables of a store.

use redb::TableDefinition;

/// Idempotency key → encoded entry.
pub(crate) const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// The changelog offset up to which the entries equal the changelog. One row, under [`CHECKPOINT_ROW`];
/// none means that nothing was restored yet.
pub(crate) const CHECKPOINT: TableDefinition<'_, u8, i64> = TableDefinition::new("checkpoint");

/// The only row of [`CHECKPOINT`].
pub(crate) const CHECKPOINT_ROW: u8 = 0;

/// Whose changelog this is. One row, under [`IDENTITY_ROW`].
pub(crate) const IDENTITY: TableDefinition<'_, u8, &str> = TableDefinition::new("identity");

/// The only row of [`IDENTITY`].
pub(crate) const IDENTITY_ROW: u8 = 0;
