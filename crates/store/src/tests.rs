//! Scenario: a store is written, closed and opened again, by its owner and by others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, KeyHash, Offset, Partition, Timestamp};
use redb::TableDefinition;

use crate::{Identity, Opened, Options, ReadOnlyStore, Store, StoreError, StoreUpdate, StoreWriter};

/// Number of updates at which they are written.
const RECENT_MAX: usize = 100;

const OPTIONS: Options = Options {
    cache_bytes: 1 << 20,
    recent_max: RECENT_MAX,
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
    store.apply(updates, Offset(7)).expect("applied");
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
        .apply([update("a", Some(entry(1)))], Offset(3))
        .expect("applied");
    assert_eq!(store.get(&key("a")).expect("read"), Some(entry(1)));
    drop(store);
    assert_eq!(written(&path), 0, "few are not written at once");

    let mut store = open(&path, 0).store;
    assert_eq!(store.checkpoint(), None, "nor is their checkpoint");
    let many = (0..RECENT_MAX).map(|n| update(&format!("k{n}"), Some(entry(2))));
    store.apply(many, Offset(9)).expect("applied");
    for n in 0..RECENT_MAX {
        let found = store.get(&key(&format!("k{n}"))).expect("read");
        assert_eq!(found, Some(entry(2)), "while it is written");
    }
    store
        .apply([update("b", Some(entry(4)))], Offset(11))
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
        .apply([update("a", Some(entry(1)))], Offset(3))
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
        store.apply(updates, Offset((run + 1) * KEYS)).expect("applied");
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
        store.apply(updates, Offset(round)).expect("applied");
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
        .apply([update("a", Some(entry(1)))], Offset(7))
        .expect("applied");
    let refused = store.apply([update("b", Some(entry(2)))], Offset(6));
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
        .apply([update("c", Some(entry(3)))], Offset(7))
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
        .apply([update("a", Some(entry(1)))], Offset(1))
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
