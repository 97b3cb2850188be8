//! Merge of neighbouring runs, in steps: between two of them the file can be written otherwise.

use records::KeyHash;
use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};

use super::builder::{RunBuilder, RunTables, Span, table_name};
use super::row::{ROW_BYTES, Row};
use super::run::{Blocks, Run, RunMeta, read_block};

/// Opens the table with a run's blocks.
pub(crate) fn open_blocks(transaction: &ReadTransaction, run: u64) -> Result<Blocks, redb::Error> {
    Ok(transaction.open_table(TableDefinition::new(&table_name(run)))?)
}

/// Runs read together, in the order of their keys. Of several rows of a key only the newest is returned.
pub(crate) struct MergedRows {
    /// From the oldest run to the newest.
    cursors: Vec<Cursor>,
}

/// Position in a run.
struct Cursor {
    meta: RunMeta,
    /// Rows of the block that is read, and the number of the next one.
    rows: Vec<u8>,
    next_block: u32,
    /// Position of the row in the block.
    at: usize,
    /// Key of that row; `None` until a block is read, and at the end.
    key: Option<KeyHash>,
}

impl MergedRows {
    /// Begins to read these runs, from the oldest to the newest.
    pub(crate) fn new(runs: impl IntoIterator<Item = RunMeta>) -> Self {
        let cursor = |meta| Cursor {
            meta,
            rows: Vec::new(),
            next_block: 0,
            at: 0,
            key: None,
        };
        Self {
            cursors: runs.into_iter().map(cursor).collect(),
        }
    }

    /// Runs that are read.
    pub(crate) fn runs(&self) -> impl Iterator<Item = RunMeta> {
        self.cursors.iter().map(|cursor| cursor.meta)
    }

    /// Returns the next row. `blocks` are the tables of the runs, in their order.
    pub(crate) fn next(&mut self, blocks: &[Blocks]) -> Result<Option<Row>, redb::Error> {
        let mut lowest: Option<(KeyHash, usize)> = None;
        for (number, (cursor, blocks)) in self.cursors.iter_mut().zip(blocks).enumerate() {
            cursor.fill(blocks)?;
            // The newest run is the last, so that its row is taken if several runs have the key.
            if let Some(key) = cursor.key
                && lowest.is_none_or(|(lowest, _)| key <= lowest)
            {
                lowest = Some((key, number));
            }
        }
        let Some((key, number)) = lowest else {
            return Ok(None);
        };
        let row = self.cursors[number].row();
        for cursor in &mut self.cursors {
            if cursor.key == Some(key) {
                cursor.advance();
            }
        }
        Ok(row)
    }
}

impl Cursor {
    /// Reads the next block, if the rows of this one have been taken.
    fn fill(&mut self, blocks: &Blocks) -> Result<(), redb::Error> {
        if self.key.is_some() || self.next_block == self.meta.blocks {
            return Ok(());
        }
        read_block(blocks, self.meta.id, self.next_block, |rows| {
            self.rows.clear();
            self.rows.extend_from_slice(rows);
        })?;
        self.next_block += 1;
        self.at = 0;
        self.key = self.row().map(|row| row.key());
        Ok(())
    }

    fn advance(&mut self) {
        self.at += ROW_BYTES;
        self.key = self.row().map(|row| row.key());
    }

    fn row(&self) -> Option<Row> {
        Row::from_bytes(self.rows.get(self.at..self.at + ROW_BYTES)?)
    }
}

/// Merge that has begun.
pub(crate) struct Merge {
    rows: MergedRows,
    builder: RunBuilder,
    /// The oldest run is among them, so that a row that removes its key has done its work.
    has_oldest: bool,
}

impl Merge {
    /// Begins to merge these runs, from the oldest to the newest, into a run with this number. Returns `None` if there
    /// are none.
    pub(crate) fn new(runs: &[RunMeta], id: u64, has_oldest: bool) -> Option<Self> {
        let span = runs.iter().map(RunMeta::span).reduce(Span::and)?;
        Some(Self {
            rows: MergedRows::new(runs.iter().copied()),
            builder: RunBuilder::new(id, span),
            has_oldest,
        })
    }

    /// Number of the run that is written, and of its segments so far.
    pub(crate) fn written(&self) -> (u64, u32) {
        let segments = u32::try_from(self.builder.segments()).unwrap_or(u32::MAX);
        (self.builder.id(), segments)
    }

    /// Runs that are merged.
    pub(crate) fn sources(&self) -> impl Iterator<Item = RunMeta> {
        self.rows.runs()
    }

    /// Writes one more segment. Returns `true` at the end.
    pub(crate) fn step(
        &mut self,
        database: &Database,
        transaction: &WriteTransaction,
    ) -> Result<bool, redb::Error> {
        // Opened for each step: a view that is held keeps all pages that are freed meanwhile.
        let read = database.begin_read()?;
        let blocks: Vec<Blocks> = self
            .sources()
            .map(|source| open_blocks(&read, source.id))
            .collect::<Result<_, _>>()?;
        let mut tables = RunTables::open(transaction, self.builder.id())?;
        let segments = self.builder.segments();
        while self.builder.segments() == segments {
            let Some(row) = self.rows.next(&blocks)? else {
                return Ok(true);
            };
            if row.entry_bytes().is_some() || !self.has_oldest {
                self.builder.push(&mut tables, &row)?;
            }
        }
        Ok(false)
    }

    /// Writes what is open, and returns the merged run; `None` if it has no rows.
    pub(crate) fn finish(self, transaction: &WriteTransaction) -> Result<Option<Run>, redb::Error> {
        let mut tables = RunTables::open(transaction, self.builder.id())?;
        self.builder.finish(&mut tables)
    }
}
