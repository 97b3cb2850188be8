//! G3: a store that is right is kept and only brought up to date; one that is not is rebuilt, or its partition
//! stands still; it is never believed.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use records::{Offset, Partition};
use store::{Identity, Options, Store};

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter, expect_outbox};
use crate::in_turn;

const DRAIN_MAX: Duration = Duration::from_secs(30);
const RESTORED: &str = "outbox_restore_records_total";
const REBUILT: &str = "outbox_stores_rebuilt_total";

#[test]
fn a_crash_between_commit_and_store_replays_the_tail_alone() {
    in_turn(|| {
        const MANY: u64 = 3_000;
        let mut pipeline = Pipeline::create("tail", 1)?;
        let topic = pipeline.topics.orders.clone();
        let old = orders(0, "old", 3_000);
        send(&pipeline.kafka, &topic, &old)?;
        // Nothing is made durable but at an end in order.
        let settings = pipeline
            .validator_settings(1)
            .with("store.persist_interval", "1h");
        let mut validator = pipeline.service("validator", 1, settings)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        let durable = Store::open(&file(&pipeline), &identity(&pipeline), OPTIONS)?
            .store
            .len()?;
        ensure!(
            durable == MANY,
            "{durable} keys are durable after an end in order, of {MANY}"
        );

        // It dies with a committed transaction that its store has not seen.
        let new = orders(0, "new", 20);
        send(&pipeline.kafka, &topic, &new)?;
        validator.process.start_with_crash_at("before-store", 0)?;
        validator.process.wait_killed(LIMIT)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let (restored, rebuilt) = (counter(&validator, RESTORED)?, counter(&validator, REBUILT)?);
        ensure!(
            (1..=20).contains(&restored) && rebuilt == 0,
            "{restored} records were read again and {rebuilt} stores rebuilt, for a tail of at most 20"
        );
        send(&pipeline.kafka, &topic, &[&old[..50], &new].concat())?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&old, &new])?;

        // The same count after a wipe: all of it.
        validator.process.terminate(DRAIN_MAX)?;
        fs::remove_dir_all(pipeline.state_folder(1)).context("losing the state directory")?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let restored = counter(&validator, RESTORED)?;
        ensure!(restored == MANY + 20, "{restored} records make the whole store");
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// What is done to a store's file.
type Damage = fn(&Pipeline, &Path) -> Result<()>;

#[test]
fn a_store_that_is_not_sound_is_rebuilt() {
    in_turn(|| {
        let damages: [(&str, Damage); 5] = [
            ("cut in half", |_, file| {
                let length = fs::metadata(file)?.len();
                Ok(open(file)?.set_len(length / 2)?)
            }),
            ("zeroed", |_, file| Ok(open(file)?.write_all(&[0; 16 * 1024])?)),
            ("garbled", |_, file| {
                let mut file = open(file)?;
                let length = file.metadata()?.len();
                for place in (4_096..length).step_by(3_000) {
                    file.seek(SeekFrom::Start(place))?;
                    file.write_all(&[0x5a; 64])?;
                }
                Ok(())
            }),
            // To redb this is a sound file, with one key that nobody will ask for, and one that is not found.
            ("with another key in one's place", |_, file| {
                let (was, is) = (&b"order-250"[..], &b"order-25x"[..]);
                let mut bytes = fs::read(file)?;
                let places: Vec<usize> = (0..bytes.len() - was.len())
                    .filter(|place| bytes[*place..].starts_with(was))
                    .collect();
                ensure!(!places.is_empty(), "the key is not in the file");
                for place in places {
                    bytes[place..place + is.len()].copy_from_slice(is);
                }
                Ok(fs::write(file, bytes)?)
            }),
            ("another topic's", |pipeline, file| {
                fs::remove_file(file)?;
                let mut other = identity(pipeline);
                other.changelog = "another-changelog".into();
                let mut store = Store::open(file, &other, OPTIONS)?.store;
                Ok(store.persist()?)
            }),
        ];
        let mut pipeline = Pipeline::create("unsound", 1)?;
        let topic = pipeline.topics.orders.clone();
        let sent = orders(0, "order", 500);
        send(&pipeline.kafka, &topic, &sent)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        for (name, damage) in damages {
            validator.process.terminate(DRAIN_MAX)?;
            damage(&pipeline, &file(&pipeline)).with_context(|| format!("a store {name}"))?;
            validator.process.start()?;
            await_ready(&mut validator, LIMIT)?;
            check_rebuilt(&validator).with_context(|| format!("a store {name}"))?;
            // What was admitted before is known.
            send(&pipeline.kafka, &topic, &sent)?;
            await_verdicts(&pipeline)?;
            expect_outbox(&pipeline, &[&sent]).with_context(|| format!("after a store {name}"))?;
        }
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

fn check_rebuilt(validator: &Service) -> Result<()> {
    let (restored, rebuilt) = (counter(validator, RESTORED)?, counter(validator, REBUILT)?);
    ensure!(
        restored == 500 && rebuilt == 1,
        "{restored} records were read and {rebuilt} stores rebuilt"
    );
    ensure!(
        validator
            .process
            .log_since_start()?
            .contains("store not trusted, rebuilding it"),
        "its log does not say so"
    );
    Ok(())
}

/// It may hold the last copy of keys that Kafka has lost.
#[test]
fn a_store_ahead_of_its_changelog_is_kept_and_its_partition_stands_still() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("ahead", 1)?;
        send(&pipeline.kafka, &pipeline.topics.orders, &orders(0, "order", 50))?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        let ahead = Offset(
            high_watermarks(&pipeline.kafka, &pipeline.topics.changelog)?[0]
                .1
                .0
                + 7,
        );
        let mut store = Store::open(&file(&pipeline), &identity(&pipeline), OPTIONS)?.store;
        store.apply([], ahead)?;
        store.persist()?;
        drop(store);

        validator.process.start()?;
        await_unready(
            &mut validator,
            &["partition 0 is halted", &ahead.0.to_string(), "it ends at"],
        )?;
        validator.process.terminate(DRAIN_MAX)?;
        let kept = Store::open(&file(&pipeline), &identity(&pipeline), OPTIONS)?;
        ensure!(
            kept.rebuilt_because.is_none()
                && kept.store.checkpoint() == Some(ahead)
                && kept.store.len()? == 50,
            "the store was changed"
        );
        pipeline.passed();
        Ok(())
    });
}

const OPTIONS: Options = Options {
    cache_bytes: 16 << 20,
    verify: true,
};

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
