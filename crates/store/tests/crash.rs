//! Scenario: a process that writes to a store is killed at any step, many times. Everything that it made
//! durable is still there, keys and checkpoint agree, and the file does not have to be rebuilt.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rand::{RngExt, SeedableRng};
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Offset, Partition, Timestamp};
use store::{Identity, Opened, Options, Store, StoreUpdate, StoreWriter};

const OPTIONS: Options = Options {
    cache_bytes: 1 << 20,
    recent_max: RECENT_MAX,
    period: None,
};
const CHILD: &str = "OUTBOX_STORE_CRASH_CHILD";
const ROUNDS: usize = 40;
/// Number of updates at which they are written; fewer wait in memory for others.
const RECENT_MAX: usize = 3_000;

fn identity() -> Identity {
    Identity {
        changelog: "changelog".into(),
        partition: Partition(0),
        partitions: 1,
    }
}

fn key(number: i64) -> String {
    format!(
        "key-{:016x}",
        number.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
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

fn open(path: &Path) -> Opened {
    Store::open(path, &identity(), OPTIONS, &writer()).expect("a store")
}

/// Writes until it is killed: the store holds the keys below its checkpoint, and no others.
fn write(path: &Path, seed: u64) -> ! {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut store = open(path).store;
    let mut next = store.checkpoint().unwrap_or(Offset(0)).0;
    println!("{next}");
    loop {
        // Now and then a call is large enough to be written at once, in the background.
        let at_least = if random.random_ratio(1, 8) { RECENT_MAX } else { 0 };
        let at_least = i64::try_from(at_least).expect("small");
        let end = next + at_least + random.random_range(1..400);
        let updates = (next..end).map(|n| StoreUpdate::new(key(n).as_bytes(), Some(entry(n))));
        store.apply(updates, Offset(end), None).expect("applied");
        next = end;
        if random.random_ratio(1, 4) {
            store.start_persist().expect("begun");
        }
        if random.random_ratio(1, 3) {
            store.persist().expect("persisted");
            println!("{next}");
            std::io::stdout().flush().expect("printed");
        }
    }
}

#[test]
fn durable_updates_survive_kill() {
    if let Ok(child) = std::env::var(CHILD) {
        let (path, seed) = child.split_once('|').expect("path|seed");
        write(Path::new(path), seed.parse().expect("a seed"));
    }
    let seed: u64 = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("SEED"));
    println!("SEED={seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.redb");
    for round in 0..ROUNDS {
        // A new file from time to time: it is then killed while it is created, and while it is small.
        if round % 10 == 0 {
            drop(std::fs::remove_file(&path));
        }
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "durable_updates_survive_kill", "--nocapture"])
            .env(CHILD, format!("{}|{}", path.display(), random.random::<u64>()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let until = random.random_range(0..12);
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut durable = 0;
        let mut was_opened = round % 10 != 0;
        for _ in 0..until {
            let number = lines.by_ref().find_map(|line| line.expect("a line").parse().ok());
            durable = number.expect("the child goes on");
            was_opened = true;
        }
        // Killed anywhere within the next steps, each of which must be safe.
        std::thread::sleep(std::time::Duration::from_micros(random.random_range(0..3000)));
        child.kill().expect("killed");
        child.wait().expect("ended");
        let last = lines
            .map_while(Result::ok)
            .filter_map(|line| line.parse().ok())
            .last();
        was_opened |= last.is_some();
        durable = last.unwrap_or(durable);

        let opened = open(&path);
        match opened.rebuild_reason {
            None => {}
            // redb writes the magic number of a new file last. Killed before that, the file is not a database
            // yet, and there is nothing to lose.
            Some(why) => assert!(
                !was_opened && why.contains("magic number"),
                "round {round}: {why}"
            ),
        }
        let store = opened.store;
        let checkpoint = store.checkpoint().unwrap_or(Offset(0)).0;
        assert!(checkpoint >= durable, "round {round}: {checkpoint} < {durable}");
        assert_eq!(store.len(), checkpoint.cast_unsigned(), "round {round}");
        for number in [0, checkpoint / 2, checkpoint - 1] {
            if number >= 0 && checkpoint > 0 {
                let found = store.get(&IdempotencyKey::new(&key(number)).expect("a key"));
                assert_eq!(found.expect("read"), Some(entry(number)), "round {round}");
            }
        }
    }
}
