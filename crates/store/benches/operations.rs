//! Cost of each operation of a store: look-up, flush, merge and restore.
//!
//!     cargo bench -p store --bench operations -- [KEYS]
//!
//! A store gets KEYS random keys (1,000,000 by default), three times:
//!
//! - flush: the writing of a batch, and the wait for the disk. CPU time is that of the thread that writes.
//! - merge: what the thread that writes does between two batches, so that look-ups have few runs to ask.
//! - look-up: of keys that the store has not, and of keys that it has.
//! - restore: changelog records, encoded as in the topic, are applied to an empty store, until all are durable.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};
use store::{Identity, Options, Store, StoreUpdate, StoreWriter};

const KEYS: u64 = 1_000_000;
const RUNS: usize = 3;
/// Keys of a flush.
const BATCH: u64 = 10_000;
/// Records of a restore that are applied together, as a validator does.
const CHUNK: usize = 10_000;
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

/// Nanoseconds of one run, per key or look-up.
#[derive(Default)]
struct Run {
    flush: f64,
    flush_cpu: f64,
    merge_cpu: f64,
    new: f64,
    known: f64,
    restore: f64,
    restore_cpu: f64,
}

fn main() {
    // Cargo passes `--bench`, too.
    let keys = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let keys: u64 = keys.unwrap_or(KEYS);
    let runs: Vec<Run> = (0..RUNS).map(|_| measure(keys)).collect();
    println!(
        "{keys} keys                         ns per key or look-up, minimum / median / maximum of {RUNS} runs"
    );
    let show = |name: &str, figure: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        println!(
            "{name:<36} {:>7.0} / {:>7.0} / {:>7.0}",
            values[0],
            values[RUNS / 2],
            values[RUNS - 1]
        );
    };
    show("flush of 10,000 keys, time", |run| run.flush);
    show("flush, CPU", |run| run.flush_cpu);
    show("merge, CPU", |run| run.merge_cpu);
    show("look-up of a new key, mean", |run| run.new);
    show("look-up of a known key, mean", |run| run.known);
    show("restore, time", |run| run.restore);
    show("restore, CPU of all threads", |run| run.restore_cpu);
}

fn measure(keys: u64) -> Run {
    let directory = tempfile::tempdir().expect("a directory");
    let mut run = Run::default();
    let writer = StoreWriter::start().expect("a thread");
    let mut store = open(&directory.path().join("partition-0.redb"), &writer);
    fill(&mut store, keys, &mut run);
    look_ups(&store, keys, &mut run);
    // Its thread would be found instead of the next one.
    drop((store, writer));
    let writer = StoreWriter::start().expect("a thread");
    let mut store = open(&directory.path().join("partition-1.redb"), &writer);
    restore(&mut store, keys, &mut run);
    run
}

fn open(path: &Path, writer: &StoreWriter) -> Store {
    let identity = Identity {
        changelog: "changelog".into(),
        partition: Partition(0),
        partitions: 1,
    };
    Store::open(path, &identity, OPTIONS, writer)
        .expect("a store")
        .store
}

/// Flushes batch after batch; the next one only when the merges after the last have ended.
fn fill(store: &mut Store, keys: u64, run: &mut Run) {
    let (mut flush, mut flush_cpu, mut merge_cpu) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut next = 0;
    while next < keys {
        let end = (next + BATCH).min(keys);
        let updates: Vec<StoreUpdate> = (next..end).map(|n| (key(n), entry(n)).into()).collect();
        let recorded = Some(entry(end).admitted_at);
        store
            .apply(updates, Offset(end.cast_signed()), recorded)
            .expect("applied");
        next = end;
        let (began, before) = (Instant::now(), writer_cpu());
        store.persist().expect("persisted");
        let written = writer_cpu();
        flush += began.elapsed();
        flush_cpu += written.saturating_sub(before);
        merge_cpu += idle_writer_cpu().saturating_sub(written);
    }
    run.flush = per(flush, keys);
    run.flush_cpu = per(flush_cpu, keys);
    run.merge_cpu = per(merge_cpu, keys);
}

fn look_ups(store: &Store, keys: u64, run: &mut Run) {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut look_up = |is_known: bool| {
        let wanted: Vec<IdempotencyKey> = (0..LOOK_UPS)
            .map(|n| match is_known {
                true => key(random.random_range(0..keys)),
                false => key(keys + n),
            })
            .collect();
        let began = Instant::now();
        for key in &wanted {
            assert_eq!(store.get(key).expect("read").is_some(), is_known);
        }
        per(began.elapsed(), LOOK_UPS)
    };
    run.new = look_up(false);
    run.known = look_up(true);
}

fn restore(store: &mut Store, keys: u64, run: &mut Run) {
    let records: Vec<_> = (0..keys)
        .map(|n| (key(n).as_bytes().to_vec(), entry(n).encode()))
        .collect();
    let (began, before) = (Instant::now(), process_cpu());
    let mut next = 0;
    for chunk in records.chunks(CHUNK) {
        next += chunk.len() as u64;
        let updates: Vec<StoreUpdate> = chunk
            .iter()
            .map(|(key, entry)| StoreUpdate::new(key, Some(Entry::decode(entry.as_ref()).expect("an entry"))))
            .collect();
        store
            .apply(updates, Offset(next.cast_signed()), None)
            .expect("applied");
        store.start_persist().expect("a running writer");
    }
    store.persist().expect("persisted");
    run.restore = per(began.elapsed(), keys);
    run.restore_cpu = per(process_cpu().saturating_sub(before), keys);
}

fn per(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}

/// Returns the CPU time of the thread that writes.
fn writer_cpu() -> Duration {
    cpu_of(|thread| thread == "store-writer")
}

/// Waits until the thread that writes has nothing to do, and returns its CPU time.
fn idle_writer_cpu() -> Duration {
    let mut last = writer_cpu();
    loop {
        // Longer than a wait for the disk.
        std::thread::sleep(Duration::from_millis(20));
        let now = writer_cpu();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn process_cpu() -> Duration {
    cpu_of(|_| true)
}

/// Returns the CPU time of the threads with such names.
fn cpu_of(is_wanted: impl Fn(&str) -> bool) -> Duration {
    let mut nanoseconds = 0;
    for thread in fs::read_dir("/proc/self/task").expect("Linux") {
        let thread = thread.expect("a thread").path();
        // A thread may end meanwhile.
        let read = |file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
        if is_wanted(read("comm").trim()) {
            let schedule = read("schedstat");
            let on_cpu = schedule.split_whitespace().next();
            nanoseconds += on_cpu.map_or(0, |text| text.parse().unwrap_or(0));
        }
    }
    Duration::from_nanos(nanoseconds)
}
