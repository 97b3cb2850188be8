//! G9: calls that the API has rejected are replayed by a plan, and no order is charged twice or lost.
//!
//! Set-up: two callers under `park`, and an API in a partial outage: it rejects many orders, throttles others for a
//! while, so that they are deferred, and loses responses. One caller is killed. Of 5,000 orders some are then accepted,
//! some have a dead letter, and some are parked. The operator replays those with a dead letter: first while the API
//! still rejects them, which the canary finds out, and then, with a new plan, after it was repaired. The command is
//! killed at each of its steps and run again; then one is frozen before a batch while a second one runs.
//!
//! Must hold: a failed canary lets no other call follow. Each dead letter is replayed once by the second plan, whatever
//! is killed; the frozen command is fenced; the same again, and the earlier plan, append nothing. After the parked calls
//! are settled, the API has charged each order exactly once. Without `guard-replay-states` a plan that was overtaken
//! appends calls that were accepted; without `guard-replay-fence` the frozen command appends calls a second time.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use harness::process::Process;
use harness::process::settings::Settings;
use harness::wait::await_until;
use records::operation::REPLAY;

use super::drill::{COMMAND_MAX, Drill, ended, finished};
use crate::assertions::LIMIT;
use crate::{run, seed};

const ORDERS_EACH: u32 = 2_500;
const FAULTS: &str =
    "--reject 0.2 --failing-orders 0.05 --failing-requests 12 --before-500 0.02 --lost-reset 0.02";
const CANARY: u64 = 20;
/// Failpoints at which the command is killed, and the number of passes before.
const STEPS: [(&str, u32); 7] = [
    ("between-replay-records", 7),
    ("before-replay-commit", 0),
    ("before-replay-canary", 0),
    ("after-replay-commit", 0),
    ("between-replay-records", 70),
    ("before-replay-commit", 1),
    ("after-replay-commit", 1),
];

fn settings(own: Settings) -> Settings {
    own.with("deferral.window_max", 1_000)
        .with("deferral.defer_after", "1s")
        .with("retry.backoff_initial", "50ms")
        .with("retry.backoff_max", "200ms")
        .with("retry.retry_after_max", "50ms")
        .with("api.idempotency_key_lifetime", "1h")
}

/// Plan, and the number of its calls.
struct Plan {
    id: String,
    calls: usize,
}

fn plan(drill: &Drill) -> Result<Option<Plan>> {
    let arguments = [
        "replay",
        "plan",
        "--dead-letter-reason",
        "rejected",
        "--from",
        "1h ago",
    ];
    let planned = drill.json("outbox-plan", &arguments)?;
    println!("{planned}");
    let calls = usize::try_from(planned["calls"].as_u64().context("a number of calls")?)?;
    Ok(planned["plan"].as_str().map(|id| Plan {
        id: id.to_owned(),
        calls,
    }))
}

fn replay(drill: &Drill, name: &str, plan: &Plan) -> Result<Process> {
    let canary = CANARY.to_string();
    let arguments = [
        "replay", "run", &plan.id, "--canary", &canary, "--rate", "120/s", "--reason", "drill", "--yes",
    ];
    drill.command_of_any_group(name, &arguments)
}

fn change(drill: &Drill, command: &str, plan: &Plan) -> Result<String> {
    finished(&mut drill.command_of_any_group("outbox-change", &["replay", command, &plan.id])?)
}

/// Starts the command, which is frozen before it appends the next calls.
fn frozen_before_a_batch(drill: &Drill, plan: &Plan) -> Result<Process> {
    let mut frozen = replay(drill, "outbox-replay-1", plan)?;
    frozen.start_with(&[("FAILPOINTS", "frozen-before-replay-batch=1*return->off")])?;
    frozen.wait_frozen(COMMAND_MAX)?;
    Ok(frozen)
}

/// Thaws a command, and fails unless it is told that another one has taken over.
fn expect_fenced(frozen: &mut Process) -> Result<()> {
    frozen.thaw()?;
    let fenced = ended(frozen)?;
    ensure!(
        fenced.contains("a second operator may have taken over"),
        "the frozen command was not told:\n{fenced}"
    );
    Ok(())
}

/// Fails unless the history of an order has this event, and ends in these words.
fn expect_history(drill: &Drill, key: &str, event: &str, words: &str) -> Result<()> {
    let order = drill.json("outbox-order", &["order", key])?;
    let events = order["events"].as_array().context("events")?;
    ensure!(
        events.iter().any(|of| of["what"] == event)
            && order["sentence"]
                .as_str()
                .is_some_and(|text| text.contains(words)),
        "{key}: no event {event:?}, or not {words:?}: {order}"
    );
    Ok(())
}

/// Fails unless a caller shows the request of the order, which it does not send.
fn expect_request(drill: &Drill, key: &str) -> Result<()> {
    let order = drill.json("outbox-order", &["order", key])?;
    let call = order["calls"][0]["last"].as_str().context("a call")?.to_owned();
    let before = drill.api.stats()?.requests;
    let config = drill.pipeline.folder().join("caller-1.toml");
    let mut caller = drill
        .pipeline
        .process("caller-request", "caller")?
        .arguments(["--config"])
        .arguments([config])
        .arguments(["--show-request", &call]);
    let shown = finished(&mut caller)?;
    ensure!(
        shown.contains("POST http") && shown.contains(key) && drill.api.stats()?.requests == before,
        "{shown}"
    );
    Ok(())
}

/// Has an accepted call made again, by name.
fn repeat(drill: &Drill, key: &str) -> Result<()> {
    let planned = drill.json("outbox-plan", &["replay", "plan", key, "--state", "accepted"])?;
    let plan = planned["plan"].as_str().context("a plan")?;
    let unnamed = ["replay", "run", plan, "--yes"];
    let refused = finished(&mut drill.command_of_any_group("outbox-repeat", &unnamed)?)?;
    ensure!(
        refused.contains("--charge-again 1"),
        "made again without a number:\n{refused}"
    );
    let named = ["replay", "run", plan, "--yes", "--charge-again", "1"];
    let finished = finished(&mut drill.command_of_any_group("outbox-repeat", &named)?)?;
    ensure!(finished.contains("1 of 1 calls appended"), "{finished}");
    await_until("the repeated call is charged again", LIMIT, || {
        Ok(match drill.charged()?.get(key) {
            Some(2) => ControlFlow::Break(()),
            other => ControlFlow::Continue(format!("{other:?}")),
        })
    })?;
    expect_history(drill, key, "replayed, although accepted", "charged a second time")
}

fn copies_of(drill: &Drill, plan: &Plan) -> Result<usize> {
    drill.copies(|record| record.header(REPLAY).is_some_and(|id| id == plan.id))
}

/// Settles the parked calls by what the API has charged. Returns their number.
fn settle(drill: &Drill) -> Result<usize> {
    let waiting = drill.waiting()?;
    let charged = drill.charged()?;
    let (accepted, lost): (BTreeSet<String>, BTreeSet<String>) = waiting
        .iter()
        .cloned()
        .partition(|key| charged.get(key).copied().unwrap_or(0) > 0);
    for (keys, decision) in [(accepted, "--accepted"), (lost, "--send-again")] {
        finished(&mut drill.settle("outbox-settle", &keys, decision)?)?;
    }
    Ok(waiting.len())
}

#[test]
fn replayed_calls_are_charged_once() {
    run(|| {
        let (drill, waiting) = Drill::start_with("replayed", seed(), FAULTS, settings, ORDERS_EACH)?;
        let rejected_keys = drill.keys_in(&drill.pipeline.topics.call_dead_letters)?;
        let (rejected, one) = (
            rejected_keys.len(),
            rejected_keys.first().context("a rejected call")?,
        );
        let deferred = drill.copies(|_| true)?;
        println!(
            "{rejected} calls are rejected, {} parked; {deferred} deferrals",
            waiting.len()
        );
        ensure!(
            rejected > 500 && !waiting.is_empty() && deferred > 0,
            "the outage was not partial"
        );

        // From now on no other call is parked, and the API still rejects these.
        drill
            .api
            .change_faults(r#"{"before_500":0,"lost_reset":0,"failing_orders":0}"#)?;
        let early = await_until("each dead letter is old enough", LIMIT, || {
            Ok(match plan(&drill)? {
                Some(plan) if plan.calls == rejected => ControlFlow::Break(plan),
                other => ControlFlow::Continue(format!("{:?} of {rejected}", other.map(|plan| plan.calls))),
            })
        })?;
        expect_history(&drill, one, "dead letter", "may be called again: it was rejected")?;
        expect_request(&drill, one)?;
        let stopped = finished(&mut replay(&drill, "outbox-replay", &early)?)?;
        ensure!(
            stopped.contains("was not accepted") && copies_of(&drill, &early)? == usize::try_from(CANARY)?,
            "the canary did not stop the replay:\n{stopped}"
        );
        let again = finished(&mut replay(&drill, "outbox-replay", &early)?)?;
        ensure!(again.contains("is stopped (canary failed)"), "{again}");

        drill.api.change_faults(r#"{"reject":0}"#)?;
        let repaired = await_until("each dead letter is old enough again", LIMIT, || {
            Ok(match plan(&drill)? {
                Some(plan) if plan.calls == rejected => ControlFlow::Break(plan),
                other => ControlFlow::Continue(format!("{:?} of {rejected}", other.map(|plan| plan.calls))),
            })
        })?;
        for (step, passes) in STEPS {
            let mut killed = replay(&drill, "outbox-replay", &repaired)?;
            killed.start_with_crash_at(step, passes)?;
            killed
                .wait_killed(COMMAND_MAX)
                .with_context(|| format!("killing the command at {step} after {passes}"))?;
        }
        // Frozen, it does not know that it is paused meanwhile.
        let mut frozen = frozen_before_a_batch(&drill, &repaired)?;
        let appended = copies_of(&drill, &repaired)?;
        change(&drill, "pause", &repaired)?;
        expect_fenced(&mut frozen)?;
        let refused = finished(&mut replay(&drill, "outbox-replay", &repaired)?)?;
        ensure!(
            refused.contains("is stopped (paused)") && copies_of(&drill, &repaired)? == appended,
            "calls were appended after a pause:\n{refused}"
        );
        change(&drill, "resume", &repaired)?;
        // Nor that a second operator takes over.
        let mut frozen = frozen_before_a_batch(&drill, &repaired)?;
        let mut killed = replay(&drill, "outbox-replay-2", &repaired)?;
        killed.start_with_crash_at("before-replay-finish", 0)?;
        killed.wait_killed(COMMAND_MAX)?;
        expect_fenced(&mut frozen)?;
        for _ in 0..2 {
            let finished = finished(&mut replay(&drill, "outbox-replay", &repaired)?)?;
            ensure!(finished.contains("finished"), "{finished}");
        }
        let copies = copies_of(&drill, &repaired)?;
        ensure!(copies == rejected, "{copies} copies of {rejected} calls");
        let processed = &drill.pipeline.topics.processed;
        await_until("each replayed call is accepted", LIMIT, || {
            let accepted = drill.keys_in(processed)?.len();
            Ok(match accepted + waiting.len() {
                ended if ended >= 2 * usize::try_from(ORDERS_EACH)? => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{accepted} are")),
            })
        })?;

        expect_history(
            &drill,
            one,
            "replayed",
            "must not be called again: it was accepted",
        )?;
        // Overtaken by the second plan: what is left of the first one was accepted since.
        change(&drill, "resume", &early)?;
        let overtaken = finished(&mut replay(&drill, "outbox-replay", &early)?)?;
        ensure!(
            overtaken.contains("finished") && copies_of(&drill, &early)? == usize::try_from(CANARY)?,
            "a plan that was overtaken was run:\n{overtaken}"
        );
        ensure!(plan(&drill)?.is_none(), "accepted calls are planned");
        let operations =
            finished(&mut drill.command_of_any_group("outbox-operations", &["operations", "list"])?)?;
        for words in ["canary was not accepted", "replay resume", "drill"] {
            ensure!(operations.contains(words), "{words}: {operations}");
        }

        let mut settled = 0;
        await_until("no call waits", LIMIT, || {
            let waiting = settle(&drill)?;
            settled = settled.max(waiting);
            Ok(match waiting {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{waiting} wait")),
            })
        })?;
        // Not by accident: a person has typed how many.
        repeat(&drill, one)?;
        drill.finish_settled(settled, &[one.clone()].into())
    });
}
