//! How a store of random keys behaves as it grows: cost of a written key, time of a look-up, memory and size of the file.
//!
//!     cargo bench -p store --bench growth -- [KEYS]
//!
//! One store is filled with KEYS keys (4,000,000 by default), as a validator under backlog does. CPU time is that of the
//! whole process, with merges and the hashing of the keys.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};
use store::{Identity, Options, Store, StoreUpdate, StoreWriter};

const KEYS: u64 = 4_000_000;
/// Keys of a transaction of a validator under backlog, of one of its partitions.
const BATCH: u64 = 2_000;
const LOOK_UPS: u64 = 100_000;
const OPTIONS: Options = Options {
    cache_bytes: 32 << 20,
    recent_max: 1 << 17,
    period: None,
};

fn key(number: u64) -> IdempotencyKey {
    // As random as a UUID, and made again from its number.
    let first = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number << 17);
    IdempotencyKey::new(&format!("{first:016x}-{number:015x}")).expect("a key")
}

fn entry(number: u64) -> Entry {
    Entry {
        status: Status::Pending,
        selection: SelectionId::Order,
        fingerprint: Fingerprint([7; 16]),
        admitted_at: Timestamp(1_790_000_000_000 + number.cast_signed() / 100),
        source: Offset(number.cast_signed()),
    }
}

fn main() {
    // Cargo passes `--bench`, too.
    let keys = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let keys: u64 = keys.unwrap_or(KEYS);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("partition-0.redb");
    let identity = Identity {
        changelog: "changelog".into(),
        partition: Partition(0),
        partitions: 1,
    };
    let writer = StoreWriter::start().expect("a thread");
    let open = || {
        Store::open(&path, &identity, OPTIONS, &writer)
            .expect("a store")
            .store
    };
    let mut store = open();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    println!(
        "     keys   keys/s  CPU µs/key  longest apply  new p50   p99  known p50   p99  RSS MiB  disk B/key"
    );
    let (mut next, mut shown) = (0, (keys / 16).max(1));
    let (mut began, mut cpu_before, mut longest, mut before) = (Instant::now(), cpu(), Duration::ZERO, 0);
    while next < keys {
        let end = (next + BATCH).min(keys);
        let updates: Vec<StoreUpdate> = (next..end).map(|n| (key(n), entry(n)).into()).collect();
        let applying = Instant::now();
        store
            .apply(updates, Offset(end.cast_signed()), None)
            .expect("applied");
        longest = longest.max(applying.elapsed());
        next = end;
        if next < shown {
            continue;
        }
        shown = (shown * 2).min(keys);
        store.persist().expect("persisted");
        let (took, used) = (began.elapsed(), cpu() - cpu_before);
        let new = look_ups(&store, |n| keys + n, false);
        let known = look_ups(&store, |_| random.random_range(0..next), true);
        let written = next - before;
        println!(
            "{next:>9} {:>8.0} {:>11.2} {:>11.1} ms {:>8} {:>5} {:>10} {:>5} {:>8} {:>11}",
            written as f64 / took.as_secs_f64(),
            used.as_secs_f64() * 1e6 / written as f64,
            longest.as_secs_f64() * 1e3,
            new.0,
            new.1,
            known.0,
            known.1,
            rss_mib(),
            fs::metadata(&path).expect("a file").blocks() * 512 / next,
        );
        (began, cpu_before, longest, before) = (Instant::now(), cpu(), Duration::ZERO, next);
    }
    drop(store);
    let opening = Instant::now();
    let store = open();
    println!(
        "opened again with {} keys in {:?}",
        store.len(),
        opening.elapsed()
    );
}

/// Returns the median and the 99th percentile of look-ups, in nanoseconds.
fn look_ups(store: &Store, mut number: impl FnMut(u64) -> u64, known: bool) -> (u128, u128) {
    let mut times: Vec<u128> = (0..LOOK_UPS)
        .map(|n| {
            let key = key(number(n));
            let began = Instant::now();
            let found = store.get(&key).expect("read");
            let took = began.elapsed().as_nanos();
            assert_eq!(found.is_some(), known);
            took
        })
        .collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Returns the CPU time of this process.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // User and system time, in the kernel's 100 ticks a second.
    Duration::from_millis(10 * (fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)))
}

fn rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}
