//! G3: a sound store is kept and only brought up to date; any other store is rebuilt, or its partition is
//! halted. It is never trusted.
//!
//! Four scenarios with one validator and one partition:
//!
//! * It crashes between Kafka's commit and the store's. Only the tail of the changelog is read again; after
//!   the loss of the state directory all of it is.
//! * Its store is truncated, zeroed, garbled, changed in a way that redb cannot see, or replaced by that of
//!   another topic. Each time the store is rebuilt once, and no order is admitted twice.
//! * Its store is ahead of the changelog. It may hold the last copy of keys that Kafka has lost, so it is
//!   left unchanged and its partition is halted.
//! * Its store lacks a record below its checkpoint, as if the changelog had lost its end and had grown again
//!   beyond the checkpoint. The partition is halted, except without `guard-overlap`.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use records::{KeyHash, Offset, Partition};
use store::{Identity, Opened, Options, Store, StoreUpdate, StoreWriter};

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter, expect_outbox};
use crate::fixtures::validator_with_orders;
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);
const RESTORED: &str = "outbox_restore_records_total";
const REBUILT: &str = "outbox_stores_rebuilt_total";

#[test]
fn crash_after_commit_replays_only_the_tail() {
    run(|| {
        const OLD: u64 = 3_000;
        let mut pipeline = Pipeline::create("tail", 1)?;
        let topic = pipeline.topics.orders.clone();
        let old = orders(0, "old", 3_000);
        send(&pipeline.kafka, &topic, &old)?;
        // Only the clean shutdown makes the store durable.
        let settings = pipeline
            .validator_settings(1)
            .with("store.persist_interval", "1h");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        let durable = open_store(&pipeline)?.store.len();
        ensure!(
            durable == OLD,
            "{durable} of {OLD} keys are durable after a clean shutdown"
        );

        // It crashes with a committed transaction that its store does not have.
        let new = orders(0, "new", 20);
        send(&pipeline.kafka, &topic, &new)?;
        validator.process.start_with_crash_at("before-store", 0)?;
        validator.process.wait_killed(LIMIT)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let (restored, rebuilt) = (counter(&validator, RESTORED)?, counter(&validator, REBUILT)?);
        ensure!(
            (1..=20).contains(&restored) && rebuilt == 0,
            "{restored} records were read again and {rebuilt} stores rebuilt, \
             expected a tail of 1 to 20 records"
        );
        // All of these are duplicates, if the tail was applied.
        send(&pipeline.kafka, &topic, &[&old[..50], &new].concat())?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&old, &new])?;

        // Without a state directory the whole changelog is read.
        validator.process.terminate(DRAIN_MAX)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let restored = counter(&validator, RESTORED)?;
        // Keys of orders that came again may be recorded again.
        let (keys, again) = (OLD + 20, 70);
        ensure!(
            (keys..=keys + again).contains(&restored),
            "{restored} records were read for a new store, expected {keys} to {}",
            keys + again
        );
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Damages the store in this file.
type Damage = fn(&Pipeline, &Path) -> Result<()>;

#[test]
fn unsound_store_is_rebuilt() {
    run(|| {
        let damages: [(&str, Damage); 5] = [
            ("truncated to half its length", |_, file| {
                let length = fs::metadata(file)?.len();
                Ok(open(file)?.set_len(length / 2)?)
            }),
            ("zeroed", |_, file| Ok(open(file)?.write_all(&[0; 16 * 1024])?)),
            ("garbled", |_, file| {
                let mut file = open(file)?;
                let length = file.metadata()?.len();
                // The header page stays as it is, so that the damage lies in the data.
                for offset in (4_096..length).step_by(3_000) {
                    file.seek(SeekFrom::Start(offset))?;
                    file.write_all(&[0x5a; 64])?;
                }
                Ok(())
            }),
            // redb sees a sound file: one key is missing, and another one is there that no order has. Found when the
            // key is looked up.
            ("with one key replaced by another", |_, file| {
                let [key, other] = [&b"order-250"[..], b"order-25x"].map(|key| KeyHash::of(key).to_bytes());
                let mut bytes = fs::read(file)?;
                let offsets: Vec<usize> = (0..bytes.len() - key.len())
                    .filter(|offset| bytes[*offset..].starts_with(&key))
                    .collect();
                ensure!(!offsets.is_empty(), "the key is not in the file");
                for offset in offsets {
                    bytes[offset..offset + other.len()].copy_from_slice(&other);
                }
                Ok(fs::write(file, bytes)?)
            }),
            ("of another topic", |pipeline, file| {
                fs::remove_file(file)?;
                let mut other = identity(pipeline);
                other.changelog = "another-changelog".into();
                let mut store = Store::open(file, &other, OPTIONS, &StoreWriter::start()?)?.store;
                Ok(store.persist()?)
            }),
        ];
        let (mut pipeline, mut validator, sent) = validator_with_orders("unsound", 500)?;
        let topic = pipeline.topics.orders.clone();
        for (name, damage) in damages {
            validator.process.terminate(DRAIN_MAX)?;
            damage(&pipeline, &file(&pipeline)).with_context(|| format!("a store {name}"))?;
            validator.process.start()?;
            await_ready(&mut validator, LIMIT)?;
            // The rebuilt store knows all orders that were admitted before the damage.
            send(&pipeline.kafka, &topic, &sent)?;
            await_verdicts(&pipeline)?;
            expect_rebuilt(&validator).with_context(|| format!("a store {name}"))?;
            expect_outbox(&pipeline, &[&sent]).with_context(|| format!("after a store {name}"))?;
        }
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Fails unless the validator has rebuilt its store from all 500 records, and has logged it.
fn expect_rebuilt(validator: &Service) -> Result<()> {
    let (restored, rebuilt) = (counter(validator, RESTORED)?, counter(validator, REBUILT)?);
    // The keys of orders that came again may be recorded again.
    ensure!(
        restored >= 500 && rebuilt == 1,
        "{restored} records were read and {rebuilt} stores rebuilt, expected 500 or more, and 1"
    );
    ensure!(
        validator
            .process
            .log_since_start()?
            .contains("rebuilding it from the changelog"),
        "the validator does not log that it rebuilds the store"
    );
    Ok(())
}

#[test]
fn store_ahead_of_changelog_halts_its_partition() {
    run(|| {
        let (mut pipeline, mut validator, _sent) = validator_with_orders("ahead", 50)?;
        validator.process.terminate(DRAIN_MAX)?;
        let (_, end) = high_watermarks(&pipeline.kafka, &pipeline.topics.changelog)?[0];
        let ahead = Offset(end.0 + 7);
        let mut store = open_store(&pipeline)?.store;
        // No key is added: only the checkpoint is ahead.
        store.apply([], ahead, None)?;
        store.persist()?;
        drop(store);

        validator.process.start()?;
        await_unready(
            &mut validator,
            &["partition 0 is halted", &ahead.0.to_string(), "it ends at"],
        )?;
        validator.process.terminate(DRAIN_MAX)?;
        let kept = open_store(&pipeline)?;
        ensure!(
            kept.rebuild_reason.is_none() && kept.store.checkpoint() == Some(ahead) && kept.store.len() == 50,
            "the validator changed a store that is ahead of its changelog"
        );
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn store_without_a_record_of_its_log_halts() {
    run(|| {
        let (mut pipeline, mut validator, sent) = validator_with_orders("regrown", 50)?;
        let topic = pipeline.topics.orders.clone();
        validator.process.terminate(DRAIN_MAX)?;
        let mut store = open_store(&pipeline)?.store;
        let checkpoint = store.checkpoint().context("a store without a checkpoint")?;
        let key = sent[42].key.as_deref().context("an order without a key")?;
        let removed = StoreUpdate::new(key, None);
        store.apply([removed], checkpoint, None)?;
        store.persist()?;
        drop(store);

        validator.process.start()?;
        let words = [
            "partition 0 is halted",
            "does not have its record at",
            "outbox state rebuild",
        ];
        await_unready(&mut validator, &words)?;
        send(&pipeline.kafka, &topic, &sent)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&sent])?;

        // The changelog has all keys here, so removing the store is enough.
        fs::remove_file(file(&pipeline)).context("removing the store")?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent])?;
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

const OPTIONS: Options = Options {
    cache_bytes: 16 << 20,
    recent_max: 1_000,
    period: None,
};

/// Opens the store of a validator that does not run.
fn open_store(pipeline: &Pipeline) -> Result<Opened> {
    let (file, identity) = (file(pipeline), identity(pipeline));
    Ok(Store::open(&file, &identity, OPTIONS, &StoreWriter::start()?)?)
}

fn identity(pipeline: &Pipeline) -> Identity {
    Identity {
        changelog: pipeline.topics.changelog.clone(),
        partition: Partition(0),
        partitions: 1,
    }
}

fn file(pipeline: &Pipeline) -> PathBuf {
    pipeline.state_folder(1).join("partition-0.redb")
}

fn open(file: &Path) -> Result<fs::File> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .with_context(|| format!("opening {}", file.display()))
}
