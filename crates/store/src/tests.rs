//! Scenario: a store is written, closed and opened again, by its owner and by others.

use std::fs;
use std::path::Path;

use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};

use crate::write::PENDING_MAX;
use crate::{Identity, Opened, Options, Store, StoreError, StoreUpdate};

const OPTIONS: Options = Options {
    cache_bytes: 1 << 20,
    verify: true,
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
    StoreUpdate {
        key: key.as_bytes().into(),
        entry,
    }
}

pub(crate) fn open(path: &Path, partition: i32) -> Opened {
    Store::open(path, &identity(partition), OPTIONS).expect("a store")
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
    assert_eq!(store.len().expect("counted"), 1);
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
    let before = (0..PENDING_MAX).map(|n| update(&format!("k{n}"), Some(entry(2))));
    store.apply(before, Offset(9)).expect("applied");
    assert_eq!(
        store.len().expect("counted"),
        1 + PENDING_MAX as u64,
        "pending and written keys are counted"
    );
    let mut written = 0;
    store.for_each(|_, _| written += 1).expect("read");
    assert_eq!(written, 1 + PENDING_MAX, "written when there are many");
    store
        .apply([update("b", Some(entry(4)))], Offset(11))
        .expect("applied");
    store.persist().expect("persisted");
    drop(store);
    let store = open(&path, 0).store;
    assert_eq!(
        (store.checkpoint(), store.get(&key("b")).expect("read")),
        (Some(Offset(11)), Some(entry(4)))
    );
}

#[test]
fn pending_updates_are_written_on_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open(&directory.path().join("0.redb"), 0).store;
    store
        .apply([update("a", Some(entry(1)))], Offset(3))
        .expect("applied");
    let written = |store: &Store| {
        let mut count = 0;
        store.for_each(|_, _| count += 1).expect("read");
        count
    };
    assert_eq!(written(&store), 0, "pending");
    store.write_pending().expect("written");
    assert_eq!((written(&store), store.checkpoint()), (1, Some(Offset(3))));
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
    assert_eq!(
        (other.store.checkpoint(), other.store.len().expect("counted")),
        (None, 0)
    );
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
    assert!(Store::open(&path, &identity(0), OPTIONS).is_err());
    assert!(path.exists());
}
