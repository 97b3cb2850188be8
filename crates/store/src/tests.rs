//! Scenario: a store is written, closed and opened again, by its owner and by others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, Forgotten, IdempotencyKey, KeyHash, Offset, Partition, Timestamp};
use redb::TableDefinition;

use crate::{Identity, Opened, Options, ReadOnlyStore, Store, StoreError, StoreUpdate, StoreWriter};

/// Number of updates at which they are written.
const RECENT_MAX: usize = 100;

const OPTIONS: Options = Options {
    cache_bytes: 1 << 20,
    recent_max: RECENT_MAX,
    period: None,
};

fn identity(partition: i32) -> Identity {
    Identity {
        changelog: "changelog".into(),
        partition: Partition(partition),
        partitions: 4,
    }
}

pub(crate) fn entry(source: i64) -> Entry {
    Entry {
        status: Status::Pending,
        selection: SelectionId::Order,
        fingerprint: Fingerprint::of(&source.to_be_bytes()),
        admitted_at: Timestamp(1),
        source: Offset(source),
    }
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text).expect("a key")
}

pub(crate) fn update(key: &str, entry: Option<Entry>) -> StoreUpdate {
    StoreUpdate::new(key.as_bytes(), entry)
}

pub(crate) fn writer() -> StoreWriter {
    StoreWriter::start().expect("a thread")
}

pub(crate) fn open(path: &Path, partition: i32) -> Opened {
    Store::open(path, &identity(partition), OPTIONS, &writer()).expect("a store")
}

#[test]
fn persisted_updates_survive_reopening() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    assert_eq!(store.checkpoint(), None);
    let updates = [
        update("b", Some(entry(1))),
        update("a", Some(entry(2))),
        update("b", None),
    ];
    store.apply(updates, Offset(7), None).expect("applied");
    store.persist().expect("persisted");
    drop(store);

    let Opened {
        store,
        rebuild_reason,
    } = open(&path, 0);
    assert_eq!(rebuild_reason, None);
    assert_eq!(store.checkpoint(), Some(Offset(7)));
    assert_eq!(store.get(&key("a")).expect("read"), Some(entry(2)));
    assert_eq!(
        store.get(&key("b")).expect("read"),
        None,
        "the last update of a key counts"
    );
    assert_eq!(
        store.len(),
        2,
        "a row that removes its key is counted until it is merged"
    );
}

/// Returns the number of entries in the file of a store that is closed.
fn written(path: &Path) -> usize {
    let store = ReadOnlyStore::open(path, 1 << 20).expect("a store");
    let mut entries = 0;
    store.for_each(|_, _| entries += 1).expect("read");
    entries
}

#[test]
fn applied_update_is_readable_before_it_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    store
        .apply([update("a", Some(entry(1)))], Offset(3), None)
        .expect("applied");
    assert_eq!(store.get(&key("a")).expect("read"), Some(entry(1)));
    drop(store);
    assert_eq!(written(&path), 0, "few are not written at once");

    let mut store = open(&path, 0).store;
    assert_eq!(store.checkpoint(), None, "nor is their checkpoint");
    let many = (0..RECENT_MAX).map(|n| update(&format!("k{n}"), Some(entry(2))));
    store.apply(many, Offset(9), None).expect("applied");
    for n in 0..RECENT_MAX {
        let found = store.get(&key(&format!("k{n}"))).expect("read");
        assert_eq!(found, Some(entry(2)), "while it is written");
    }
    store
        .apply([update("b", Some(entry(4)))], Offset(11), None)
        .expect("applied");
    assert_eq!(store.len(), 1 + RECENT_MAX as u64);
    store.await_batch().expect("written");
    drop(store);
    assert_eq!(written(&path), RECENT_MAX, "written when there are many");
    assert_eq!(open(&path, 0).store.checkpoint(), Some(Offset(9)));
}

#[test]
fn updates_are_written_in_the_background() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    store
        .apply([update("a", Some(entry(1)))], Offset(3), None)
        .expect("applied");
    store.start_persist().expect("begun");
    // Nothing waits for it; closing the store waits for what has begun to be written.
    store.persist().expect("written");
    drop(store);
    assert_eq!(
        (written(&path), open(&path, 0).store.checkpoint()),
        (1, Some(Offset(3)))
    );
}

/// More rows than a segment has, and a merge of such runs.
#[test]
fn runs_of_many_segments_are_merged() {
    const KEYS: i64 = 90_000;
    const RUNS: i64 = 4;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    for run in 0..RUNS {
        let numbers = run * KEYS..(run + 1) * KEYS;
        let updates = numbers.map(|n| update(&n.to_string(), Some(entry(n))));
        store
            .apply(updates, Offset((run + 1) * KEYS), None)
            .expect("applied");
        store.persist().expect("written");
    }
    let end = RUNS * KEYS;
    for n in (0..end).step_by(7) {
        assert_eq!(store.get(&key(&n.to_string())).expect("read"), Some(entry(n)));
        assert_eq!(store.get(&key(&(end + n).to_string())).expect("read"), None);
    }
    drop(store);
    assert_eq!(written(&path) as i64, end);
    let store = open(&path, 0).store;
    assert_eq!((store.len() as i64, store.checkpoint()), (end, Some(Offset(end))));
}

/// Many batches, so that runs are merged several times: the store is compared with a map.
#[test]
fn merged_runs_have_the_last_update_of_each_key() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED"));
    println!("SEED={seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut expected: BTreeMap<u32, Option<Entry>> = BTreeMap::new();
    let mut store = open(&path, 0).store;
    for round in 0..300 {
        let updates: Vec<_> = (0..random.random_range(1..2 * RECENT_MAX))
            .map(|_| {
                let entry = random
                    .random_ratio(7, 8)
                    .then(|| entry(random.random_range(0..1 << 40)));
                (random.random_range(0..20_000), entry)
            })
            .collect();
        expected.extend(updates.iter().copied());
        let updates = updates
            .iter()
            .map(|(number, entry)| update(&format!("key-{number}"), *entry));
        store.apply(updates, Offset(round), None).expect("applied");
        if random.random_ratio(1, 20) {
            if random.random() {
                store.persist().expect("persisted");
            } else {
                // Closed while runs are merged.
                store.persist().expect("persisted");
                drop(store);
                store = open(&path, 0).store;
                assert_eq!(store.checkpoint(), Some(Offset(round)));
            }
        }
        for _ in 0..50 {
            let number = random.random_range(0..20_000);
            let found = store.get(&key(&format!("key-{number}"))).expect("read");
            assert_eq!(
                found,
                expected.get(&number).copied().flatten(),
                "key {number}, round {round}"
            );
        }
    }
    for (number, entry) in &expected {
        assert_eq!(store.get(&key(&format!("key-{number}"))).expect("read"), *entry);
    }
    store.persist().expect("persisted");
    drop(store);
    let mut in_file = BTreeMap::new();
    let read = ReadOnlyStore::open(&path, 1 << 20).expect("a store");
    read.for_each(|key, entry| {
        in_file.insert(key, Entry::decode(entry).expect("an entry"));
    })
    .expect("read");
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .filter_map(|(number, entry)| Some((KeyHash::of(format!("key-{number}").as_bytes()), entry?)))
        .collect();
    assert!(in_file == expected, "{} and {}", in_file.len(), expected.len());
}

/// Period of recorded time in which keys are kept and forgotten together.
const PERIOD: i64 = 1_000;

fn open_with_periods(path: &Path) -> Store {
    let options = Options {
        period: Some(Duration::from_millis(PERIOD.cast_unsigned())),
        ..OPTIONS
    };
    Store::open(path, &identity(0), options, &writer())
        .expect("a store")
        .store
}

/// Waits until the writer has removed all keys but so many.
fn await_keys(store: &mut Store, kept: u64) {
    while store.len() > kept {
        store.persist().expect("persisted");
        std::thread::yield_now();
    }
}

/// Keys are forgotten while runs are merged and written, and the store is closed between; it is compared with a map of
/// the recorded times.
#[test]
fn only_keys_before_the_cutoff_are_forgotten() {
    const WINDOW: i64 = 6 * PERIOD;
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED"));
    println!("SEED={seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open_with_periods(&path);
    // Recorded time of each key, and the changelog offset behind its record.
    let mut keys: Vec<(i64, i64)> = Vec::new();
    let (mut newest, mut removed_max) = (0, 0);
    let mut forgotten: Option<Forgotten> = None;
    for _ in 0..600 {
        newest += random.random_range(0..PERIOD / 5);
        let from = keys.len();
        let count = from + random.random_range(1..RECENT_MAX);
        let end = count as i64;
        let updates = (from as i64..end).map(|n| update(&n.to_string(), Some(entry(n))));
        store
            .apply(updates, Offset(end), Some(Timestamp(newest)))
            .expect("applied");
        keys.resize(count, (newest, end));
        assert_eq!(store.newest(), Some(Timestamp(newest)));
        match random.random_range(0..10) {
            0 => store.persist().expect("persisted"),
            1 => {
                store.persist().expect("persisted");
                drop(store);
                store = open_with_periods(&path);
                assert_eq!(store.newest(), Some(Timestamp(newest)), "opened again");
            }
            2 | 3 => {
                let cutoff = Timestamp(newest - WINDOW);
                if let Some(new) = store.forgettable(cutoff) {
                    assert!(new.before <= cutoff, "{new:?}");
                    // A prefix of the changelog: of two keys that were recorded at one time, one may be kept.
                    let (below, above): (Vec<_>, Vec<_>) =
                        keys.iter().partition(|(_, end)| *end <= new.below.0);
                    assert!(below.iter().all(|(recorded, _)| *recorded < new.before.0));
                    assert!(above.iter().all(|(recorded, _)| *recorded >= new.before.0 - 1));
                    store.forget(new).expect("no failure");
                    forgotten = Some(new);
                    removed_max = removed_max.max(new.below.0);
                }
            }
            _ => {}
        }
        let before = forgotten.map_or(0, |forgotten| forgotten.before.0);
        for _ in 0..50 {
            let n = random.random_range(0..keys.len());
            let found = store.get(&key(&n.to_string())).expect("read");
            // One that is forgotten may still be there: it is removed in the background.
            if keys[n].0 >= before || found.is_some() {
                assert_eq!(found, Some(entry(n as i64)), "key {n} of {:?}", keys[n]);
            }
        }
    }
    assert!(
        removed_max > keys.len() as i64 / 2,
        "{removed_max} of {}",
        keys.len()
    );
    store.persist().expect("persisted");
    forgotten = store.forgettable(Timestamp(newest - WINDOW)).or(forgotten);
    let forgotten = forgotten.expect("some keys");
    store.forget(forgotten).expect("no failure");
    let kept = keys.len() as u64 - forgotten.below.0.cast_unsigned();
    await_keys(&mut store, kept);
    drop(store);
    assert_eq!(written(&path) as u64, kept, "nothing brings a forgotten key back");
    let store = open_with_periods(&path);
    let oldest = store.oldest().expect("a key").0;
    assert!(oldest >= newest - WINDOW - 2 * PERIOD, "{oldest} of {newest}");
}

#[test]
fn what_another_log_has_forgotten_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open_with_periods(&path);
    for n in 1..4 {
        store
            .apply(
                [update(&n.to_string(), Some(entry(n)))],
                Offset(n),
                Some(Timestamp(n * PERIOD)),
            )
            .expect("applied");
        store.persist().expect("persisted");
    }
    let forgotten = |below, before| Forgotten {
        below: Offset(below),
        before: Timestamp(before),
    };
    assert_eq!(store.forgettable(Timestamp(PERIOD)), None, "not before it");
    assert_eq!(
        store.forgettable(Timestamp(PERIOD + 1)),
        Some(forgotten(1, PERIOD + 1))
    );
    // Offsets of a changelog that was longer, and then times that are older than all keys.
    store.forget(forgotten(9, 1)).expect("no failure");
    store.forget(forgotten(0, 9 * PERIOD)).expect("no failure");
    store.persist().expect("persisted");
    assert_eq!((store.len(), store.oldest()), (3, Some(Timestamp(PERIOD))));
    store.forget(forgotten(2, 9 * PERIOD)).expect("no failure");
    drop(store);
    // Closed before or after the writer came to it.
    let mut store = open_with_periods(&path);
    store.forget(forgotten(2, 9 * PERIOD)).expect("no failure");
    await_keys(&mut store, 1);
    assert_eq!(store.get(&key("3")).expect("read"), Some(entry(3)));
}

/// A file does not keep for ever the space of keys that were forgotten.
#[test]
fn emptied_file_is_compacted() {
    const KEYS: i64 = 1_200_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open_with_periods(&path);
    for (from, at) in [(0, 0), (KEYS, 9 * PERIOD)] {
        let numbers = from..if from == 0 { KEYS } else { KEYS + 10 };
        let end = Offset(numbers.end);
        let updates = numbers.map(|n| update(&n.to_string(), Some(entry(n))));
        store.apply(updates, end, Some(Timestamp(at))).expect("applied");
        store.persist().expect("persisted");
    }
    let large = store.file_bytes();
    let forgotten = store.forgettable(Timestamp(PERIOD)).expect("the first keys");
    store.forget(forgotten).expect("no failure");
    await_keys(&mut store, 10);
    drop(store);
    let store = open_with_periods(&path);
    let small = store.file_bytes();
    assert!(large > 64 << 20 && small < large / 8, "{large}, now {small}");
    assert_eq!(
        store.get(&key(&KEYS.to_string())).expect("read"),
        Some(entry(KEYS))
    );
    assert_eq!((store.len(), store.checkpoint()), (10, Some(Offset(KEYS + 10))));
}

#[test]
fn nothing_waits_for_a_writer_that_has_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = Store::open(&path, &identity(0), OPTIONS, &StoreWriter::ended())
        .expect("a store")
        .store;
    store
        .apply([update("a", Some(entry(1)))], Offset(1), None)
        .expect("applied");
    let failed = store.persist();
    assert!(matches!(failed, Err(StoreError::Failed { .. })), "{failed:?}");
    assert_eq!(store.get(&key("a")).expect("read"), Some(entry(1)));
}

#[test]
fn store_of_an_earlier_layout_is_rebuilt() {
    const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let database = redb::Database::create(&path).expect("a file");
    let transaction = database.begin_write().expect("begun");
    let mut table = transaction.open_table(ENTRIES).expect("a table");
    table.insert(&b"a"[..], &b"entry"[..]).expect("inserted");
    drop(table);
    transaction.commit().expect("committed");
    drop(database);
    let Opened {
        store,
        rebuild_reason,
    } = open(&path, 0);
    assert!(rebuild_reason.is_some_and(|why| why.contains("earlier layout")));
    assert_eq!((store.checkpoint(), store.len()), (None, 0));
}

#[test]
fn checkpoint_does_not_move_backwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    store
        .apply([update("a", Some(entry(1)))], Offset(7), None)
        .expect("applied");
    let refused = store.apply([update("b", Some(entry(2)))], Offset(6), None);
    assert!(
        matches!(
            refused,
            Err(StoreError::CheckpointBackwards {
                from: Offset(7),
                to: Offset(6),
                ..
            })
        ),
        "{refused:?}"
    );
    store
        .apply([update("c", Some(entry(3)))], Offset(7), None)
        .expect("keys of the same checkpoint");
    store.persist().expect("persisted");
    drop(store);
    let store = open(&path, 0).store;
    assert_eq!(store.checkpoint(), Some(Offset(7)));
    assert_eq!(store.get(&key("b")).expect("read"), None, "nothing was applied");
    assert_eq!(store.get(&key("c")).expect("read"), Some(entry(3)));
}

#[test]
fn foreign_or_damaged_store_is_rebuilt() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let mut store = open(&path, 0).store;
    store
        .apply([update("a", Some(entry(1)))], Offset(1), None)
        .expect("applied");
    store.persist().expect("persisted");
    drop(store);

    let other = open(&path, 1);
    assert!(
        other
            .rebuild_reason
            .is_some_and(|why| why.contains("changelog/0 of 4"))
    );
    assert_eq!((other.store.checkpoint(), other.store.len()), (None, 0));
    drop(other.store);

    fs::write(&path, vec![0x5a; 100_000]).expect("garbled");
    let rebuilt = open(&path, 1);
    assert!(rebuilt.rebuild_reason.is_some());
    assert_eq!(rebuilt.store.checkpoint(), None);
}

#[test]
fn store_in_use_is_not_rebuilt() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    let _held = open(&path, 0);
    assert!(Store::open(&path, &identity(0), OPTIONS, &writer()).is_err());
    assert!(path.exists());
}

#[test]
fn look_up_reads_a_block_for_a_known_key_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let mut store = open(&path, 0).store;
    let keys = |prefix: &str| (0..500).map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>();
    let updates: Vec<StoreUpdate> = keys("known")
        .iter()
        .map(|key| update(key, Some(entry(1))))
        .collect();
    store.apply(updates, Offset(500), None).expect("applied");
    store.persist().expect("written");
    let reads_of = |store: &Store, prefix: &str| {
        store.take_block_reads();
        for text in keys(prefix) {
            store.get(&key(&text)).expect("a look-up");
        }
        store.take_block_reads()
    };
    assert!((500..600).contains(&reads_of(&store, "known")));
    // The filters let through one in 65,536.
    assert!(reads_of(&store, "new") < 5);
}
