//! `state verify`: compares the stores of a stopped validator with the changelog, and the changelog with the outbox.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use comfy_table::Table;
use kafka::admin::Admin;
use kafka::changelog::ChangelogReader;
use pipeline::admission::store_comparison::{self, Buckets, Difference, Differences, KeyName, Sketch};
use records::{Bounds, Entry, KeyHash, Offset, Partition};
use serde::Serialize;
use store::{
    Identity, InspectedDirectory, Options, ReadOnlyStore, Store, StoreError, StoreFile, StoreWriter,
};
use tempfile::NamedTempFile;

use super::comparison::{self, Compared, Comparison};
use super::forgotten_offsets::ForgottenOffsets;
use super::inspect::CACHE_BYTES;
use super::partitions;
use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT};
use crate::cli::VerifyState;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::progress::Progress;
use crate::tables::{cell, new_table};

/// Maximum number of keys that are kept in memory at a time: some 100 MB.
const KEYS_MAX: u64 = 500_000;

/// Number of updates that a store takes in memory: none is made here.
const RECENT_MAX: usize = 1;

/// Field names are those of the JSON output, as in the types below.
#[derive(Debug, Serialize)]
struct Verified {
    dir: String,
    stores: Vec<Shown>,
    /// Comparison of the changelog with the outbox.
    changelog: Vec<Compared>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Shown {
    partition: Partition,
    state: State,
    /// Reason for which the store cannot be compared.
    reason: Option<String>,
    keys: u64,
    checkpoint: Option<Offset>,
    /// Number of keys that the store lacks: their orders would be admitted again.
    missing: u64,
    /// Number of keys that the changelog lacks.
    extra: u64,
    /// Number of keys whose entries differ.
    other: u64,
    /// First of these keys.
    differences: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Named {
    key: String,
    difference: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Equal to the changelog up to its checkpoint.
    Equal,
    Differs,
    /// Of another changelog, or damaged, or ahead of the changelog: a validator does not trust it.
    NotComparable,
}

impl Shown {
    fn new(partition: Partition, keys: u64, checkpoint: Option<Offset>, of: Differences) -> Self {
        let state = match of.count() {
            0 => State::Equal,
            _ => State::Differs,
        };
        Self {
            partition,
            state,
            reason: None,
            keys,
            checkpoint,
            missing: of.missing,
            extra: of.extra,
            other: of.other,
            differences: of
                .named
                .into_iter()
                .map(|(name, difference)| Named {
                    key: match name {
                        KeyName::Key(key) => String::from_utf8_lossy(&key).into_owned(),
                        KeyName::Hash(hash) => format!("the key with the hash {hash}"),
                    },
                    difference: match difference {
                        Difference::Missing => "missing",
                        Difference::Extra => "extra",
                        Difference::Other => "other",
                    },
                })
                .collect(),
        }
    }

    fn not_comparable(partition: Partition, reason: String) -> Self {
        Self {
            state: State::NotComparable,
            reason: Some(reason),
            ..Self::new(partition, 0, None, Differences::default())
        }
    }
}

/// Compares stores with the changelog.
struct Verification<'a> {
    reader: ChangelogReader,
    changelog: &'a str,
    partitions: usize,
    limit: usize,
    progress: Progress,
    forgotten: ForgottenOffsets,
}

pub(super) fn run(options: &VerifyState, config: &Config, json: bool) -> anyhow::Result<Status> {
    let (topics, settings) = (&config.topics, config.connection_as(&options.validators));
    let directory = InspectedDirectory::open(&options.dir)?;
    if directory.is_in_use {
        bail!(
            "a running validator has locked {}: stop it first. `outbox state inspect` shows what can be seen meanwhile",
            options.dir.display()
        );
    }
    let is_chosen =
        |partition: &Partition| options.partition.is_empty() || options.partition.contains(&partition.0);
    let files: Vec<_> = directory
        .stores
        .iter()
        .filter(|file| is_chosen(&file.partition))
        .collect();
    ensure!(
        !files.is_empty(),
        "{} has no store of these partitions: it is not the state directory of a validator that has owned them",
        options.dir.display()
    );
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let (all, changelog) = partitions(&admin, topics)?;
    let id_was = directory.ids.get(&topics.changelog);
    let recreated = id_was.filter(|was| !changelog.id.is_empty() && **was != changelog.id);

    let mut verification = Verification {
        reader: ChangelogReader::open(&settings, &topics.changelog)?,
        changelog: &topics.changelog,
        partitions: all.len(),
        limit: options.limit,
        progress: Progress::new(),
        forgotten: ForgottenOffsets::read(&settings, topics, &all, &changelog)?,
    };
    let mut stores = Vec::new();
    for file in files {
        stores.push(match recreated {
            Some(was) => Shown::not_comparable(
                file.partition,
                format!(
                    "the changelog was deleted and created again: the store is of the one with the id {was}, and its id \
                     is {} now",
                    changelog.id
                ),
            ),
            None => verification.verify(file)?,
        });
    }
    verification.progress.finish();
    let chosen: Vec<_> = all.into_iter().filter(is_chosen).collect();
    let outbox = Comparison {
        reader: verification.reader,
        topics,
        amount: config.order.amount(),
        fingerprint: &config.validator.fingerprint,
        forgotten: verification.forgotten,
    };
    let verified = Verified {
        dir: options.dir.display().to_string(),
        stores,
        changelog: outbox.compare_all(&chosen)?,
    };
    let status = verified.status();
    if json {
        print_json(&verified)?;
    } else {
        print(&verified);
    }
    Ok(status)
}

impl Verification<'_> {
    fn verify(&mut self, file: &StoreFile) -> anyhow::Result<Shown> {
        let partition = file.partition;
        let identity = Identity {
            changelog: self.changelog.to_owned(),
            partition,
            partitions: self.partitions,
        };
        // Kept until the store was read.
        let copy;
        let opened = match ReadOnlyStore::open(&file.path, CACHE_BYTES) {
            Err(error) if error.needs_repair() => {
                copy = repaired_copy(&file.path, &identity)?;
                match &copy {
                    Ok(copy) => ReadOnlyStore::open(copy.path(), CACHE_BYTES),
                    Err(reason) => return Ok(Shown::not_comparable(partition, reason.clone())),
                }
            }
            opened => opened,
        };
        let store = match opened {
            Ok(store) => store,
            Err(error) => return unreadable(partition, error),
        };
        let expected = identity.text();
        if store.identity() != expected {
            let reason = format!("it is a store of {}, and {expected} is wanted", store.identity());
            return Ok(Shown::not_comparable(partition, reason));
        }
        let bounds = self.reader.bounds(partition, REQUEST_TIMEOUT)?;
        let checkpoint = store.checkpoint();
        if let Some(checkpoint) = checkpoint.filter(|checkpoint| *checkpoint > bounds.end) {
            let reason = format!(
                "its checkpoint {checkpoint} is behind the end {} of the changelog, which has lost its end",
                bounds.end
            );
            return Ok(Shown::not_comparable(partition, reason));
        }
        match self.compare(&store, partition, bounds, checkpoint) {
            Ok(differences) => Ok(Shown::new(partition, store.keys(), checkpoint, differences)),
            // Damage that only shows when the pages are read.
            Err(error) => match error.downcast::<StoreError>() {
                Ok(error) => unreadable(partition, error),
                Err(error) => Err(error),
            },
        }
    }

    fn compare(
        &mut self,
        store: &ReadOnlyStore,
        partition: Partition,
        bounds: Bounds,
        checkpoint: Option<Offset>,
    ) -> anyhow::Result<Differences> {
        // Without a checkpoint nothing was restored yet.
        let checkpoint = checkpoint.unwrap_or(bounds.start);
        // Keys of earlier orders are forgotten: one of the two may have them still.
        let first = self
            .forgotten
            .first(&self.reader, self.changelog, partition, bounds)?;
        let bounds = Bounds {
            start: first.map_or(bounds.start, |first| first.offset),
            ..bounds
        };
        let from = first.map(|first| first.source);
        let (mut of_store, mut of_changelog) = (Sketch::default(), Sketch::default());
        store.for_each(|key, entry| {
            self.progress.read("the store");
            if is_of_order_from(Some(entry), from) {
                of_store.add(key, Some(entry));
            }
        })?;
        let below = Bounds {
            end: checkpoint.max(bounds.start),
            ..bounds
        };
        self.read(partition, below, |_, key, entry| {
            if is_of_order_from(entry, from) {
                of_changelog.add(KeyHash::of(key), entry);
            }
        })?;
        let mut differences = Differences::new(self.limit);
        for buckets in of_store.differing(&of_changelog, KEYS_MAX) {
            let compared = (bounds, checkpoint, from);
            self.compare_buckets(store, partition, compared, &buckets, &mut differences)?;
        }
        Ok(differences)
    }

    fn compare_buckets(
        &mut self,
        store: &ReadOnlyStore,
        partition: Partition,
        (bounds, checkpoint, from): (Bounds, Offset, Option<Offset>),
        buckets: &Buckets,
        differences: &mut Differences,
    ) -> anyhow::Result<()> {
        let mut comparison = store_comparison::Comparison::new(buckets);
        store.for_each(|key, entry| {
            self.progress.read("the store");
            if is_of_order_from(Some(entry), from) {
                comparison.store_entry(key, entry);
            }
        })?;
        self.read(partition, bounds, |offset, key, entry| {
            if !is_of_order_from(entry, from) {
                return;
            }
            if offset < checkpoint {
                comparison.changelog_record(key, entry);
            } else {
                comparison.later_record(key);
            }
        })?;
        comparison.finish(differences);
        Ok(())
    }

    fn read(
        &mut self,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(Offset, &[u8], Option<&[u8]>),
    ) -> anyhow::Result<()> {
        let Self {
            reader,
            changelog,
            progress,
            ..
        } = self;
        comparison::read(reader, changelog, partition, bounds, |record| {
            progress.read(changelog);
            sink(record.offset, record.key, record.value);
            Ok(())
        })
    }
}

/// Returns `false` for the entry of an order before this offset. Tombstones, and what cannot be read, count. Without an
/// offset nothing is forgotten and each entry counts, also those of keys that were moved, whose order is on no partition.
fn is_of_order_from(entry: Option<&[u8]>, from: Option<Offset>) -> bool {
    let Some(from) = from else { return true };
    entry
        .and_then(|entry| Entry::decode(entry).ok())
        .is_none_or(|entry| entry.source >= from)
}

/// Returns a store that cannot be compared because it is damaged.
///
/// # Errors
/// It may be sound, and cannot be read.
fn unreadable(partition: Partition, error: StoreError) -> anyhow::Result<Shown> {
    if error.is_corruption() {
        return Ok(Shown::not_comparable(partition, error.to_string()));
    }
    Err(error.into())
}

/// Copies a store that was not closed, and opens the copy as a validator does, which repairs it. Returns the reason if
/// a validator would not trust it.
fn repaired_copy(path: &Path, identity: &Identity) -> anyhow::Result<Result<NamedTempFile, String>> {
    let copy = NamedTempFile::new().context("creating a temporary file for a copy of a store (TMPDIR)")?;
    fs::copy(path, copy.path()).with_context(|| {
        format!(
            "copying {}, which was not closed, to the temporary file {} (TMPDIR)",
            path.display(),
            copy.path().display()
        )
    })?;
    let options = Options {
        cache_bytes: CACHE_BYTES,
        recent_max: RECENT_MAX,
        period: None,
    };
    let writer = StoreWriter::start().context("starting the thread that writes a store")?;
    let opened = Store::open(copy.path(), identity, options, &writer)?;
    Ok(match opened.rebuild_reason {
        None => Ok(copy),
        Some(reason) => Err(reason),
    })
}

impl Verified {
    fn status(&self) -> Status {
        let is_equal = self.stores.iter().all(|store| store.state == State::Equal);
        let is_complete = |of: &Compared| of.missing == 0 && of.gap.is_none();
        if is_equal && self.changelog.iter().all(is_complete) {
            Status::Ok
        } else {
            Status::Problem
        }
    }
}

fn print(verified: &Verified) {
    println!("{}", table(&verified.stores));
    for store in &verified.stores {
        if let Some(reason) = &store.reason {
            println!("partition {}: {reason}", store.partition);
        }
        for Named { key, difference } in &store.differences {
            println!(
                "partition {}: {} is {}",
                store.partition,
                cell(key),
                match *difference {
                    "missing" => "in the changelog and not in the store",
                    "extra" => "in the store and not in the changelog",
                    _ => "in both, with another entry",
                }
            );
        }
        let named = u64::try_from(store.differences.len()).unwrap_or_default();
        let more = store.missing + store.extra + store.other - named;
        if more > 0 {
            println!("partition {}: {more} more differ (--limit)", store.partition);
        }
    }
    println!(
        "Changelog and outbox:\n{}",
        comparison::table(&verified.changelog)
    );
    match verified.status() {
        Status::Ok => println!("The stores are equal to the changelog, and it has each key of the outbox."),
        Status::Problem => println!(
            "Keep {} until the cause is clear. A store that differs is restored from the changelog if it is removed \
             before the validator starts; what the changelog lacks is appended by `outbox state rebuild`.",
            verified.dir
        ),
    }
}

fn table(stores: &[Shown]) -> Table {
    let mut table = new_table([
        "partition",
        "state",
        "keys",
        "checkpoint",
        "missing",
        "extra",
        "other entry",
    ]);
    for store in stores {
        table.add_row([
            store.partition.to_string(),
            match store.state {
                State::Equal => "equal",
                State::Differs => "differs",
                State::NotComparable => "not comparable",
            }
            .to_owned(),
            store.keys.to_string(),
            store
                .checkpoint
                .map_or("-".into(), |checkpoint| checkpoint.to_string()),
            store.missing.to_string(),
            store.extra.to_string(),
            store.other.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use records::entry::Status as EntryStatus;
    use records::fingerprint::SelectionId;
    use records::{Fingerprint, Timestamp};

    use super::*;

    fn verified(store: Shown, missing: u64) -> Verified {
        Verified {
            dir: "state".into(),
            stores: vec![store],
            changelog: vec![Compared {
                partition: Partition(1),
                keys: 9,
                missing,
                gap: None,
            }],
        }
    }

    #[test]
    fn json_field_names_are_stable() {
        let mut differences = Differences::new(1);
        differences.missing = 2;
        differences
            .named
            .insert(KeyName::Key(b"order-17"[..].into()), Difference::Missing);
        let verified = verified(Shown::new(Partition(1), 7, Some(Offset(9)), differences), 0);
        let expected = serde_json::json!({"dir": "state", "stores": [{"partition": 1, "state": "differs",
            "reason": null, "keys": 7, "checkpoint": 9, "missing": 2, "extra": 0, "other": 0,
            "differences": [{"key": "order-17", "difference": "missing"}]}],
            "changelog": [{"partition": 1, "keys": 9, "missing": 0, "gap": null}]});
        assert_eq!(serde_json::to_value(&verified).expect("JSON"), expected);
        assert!(table(&verified.stores).to_string().contains("differs"));
        assert_eq!(verified.status(), Status::Problem);
    }

    #[test]
    fn differences_and_lost_keys_are_problems() {
        let equal = || Shown::new(Partition(1), 7, None, Differences::default());
        assert_eq!(verified(equal(), 0).status(), Status::Ok);
        assert_eq!(verified(equal(), 1).status(), Status::Problem);
        let damaged = Shown::not_comparable(Partition(1), "a page".into());
        assert_eq!(verified(damaged, 0).status(), Status::Problem);
    }

    #[test]
    fn keys_that_were_moved_are_compared() {
        let entry = |source| {
            let entry = Entry {
                status: EntryStatus::Pending,
                selection: SelectionId::Order,
                fingerprint: Fingerprint::of(b"order"),
                admitted_at: Timestamp(0),
                source,
            };
            entry.encode()
        };
        let counts = |source, from| is_of_order_from(Some(&entry(source)), from);
        assert!(counts(Entry::MOVED, None) && counts(Offset(0), None));
        assert!(counts(Offset(5), Some(Offset(5))) && !counts(Offset(4), Some(Offset(5))));
        assert!(is_of_order_from(None, Some(Offset(5))), "a tombstone");
    }

    #[test]
    fn store_of_another_changelog_is_not_copied() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.redb");
        let identity = |changelog: &str| Identity {
            changelog: changelog.into(),
            partition: Partition(0),
            partitions: 3,
        };
        let options = Options {
            cache_bytes: 1 << 20,
            recent_max: RECENT_MAX,
            period: None,
        };
        let writer = StoreWriter::start().expect("a thread");
        drop(Store::open(&path, &identity("one"), options, &writer).expect("a store"));
        let copy = repaired_copy(&path, &identity("one"))
            .expect("copied")
            .expect("trusted");
        assert!(ReadOnlyStore::open(copy.path(), 1 << 20).is_ok());
        let reason = repaired_copy(&path, &identity("two"))
            .expect("copied")
            .expect_err("another");
        assert!(reason.contains("one") && reason.contains("two"), "{reason}");
        assert!(path.exists());
    }
}
