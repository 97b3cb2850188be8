//! The file of a store: runs are written and merged, each in transactions that leave it whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hashbrown::HashMap;
use records::{Entry, Forgotten, KeyHash, Offset, Timestamp};
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle, WriteTransaction,
};

use crate::error::{StoreError, guarded};
use crate::manifest::{MANIFEST, MANIFEST_ROW, Manifest};
use crate::runs::block::{Kind, Place};
use crate::runs::builder::{INDEXES, RunBuilder, RunTables, Span, table_name};
use crate::runs::merge::{Merge, open_blocks};
use crate::runs::policy::{Mergeable, runs_to_merge};
use crate::runs::row::Row;
use crate::runs::run::{Blocks, Damage, Run, RunMeta};
use crate::runs::segment::Segment;

/// New states of keys, as committed in the changelog. `None` removes a key.
pub(crate) type Updates = HashMap<KeyHash, Option<Entry>>;

/// Updates that are written together, and the checkpoint that they lead to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) updates: Updates,
    pub(crate) checkpoint: Option<Offset>,
    /// Recorded times of the oldest and the newest update; `None` if there is none.
    pub(crate) recorded: Option<(Timestamp, Timestamp)>,
}

/// Runs of a file at one point in time, from the newest to the oldest, each with its blocks.
#[derive(Default)]
pub(crate) struct View(pub(crate) Vec<(Run, Blocks)>);

/// An open file.
pub(crate) struct RunsFile {
    database: Database,
    manifest: Manifest,
    /// Runs of the manifest, in its order.
    runs: Vec<Run>,
    merge: Option<Merge>,
    period: Option<Duration>,
    path: PathBuf,
}

impl RunsFile {
    /// Opens the file. A new one is given this identity; one of another identity is left as it is.
    pub(crate) fn open(
        path: &Path,
        identity: &str,
        cache_bytes: usize,
        period: Option<Duration>,
    ) -> Result<Self, StoreError> {
        guarded("opening", path, || {
            let mut database = Builder::new().set_cache_size(cache_bytes).create(path)?;
            let transaction = begin(&database, Durability::Immediate)?;
            let manifest = {
                let mut table = transaction.open_table(MANIFEST)?;
                let found = table
                    .get(MANIFEST_ROW)?
                    .map(|bytes| Manifest::decode(bytes.value()));
                match found {
                    Some(manifest) => manifest.ok_or_else(manifest_damage)?,
                    None if has_other_tables(&transaction)? => Manifest::new("an earlier layout".to_owned()),
                    None => {
                        let new = Manifest::new(identity.to_owned());
                        table.insert(MANIFEST_ROW, &*new.encode())?;
                        new
                    }
                }
            };
            let mut runs = Vec::new();
            if manifest.identity == identity {
                // Creates the table of indexes in a new file, too.
                remove_unlisted(&transaction, &manifest)?;
                transaction.commit()?;
                if is_mostly_free(path, &manifest) {
                    // Before anything reads it, which would prevent it. Its time is that of what is left.
                    database.compact()?;
                }
                let read = database.begin_read()?;
                let loaded = manifest.runs.iter().map(|meta| load(&read, *meta));
                runs = loaded.collect::<Result<_, redb::Error>>()?;
            } else {
                transaction.abort()?;
            }
            Ok(Self {
                runs,
                database,
                manifest,
                merge: None,
                period,
                path: path.to_owned(),
            })
        })
    }

    pub(crate) fn identity(&self) -> &str {
        &self.manifest.identity
    }

    pub(crate) const fn checkpoint(&self) -> Option<Offset> {
        self.manifest.checkpoint
    }

    /// Returns the runs as they are now.
    pub(crate) fn view(&self) -> Result<View, StoreError> {
        guarded("reading", &self.path, || {
            let read = self.database.begin_read()?;
            let with_blocks = |run: &Run| Ok((run.clone(), open_blocks(&read, run.meta.id)?));
            let runs = self.runs.iter().rev().map(with_blocks);
            Ok(View(runs.collect::<Result<_, redb::Error>>()?))
        })
    }

    /// Writes a batch as a run, with its checkpoint, and makes both durable.
    pub(crate) fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut updates: Vec<_> = batch.updates.iter().collect();
        updates.sort_unstable_by_key(|(key, _)| **key);
        let mut manifest = self.manifest.clone();
        manifest.checkpoint = batch.checkpoint;
        let written = guarded("writing", &self.path, || {
            // Durable: only so does it count, and a write that does not reach the disk saves little.
            let transaction = begin(&self.database, Durability::Immediate)?;
            let run = if updates.is_empty() {
                None
            } else {
                let (oldest, newest) = batch.recorded.unwrap_or((Timestamp(0), Timestamp(0)));
                let span = Span {
                    end: batch.checkpoint.unwrap_or(Offset(0)),
                    oldest,
                    newest,
                };
                let mut builder = RunBuilder::new(manifest.next_run, span);
                manifest.next_run += 1;
                let mut tables = RunTables::open(&transaction, builder.id())?;
                for (key, entry) in updates {
                    builder.push(&mut tables, &Row::new(*key, entry.as_ref()))?;
                }
                builder.finish(&mut tables)?
            };
            manifest.runs.extend(run.iter().map(|run| run.meta));
            // In the same transaction: a checkpoint ahead of its entries would hide keys from the next restore, and
            // their orders would be paid twice.
            write_manifest(&transaction, &manifest)?;
            transaction.commit()?;
            Ok(run)
        })?;
        self.runs.extend(written);
        self.manifest = manifest;
        Ok(())
    }

    /// Returns `true` if runs are to be merged.
    pub(crate) fn wants_merge(&self) -> bool {
        self.merge.is_some() || self.next_merge().is_some()
    }

    fn next_merge(&self) -> Option<std::ops::Range<usize>> {
        let mut period = i64::MIN;
        let mergeable = |run: &RunMeta| {
            // Recorded times rise from run to run, except where an earlier version has not recorded them so.
            period = period.max(self.period.map_or(0, |length| period_of(run.newest, length)));
            Mergeable {
                rows: run.rows,
                period,
            }
        };
        let runs: Vec<Mergeable> = self.manifest.runs.iter().map(mergeable).collect();
        runs_to_merge(&runs)
    }

    /// Goes on with a merge by one segment, or begins one. Returns `true` if it has ended, and the runs have changed.
    pub(crate) fn merge_step(&mut self) -> Result<bool, StoreError> {
        let mut merge = match self.merge.take() {
            Some(merge) => merge,
            None => match self.next_merge() {
                Some(range) => {
                    let id = self.manifest.next_run;
                    self.manifest.next_run += 1;
                    let has_oldest = range.start == 0;
                    match Merge::new(&self.manifest.runs[range], id, has_oldest) {
                        Some(merge) => merge,
                        None => return Ok(false),
                    }
                }
                None => return Ok(false),
            },
        };
        let ended = guarded("merging", &self.path, || {
            // Not durable: an unfinished run is not listed, and is removed when the file is opened again.
            let transaction = begin(&self.database, Durability::None)?;
            let ended = merge.step(&self.database, &transaction)?;
            transaction.commit()?;
            Ok(ended)
        })?;
        if ended {
            self.end_merge(merge)?;
        } else {
            self.merge = Some(merge);
        }
        Ok(ended)
    }

    /// Removes the runs of forgotten keys.
    pub(crate) fn forget(&mut self, forgotten: Forgotten) -> Result<(), StoreError> {
        let count = forgotten_runs(self.manifest.runs.iter(), forgotten);
        if count == 0 {
            return Ok(());
        }
        let mut manifest = self.manifest.clone();
        let removed: Vec<RunMeta> = manifest.runs.drain(..count).collect();
        let is_removed = |source: RunMeta| removed.iter().any(|run| run.id == source.id);
        // A merge that has begun with them would bring them back.
        let ended = self.merge.take_if(|merge| merge.sources().any(is_removed));
        guarded("forgetting", &self.path, || {
            let transaction = begin(&self.database, Durability::Immediate)?;
            write_manifest(&transaction, &manifest)?;
            let removed = removed.iter().map(|run| (run.id, run.segments));
            remove_runs(&transaction, removed.chain(ended.as_ref().map(Merge::written)))?;
            transaction.commit()?;
            Ok(())
        })?;
        self.runs.drain(..count);
        self.manifest = manifest;
        Ok(())
    }

    /// Puts the merged run into the place of its sources, in one durable transaction.
    fn end_merge(&mut self, merge: Merge) -> Result<(), StoreError> {
        let sources: Vec<RunMeta> = merge.sources().collect();
        let is_source = |run: &RunMeta| sources.iter().any(|source| source.id == run.id);
        // Runs written meanwhile are newer, and stand behind the sources.
        let start = self.manifest.runs.iter().position(is_source).unwrap_or_default();
        let mut manifest = self.manifest.clone();
        let merged = guarded("merging", &self.path, || {
            let transaction = begin(&self.database, Durability::Immediate)?;
            let merged = merge.finish(&transaction)?;
            let meta = merged.iter().map(|run| run.meta);
            manifest.runs.splice(start..start + sources.len(), meta);
            write_manifest(&transaction, &manifest)?;
            remove_runs(&transaction, sources.iter().map(|run| (run.id, run.segments)))?;
            transaction.commit()?;
            Ok(merged)
        })?;
        self.runs.splice(start..start + sources.len(), merged);
        self.manifest = manifest;
        Ok(())
    }
}

/// Returns the number of the oldest runs all of whose keys are forgotten.
pub(crate) fn forgotten_runs<'a>(
    runs: impl Iterator<Item = &'a RunMeta>,
    Forgotten { below, before }: Forgotten,
) -> usize {
    // Both: of another changelog, recreated since, the offset would mean nothing.
    runs.take_while(|run| run.end <= below && run.newest < before)
        .count()
}

/// Returns the number of the period of a time.
fn period_of(at: Timestamp, length: Duration) -> i64 {
    let milliseconds = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    at.0.div_euclid(milliseconds.max(1))
}

/// Returns `true` if a file is large, and most of it is space of runs that were removed.
fn is_mostly_free(path: &Path, manifest: &Manifest) -> bool {
    const LARGE: u64 = 64 << 20;
    // With the file's own trees, and the space that merges need, a block takes less than twice its length.
    let bytes_of_block = 2 * 4096;
    let blocks: u64 = manifest.runs.iter().map(|run| u64::from(run.blocks)).sum();
    std::fs::metadata(path).is_ok_and(|file| file.len() > LARGE && file.len() / 4 > blocks * bytes_of_block)
}

/// Begins a transaction.
fn begin(database: &Database, durability: Durability) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    // After a crash the file opens in milliseconds instead of being read as a whole. A crash falls back to a durable
    // commit, so that only those need it.
    transaction.set_quick_repair(matches!(durability, Durability::Immediate));
    Ok(transaction)
}

fn write_manifest(transaction: &WriteTransaction, manifest: &Manifest) -> Result<(), redb::Error> {
    transaction
        .open_table(MANIFEST)?
        .insert(MANIFEST_ROW, &*manifest.encode())?;
    Ok(())
}

/// Removes runs, of which these are the numbers and the numbers of segments.
fn remove_runs(
    transaction: &WriteTransaction,
    runs: impl Iterator<Item = (u64, u32)>,
) -> Result<(), redb::Error> {
    let mut indexes = transaction.open_table(INDEXES)?;
    for (id, segments) in runs {
        for segment in 0..segments {
            indexes.remove((id, segment))?;
        }
        let name = table_name(id);
        transaction.delete_table(TableDefinition::<u32, &[u8]>::new(&name))?;
    }
    Ok(())
}

/// Returns whether a file without a manifest has tables, as those of an earlier version of this crate do.
fn has_other_tables(transaction: &WriteTransaction) -> Result<bool, redb::Error> {
    Ok(transaction
        .list_tables()?
        .any(|table| table.name() != MANIFEST.name()))
}

/// Removes what an interrupted merge has left.
fn remove_unlisted(transaction: &WriteTransaction, manifest: &Manifest) -> Result<(), redb::Error> {
    let is_listed = |id: u64| manifest.runs.iter().any(|run| run.id == id);
    let names = manifest
        .runs
        .iter()
        .map(|run| table_name(run.id))
        .collect::<Vec<_>>();
    let is_kept =
        |name: &str| [MANIFEST.name(), INDEXES.name()].contains(&name) || names.iter().any(|n| n == name);
    let unlisted: Vec<_> = transaction
        .list_tables()?
        .filter(|table| !is_kept(table.name()))
        .collect();
    for table in unlisted {
        transaction.delete_table(table)?;
    }
    transaction
        .open_table(INDEXES)?
        .retain(|(run, _), _| is_listed(run))?;
    Ok(())
}

/// Reads the index of a run.
pub(crate) fn load(read: &ReadTransaction, meta: RunMeta) -> Result<Run, redb::Error> {
    let indexes = read.open_table(INDEXES)?;
    let segment = |number: u32| {
        let bytes = indexes.get((meta.id, number))?;
        let segment = bytes.and_then(|bytes| Segment::decode(bytes.value(), meta.id, number));
        segment.ok_or_else(|| {
            let place = Place {
                run: meta.id,
                number,
                kind: Kind::Index,
            };
            Damage(place).into()
        })
    };
    let segments = (0..meta.segments).map(segment);
    Ok(Run {
        meta,
        segments: segments.collect::<Result<_, redb::Error>>()?,
    })
}

pub(crate) fn manifest_damage() -> redb::Error {
    redb::Error::Corrupted("the manifest is not as it was written".into())
}
