//! G3: an operator sees whether a store is equal to the changelog.
//!
//! Set-up: a validator has admitted 20 orders. It runs, is killed, runs again and stops. Then one entry of its store is
//! removed, one replaced, and one added.
//!
//! Must hold: `outbox state inspect` and `verify` say so while the validator runs; a store that was killed is compared
//! by a copy and left as it is; an intact store is equal; of the changed one the three keys are named, and the exit
//! status is 1.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::pipeline::Pipeline;
use records::{IdempotencyKey, KeyHash, Offset, Partition};
use serde_json::{Value, json};
use store::{Identity, Options, Store, StoreUpdate, StoreWriter};

use crate::assertions::{LIMIT, await_verdicts};
use crate::fixtures::validator_with_orders;
use crate::run;

const ORDERS: u32 = 20;
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Runs `outbox state`, and returns its exit status and its JSON, or what it printed otherwise.
pub(crate) fn state(pipeline: &Pipeline, command: &str) -> Result<(Option<i32>, Value)> {
    // `inspect` asks no group.
    let group = ["--validators", &pipeline.validator_group];
    let group = &group[..if command == "verify" { 2 } else { 0 }];
    let file = pipeline.folder().join("outbox.toml");
    pipeline.settings(&pipeline.validator_group).write(&file)?;
    let dir = pipeline.state_folder(1);
    let mut outbox = pipeline
        .process("outbox-state", "outbox")?
        .arguments(["--json".as_ref(), "--config".as_ref(), file.as_os_str()])
        .arguments([
            "state".as_ref(),
            command.as_ref(),
            "--dir".as_ref(),
            dir.as_os_str(),
        ])
        .arguments(group.iter().copied());
    outbox.start()?;
    let status = outbox.wait_exit(COMMAND_MAX)?;
    let output = outbox.log_since_start()?;
    let json = output
        .find("{\n")
        .and_then(|at| serde_json::from_str(&output[at..]).ok());
    Ok((status.code(), json.unwrap_or(Value::String(output))))
}

fn store_file(pipeline: &Pipeline) -> PathBuf {
    pipeline.state_folder(1).join("partition-0.redb")
}

/// Removes the entry of one order, replaces that of another, and adds one that the changelog lacks.
fn damage(pipeline: &Pipeline) -> Result<()> {
    let identity = Identity {
        changelog: pipeline.topics.changelog.clone(),
        partition: Partition(0),
        partitions: 1,
    };
    let options = Options {
        cache_bytes: 1 << 20,
        recent_max: 100,
        period: None,
    };
    let opened = Store::open(&store_file(pipeline), &identity, options, &StoreWriter::start()?)?;
    ensure!(opened.rebuild_reason.is_none(), "{:?}", opened.rebuild_reason);
    let mut store = opened.store;
    let key = IdempotencyKey::new("order-5").ok().context("a key")?;
    let mut entry = store.get(&key)?.context("an entry")?;
    entry.source = Offset(entry.source.0 + 1);
    let checkpoint = store.checkpoint().context("a checkpoint")?;
    let updates = [
        ("order-4", None),
        ("order-5", Some(entry)),
        ("other", Some(entry)),
    ];
    let updates = updates.map(|(key, entry)| StoreUpdate::new(key.as_bytes(), entry));
    store.apply(updates, checkpoint, None)?;
    store.persist()?;
    Ok(())
}

#[test]
fn changed_store_is_found() {
    run(|| {
        let (mut pipeline, mut validator, _) = validator_with_orders("verified", ORDERS)?;
        let (status, inspected) = state(&pipeline, "inspect")?;
        ensure!(
            status == Some(0) && inspected["in_use"] == true && inspected["stores"][0]["state"] == "in-use",
            "{status:?}: {inspected}"
        );
        let (status, refused) = state(&pipeline, "verify")?;
        ensure!(
            status == Some(2) && refused.to_string().contains("running validator"),
            "{status:?}: {refused}"
        );

        validator.process.kill()?;
        let before = fs::read(store_file(&pipeline))?;
        let (status, inspected) = state(&pipeline, "inspect")?;
        ensure!(
            status == Some(0) && inspected["stores"][0]["state"] == "not-closed",
            "{status:?}: {inspected}"
        );
        let (status, verified) = state(&pipeline, "verify")?;
        ensure!(
            status == Some(0) && verified["stores"][0]["state"] == "equal",
            "{status:?}: {verified}"
        );
        ensure!(
            fs::read(store_file(&pipeline))? == before,
            "the store was changed"
        );

        validator.process.start()?;
        harness::process::instance_lifecycle::await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(LIMIT)?;
        let (status, inspected) = state(&pipeline, "inspect")?;
        let store = &inspected["stores"][0];
        ensure!(
            status == Some(0) && store["state"] == "readable" && store["keys"] == ORDERS,
            "{status:?}: {inspected}"
        );
        let (status, verified) = state(&pipeline, "verify")?;
        ensure!(
            status == Some(0)
                && verified["stores"][0]["state"] == "equal"
                && verified["stores"][0]["keys"] == ORDERS
                && verified["changelog"][0]["missing"] == 0,
            "{status:?}: {verified}"
        );

        damage(&pipeline)?;
        let (status, verified) = state(&pipeline, "verify")?;
        let store = &verified["stores"][0];
        let expected = json!([
            {"key": "order-4", "difference": "missing"},
            {"key": "order-5", "difference": "other"},
            {"key": format!("the key with the hash {}", KeyHash::of(b"other")), "difference": "extra"},
        ]);
        ensure!(
            status == Some(1) && store["state"] == "differs" && store["differences"] == expected,
            "{status:?}: {verified}"
        );
        pipeline.passed();
        Ok(())
    });
}
