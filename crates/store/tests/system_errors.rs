//! Scenario: the operating system refuses file handles or space while a healthy store is in use. The store is
//! neither deleted nor emptied: once the cause is gone it has everything that was durable.

#![cfg(unix)]

use std::fs::File;
use std::path::Path;
use std::process::Command;

use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};
use store::{Identity, Opened, Options, Store, StoreError, StoreWriter};

const OPTIONS: Options = Options {
    cache_bytes: 1 << 20,
    recent_max: RECENT_MAX,
    period: None,
};
const CHILD: &str = "OUTBOX_STORE_SYSTEM_ERRORS_CHILD";
const KEYS: i64 = 100;
/// Number of updates at which they are written.
const RECENT_MAX: usize = 10_000;

fn identity() -> Identity {
    Identity {
        changelog: "changelog".into(),
        partition: Partition(0),
        partitions: 1,
    }
}

fn key(number: i64) -> IdempotencyKey {
    IdempotencyKey::new(&format!("order-{number}")).expect("a key")
}

fn entry(number: i64) -> Entry {
    Entry {
        status: Status::Pending,
        selection: SelectionId::Order,
        fingerprint: Fingerprint::of(&number.to_be_bytes()),
        admitted_at: Timestamp(number),
        source: Offset(number),
    }
}

fn writer() -> StoreWriter {
    StoreWriter::start().expect("a thread")
}

fn apply(store: &mut Store, from: i64, end: i64) -> Result<(), StoreError> {
    store.apply((from..end).map(|n| (key(n), entry(n)).into()), Offset(end), None)?;
    store.persist()
}

fn fill(path: &Path) {
    let mut store = Store::open(path, &identity(), OPTIONS, &writer())
        .expect("a store")
        .store;
    apply(&mut store, 0, KEYS).expect("applied");
}

fn assert_whole(path: &Path) {
    let Opened {
        store,
        rebuild_reason,
    } = Store::open(path, &identity(), OPTIONS, &writer()).expect("a store");
    assert_eq!(rebuild_reason, None);
    assert_eq!(store.checkpoint(), Some(Offset(KEYS)));
    for number in 0..KEYS {
        assert_eq!(store.get(&key(number)).expect("read"), Some(entry(number)));
    }
}

/// Runs the named test of this file again, in a process with limited resources. A signal of a limit is ignored,
/// so that the operation fails instead.
fn run_limited(test: &str, limit: &str, path: &Path) {
    let this = std::env::current_exe().expect("this test");
    let script =
        format!("trap '' XFSZ; ulimit {limit}; exec \"$0\" --exact {test} --nocapture --test-threads 1");
    let status = Command::new("sh")
        .args(["-c", &script])
        .arg(this)
        .env(CHILD, path)
        .status()
        .expect("a child");
    assert!(status.success(), "{status}");
}

#[test]
fn store_survives_missing_file_handles() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        // Its thread has no handle, and is there when the handles are gone.
        let writer = writer();
        let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let Err(error) = Store::open(path, &identity(), OPTIONS, &writer) else {
            panic!("opened without a file handle");
        };
        drop(held);
        assert!(!error.is_corruption(), "{error}");
        assert_whole(path);
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    fill(&path);
    run_limited("store_survives_missing_file_handles", "-n 64", &path);
    assert_whole(&path);
}

#[test]
fn store_survives_full_disk() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        let mut store = Store::open(path, &identity(), OPTIONS, &writer())
            .expect("a store")
            .store;
        // More than the limit of a file's size.
        let error = apply(&mut store, KEYS, KEYS + 200_000).expect_err("no space");
        assert!(!error.is_corruption(), "{error}");
        assert!(store.persist().is_err(), "not used any further");
        drop(store);
        let opened =
            Store::open(path, &identity(), OPTIONS, &writer()).expect("the store, still without space");
        assert_eq!(opened.rebuild_reason, None);
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    fill(&path);
    // In units of 512 or 1024 bytes, by the shell: more than the file has, less than the keys need.
    run_limited("store_survives_full_disk", "-f 8192", &path);
    assert_whole(&path);
}
