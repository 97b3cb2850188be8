//! Scenario: the file of a store is damaged while it is closed. The store is then either intact, to the last
//! key, or rebuilt when it is opened, or says that it is damaged when the damage is read. It never says that a key
//! that it had is unknown.

use std::fs;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};
use store::{Identity, Opened, Options, Store, StoreError, StoreWriter};

const KEYS: i64 = 3000;
/// Number of batches in which they are written.
const BATCHES: i64 = 6;
const DAMAGES: usize = 200;

/// A key, long enough that most pages hold keys.
fn key(number: i64) -> IdempotencyKey {
    IdempotencyKey::new(&format!("order-{number:032}")).expect("a key")
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

fn identity() -> Identity {
    Identity {
        changelog: "changelog".into(),
        partition: Partition(0),
        partitions: 1,
    }
}

fn open(path: &Path) -> Result<Opened, StoreError> {
    let options = Options {
        cache_bytes: 1 << 20,
        recent_max: 10_000,
        period: None,
    };
    let writer = StoreWriter::start().expect("a thread");
    Store::open(path, &identity(), options, &writer)
}

fn filled(path: &Path) {
    let mut store = open(path).expect("a new store").store;
    for batch in 0..BATCHES {
        let (from, end) = (batch * KEYS / BATCHES, (batch + 1) * KEYS / BATCHES);
        store
            .apply(
                (from..end).map(|number| (key(number), entry(number)).into()),
                Offset(end),
                None,
            )
            .expect("applied");
        store.persist().expect("persisted");
    }
}

/// Damages a file in one of the ways in which disks, copies and people do, and says which.
fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) -> String {
    let length = bytes.len();
    let at = random.random_range(0..length);
    match random.random_range(0..7) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            bytes.truncate(length / 2);
            "cut in half".into()
        }
        2 => {
            let end = (at + random.random_range(1..20_000)).min(length);
            bytes[at..end].fill(0);
            format!("zeroes from {at} to {end}")
        }
        3 => {
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} turned")
        }
        4 => {
            let end = (at + random.random_range(1..200)).min(length);
            random.fill(&mut bytes[at..end]);
            format!("noise from {at} to {end}")
        }
        5 => {
            let (from, to) = (at / 4096 * 4096, random.random_range(0..length / 4096) * 4096);
            bytes.copy_within(from..from + 4096, to);
            format!("the page at {from} over the one at {to}")
        }
        _ => {
            let more = random.random_range(1..10_000);
            bytes.extend(std::iter::repeat_n(0x5a, more));
            format!("{more} bytes more")
        }
    }
}

/// State of a damaged store after it was opened, and each key was looked up.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Rebuilt,
    Intact,
    /// An error proves the damage: a validator rebuilds the store.
    Damaged,
    Wrong(String),
}

fn inspect(path: &Path) -> Found {
    let opened = match open(path) {
        Ok(opened) => opened,
        Err(error) => return Found::Wrong(error.to_string()),
    };
    let checkpoint = opened.store.checkpoint();
    if opened.rebuild_reason.is_some() || checkpoint.is_none() {
        assert_eq!(
            (checkpoint, opened.store.len()),
            (None, 0),
            "a rebuilt store is empty"
        );
        return Found::Rebuilt;
    }
    // An earlier state of the file is one of the changelog, too.
    let Some(Offset(checkpoint)) = checkpoint.filter(|at| at.0 % (KEYS / BATCHES) == 0) else {
        return Found::Wrong(format!("the checkpoint is {checkpoint:?}"));
    };
    let mut found = Found::Intact;
    for number in 0..checkpoint {
        match opened.store.get(&key(number)) {
            Ok(Some(found)) if found == entry(number) => {}
            Ok(other) => return Found::Wrong(format!("key {number}: {other:?}")),
            Err(error) if error.is_corruption() => found = Found::Damaged,
            Err(error) => return Found::Wrong(error.to_string()),
        }
    }
    found
}

#[test]
fn damage_never_hides_a_key() {
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED"));
    println!("SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    filled(&path);
    let sound = fs::read(&path).expect("the file");
    let mut found = Vec::new();
    for _ in 0..DAMAGES {
        let mut bytes = sound.clone();
        let what = damage(&mut bytes, &mut random);
        fs::write(&path, bytes).expect("damaged");
        let state = inspect(&path);
        assert!(!matches!(state, Found::Wrong(_)), "{what}: {state:?}");
        found.push(state);
    }
    let count = |wanted: &Found| found.iter().filter(|found| *found == wanted).count();
    let [rebuilt, intact, damaged] = [Found::Rebuilt, Found::Intact, Found::Damaged].map(|of| count(&of));
    println!("rebuilt {rebuilt}, intact {intact}, damaged {damaged}");
    assert!(rebuilt > 0 && intact > 0 && damaged > 0, "not all cases were met");
}
