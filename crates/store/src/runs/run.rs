//! Run: the rows of a batch, or of several runs merged, which never change.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use records::{KeyHash, Offset, Timestamp};
use redb::ReadOnlyTable;

use super::block::{self, Kind, Place};
use super::builder::Span;
use super::row::Row;
use super::segment::Segment;

/// Blocks of a run by their number; a table of the file.
pub(crate) type Blocks = ReadOnlyTable<u32, &'static [u8]>;

/// What the manifest says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunMeta {
    /// Number of the run, which is never used again.
    pub(crate) id: u64,
    pub(crate) rows: u64,
    pub(crate) segments: u32,
    pub(crate) blocks: u32,
    /// Changelog offset below which it has, with the older runs, the newest record of each key.
    pub(crate) end: Offset,
    /// Recorded time of its oldest keys.
    pub(crate) oldest: Timestamp,
    /// Recorded time of its newest keys.
    pub(crate) newest: Timestamp,
}

impl RunMeta {
    pub(crate) const fn span(&self) -> Span {
        Span {
            end: self.end,
            oldest: self.oldest,
            newest: self.newest,
        }
    }
}

/// Run with its index in memory.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) meta: RunMeta,
    /// Segments by their first keys.
    pub(crate) segments: Arc<[Segment]>,
}

/// Damage of a run, which proves that the file is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) Place);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { run, number, kind } = self.0;
        let part = match kind {
            Kind::Block => "block",
            Kind::Index => "index",
        };
        write!(
            f,
            "{part} {number} of run {run} is missing, or not as it was written"
        )
    }
}

impl From<Damage> for redb::Error {
    fn from(damage: Damage) -> Self {
        Self::Corrupted(damage.to_string())
    }
}

impl Run {
    /// Returns the row of a key, which may say that the key was removed; `None` if the run does not have the key. Adds to
    /// `reads` the blocks that were read.
    pub(crate) fn get(
        &self,
        blocks: &Blocks,
        key: KeyHash,
        reads: &Cell<u64>,
    ) -> Result<Option<Row>, redb::Error> {
        let behind = self.segments.partition_point(|segment| segment.first <= key);
        let Some(segment) = behind.checked_sub(1).map(|number| &self.segments[number]) else {
            return Ok(None);
        };
        if !segment.may_contain(key) {
            return Ok(None);
        }
        for number in segment.blocks_of(key) {
            reads.set(reads.get() + 1);
            let found = read_block(blocks, self.meta.id, number, |rows| block::find(rows, key))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Passes the rows of a block to `read`.
pub(crate) fn read_block<T>(
    blocks: &Blocks,
    run: u64,
    number: u32,
    read: impl FnOnce(&[u8]) -> T,
) -> Result<T, redb::Error> {
    let place = Place {
        run,
        number,
        kind: Kind::Block,
    };
    let sealed = blocks.get(number)?;
    let rows = sealed
        .as_ref()
        .and_then(|sealed| block::unseal(sealed.value(), place));
    // A missing block is no less damage than a changed one: its keys would be unknown, and their orders paid twice.
    Ok(read(rows.ok_or(Damage(place))?))
}
