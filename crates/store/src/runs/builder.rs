//! Writing of a run, row by row, within one or more transactions of the file.

use std::sync::Arc;

use records::{KeyHash, Offset, Timestamp};
use redb::{Table, TableDefinition, WriteTransaction};

use super::block::{self, Kind, Place};
use super::row::{ROW_BYTES, Row};
use super::run::{Run, RunMeta};
use super::segment::{self, Segment};

/// Indexes of segments, by run and number of the segment.
pub(crate) const INDEXES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("indexes");

/// Returns the name of the table with a run's blocks.
pub(crate) fn table_name(run: u64) -> String {
    format!("run-{run}")
}

/// Run that is being written.
pub(crate) struct RunBuilder {
    id: u64,
    /// Rows of the open block.
    block: Vec<u8>,
    /// First keys of the blocks of the open segment.
    firsts: Vec<KeyHash>,
    /// Second halves of the keys of the open segment.
    halves: Vec<u64>,
    /// First block of the open segment.
    segment_block: u32,
    /// Number of blocks that were written.
    blocks: u32,
    segments: Vec<Segment>,
    rows: u64,
    span: Span,
}

/// What a run has of the changelog: see [`RunMeta`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) end: Offset,
    pub(crate) oldest: Timestamp,
    pub(crate) newest: Timestamp,
}

impl Span {
    /// Returns the span of two neighbours.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            end: self.end.max(other.end),
            oldest: self.oldest.min(other.oldest),
            newest: self.newest.max(other.newest),
        }
    }
}

/// Tables of the file that a run is written to, within one transaction.
pub(crate) struct RunTables<'t> {
    blocks: Table<'t, u32, &'static [u8]>,
    indexes: Table<'t, (u64, u32), &'static [u8]>,
}

impl<'t> RunTables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction, run: u64) -> Result<Self, redb::Error> {
        Ok(Self {
            blocks: transaction.open_table(TableDefinition::new(&table_name(run)))?,
            indexes: transaction.open_table(INDEXES)?,
        })
    }
}

impl RunBuilder {
    pub(crate) fn new(id: u64, span: Span) -> Self {
        Self {
            id,
            block: Vec::with_capacity(block::ROWS_MAX * ROW_BYTES + block::CHECKSUM_BYTES),
            firsts: Vec::new(),
            halves: Vec::new(),
            segment_block: 0,
            blocks: 0,
            segments: Vec::new(),
            rows: 0,
            span,
        }
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Number of segments that were written.
    pub(crate) const fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Adds a row, whose key follows that of the row before.
    pub(crate) fn push(&mut self, tables: &mut RunTables<'_>, row: &Row) -> Result<(), redb::Error> {
        if self.block.is_empty() {
            self.firsts.push(row.key());
        }
        self.block.extend_from_slice(row.as_bytes());
        self.halves.push(row.key().second_half());
        self.rows += 1;
        if self.block.len() == block::ROWS_MAX * ROW_BYTES {
            self.end_block(tables)?;
        }
        if self.firsts.len() == segment::BLOCKS_MAX && self.block.is_empty() {
            self.end_segment(tables)?;
        }
        Ok(())
    }

    fn end_block(&mut self, tables: &mut RunTables<'_>) -> Result<(), redb::Error> {
        block::seal(
            &mut self.block,
            Place {
                run: self.id,
                number: self.blocks,
                kind: Kind::Block,
            },
        );
        tables.blocks.insert(self.blocks, &*self.block)?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    fn end_segment(&mut self, tables: &mut RunTables<'_>) -> Result<(), redb::Error> {
        let segment = Segment::new(self.segment_block, &self.firsts, &mut self.halves);
        let place = Place {
            run: self.id,
            number: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            kind: Kind::Index,
        };
        tables
            .indexes
            .insert((place.run, place.number), &*segment.encode(place))?;
        self.segment_block = segment.end();
        self.segments.push(segment);
        self.firsts.clear();
        self.halves.clear();
        Ok(())
    }

    /// Writes what is open, and returns the run; `None` if it has no rows.
    pub(crate) fn finish(mut self, tables: &mut RunTables<'_>) -> Result<Option<Run>, redb::Error> {
        if !self.block.is_empty() {
            self.end_block(tables)?;
        }
        if !self.firsts.is_empty() {
            self.end_segment(tables)?;
        }
        let Span { end, oldest, newest } = self.span;
        let meta = RunMeta {
            id: self.id,
            rows: self.rows,
            segments: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            blocks: self.blocks,
            end,
            oldest,
            newest,
        };
        Ok((self.rows > 0).then(|| Run {
            meta,
            segments: Arc::from(self.segments),
        }))
    }
}
