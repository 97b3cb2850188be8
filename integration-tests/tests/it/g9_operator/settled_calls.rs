//! G9: parked calls are settled by what the API's own record says, and no order is charged twice or lost.
//!
//! Set-up: two callers under `park`, and an API that loses many responses, before or after it has charged. One
//! caller is killed. Of some 600 orders half are parked. The operator settles those that the API has charged as
//! accepted, and has the others sent again. The command is killed at each of its steps; then two of them run at
//! once, with the callers at work. A caller of another group reads the same outbox meanwhile. One of the calls was sent
//! again before, while the API still lost responses, and is parked again. Another one was rejected then.
//!
//! Must hold: no call is sent again before its last request can no longer be processed, none that was settled
//! before, and none by the other group's caller (`guard-copy-group`); nothing is settled for the other group
//! (`guard-parked-group`). `parked groups` says that a call was sent again before. A plan leaves out the one that was
//! rejected, unless it is asked for as ambiguous: what was parked may have been processed. At the end no call waits,
//! each was settled once, each order has an outcome, and the API has charged each exactly once. Without
//! `guard-settlement` nothing tells that a call was settled, and the same calls are settled again.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use harness::process::Process;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::await_until;

use super::drill::{COMMAND_MAX, Drill, STEPS, ended, finished};
use crate::assertions::{LIMIT, counter};
use crate::{run, seed};

const ORDERS_EACH: u32 = 300;

/// Sends a call again while the API loses the responses, and fails unless `parked groups` says so when the call is
/// parked again.
fn park_again(drill: &Drill, key: &str) -> Result<()> {
    drill.api.change_faults(r#"{"before_500":1}"#)?;
    let keys = [key.to_owned()].into();
    await_until("the call is sent again", LIMIT, || {
        let last = finished(&mut drill.settle("outbox-again", &keys, "--send-again")?)?;
        Ok(match drill.copies(|_| true)? {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(last),
        })
    })?;
    await_until("the call is parked again", LIMIT, || {
        let groups = drill.json("outbox-groups", &["parked", "groups"])?;
        let sent_again = groups.as_array().context("a list of groups")?.iter();
        let sent_again: Option<u64> = sent_again.map(|group| group["sent_again"].as_u64()).sum();
        Ok(match drill.waiting()?.contains(key) && sent_again == Some(1) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(groups.to_string()),
        })
    })?;
    println!(
        "{}",
        finished(&mut drill.command("outbox-groups", &["parked", "groups"])?)?
    );
    drill.api.change_faults(r#"{"before_500":0}"#)
}

/// Sends a call again while the API rejects it, and fails unless it is then replayed only if it is asked for as ambiguous.
fn reject_again(drill: &Drill, key: &str) -> Result<()> {
    drill.api.change_faults(r#"{"reject":1}"#)?;
    let keys = [key.to_owned()].into();
    let copies = drill.copies(|_| true)?;
    await_until("the call to reject is sent again", LIMIT, || {
        let last = finished(&mut drill.settle("outbox-again", &keys, "--send-again")?)?;
        Ok(match drill.copies(|_| true)? == copies + 1 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(last),
        })
    })?;
    await_until("the rejected call is left out of a plan", LIMIT, || {
        let planned = drill.json("outbox-plan", &["replay", "plan", key])?;
        ensure!(planned["plan"].is_null(), "it was parked: {planned}");
        let left_out = planned["left_out"].as_object().context("what is left out")?;
        Ok(match left_out.keys().any(|why| why.starts_with("ambiguous")) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(planned.to_string()),
        })
    })?;
    drill.api.change_faults(r#"{"reject":0}"#)?;
    let plan = await_until("the rejected call can be planned by name", LIMIT, || {
        let planned = drill.json("outbox-plan", &["replay", "plan", key, "--state", "ambiguous"])?;
        Ok(match planned["plan"].as_str() {
            Some(plan) => ControlFlow::Break(plan.to_owned()),
            None => ControlFlow::Continue(planned.to_string()),
        })
    })?;
    let named = [
        "replay",
        "run",
        &plan,
        "--reason",
        "drill",
        "--yes",
        "--charge-again",
        "1",
    ];
    let finished = finished(&mut drill.command_of_any_group("outbox-replay", &named)?)?;
    ensure!(finished.contains("1 of 1 calls appended"), "{finished}");
    Ok(())
}

#[test]
fn settled_calls_are_charged_once() {
    run(|| {
        let (drill, waiting) = Drill::start("settled", seed(), ORDERS_EACH)?;
        let before = drill.charged()?;
        let (accepted, lost): (BTreeSet<String>, BTreeSet<String>) = waiting
            .into_iter()
            .partition(|key| before.get(key).copied().unwrap_or(0) > 0);
        println!(
            "{} calls are parked that were charged, {} that were not",
            accepted.len(),
            lost.len()
        );

        for (step, passes) in STEPS {
            let mut killed = drill.settle("outbox-accept", &accepted, "--accepted")?;
            killed.start_with_crash_at(step, passes)?;
            killed.wait_killed(COMMAND_MAX)?;
        }
        drill.expect_settlements(accepted.len())?;
        let again = finished(&mut drill.settle("outbox-accept", &accepted, "--accepted")?)?;
        ensure!(
            again.contains("0 parked calls are settled"),
            "settled again:\n{again}"
        );

        // It has made these calls, so to say: it begins behind them.
        let pipeline = &drill.pipeline;
        let other = format!("{}-other", pipeline.caller_group);
        pipeline.begin_caller_group(&other, "end")?;
        let settings = pipeline
            .caller_settings(3, &drill.api.url)
            .with("kafka.group_id", &other);
        let mut of_other = pipeline.service("caller", 3, settings)?;
        of_other.process.start()?;
        await_ready(&mut of_other, LIMIT)?;
        let refused = finished(&mut drill.settle_for(&other, "outbox-other", &lost, "--accepted")?)?;
        ensure!(
            refused.contains("0 parked calls are settled") && refused.contains("are left out"),
            "settled for another group:\n{refused}"
        );
        let mut some = lost.iter();
        let mut one = || some.next().context("a call that was not charged");
        park_again(&drill, one()?)?;
        reject_again(&drill, one()?)?;
        // One of them is sent again twice, and one is replayed.
        let (settled, copies) = (accepted.len() + lost.len() + 1, lost.len() + 2);
        // Retried while the requests of the latest ones may still be processed.
        for (step, passes) in STEPS {
            await_until(&format!("the command is killed at {step}"), LIMIT, || {
                let mut killed = drill.settle("outbox-send", &lost, "--send-again")?;
                killed.start_with_crash_at(step, passes)?;
                Ok(match killed.wait_killed(COMMAND_MAX) {
                    Ok(()) => ControlFlow::Break(()),
                    Err(error) => {
                        let output = killed.log_since_start()?;
                        ensure!(output.contains("may be processed until"), "{error:#}\n{output}");
                        ControlFlow::Continue(output)
                    }
                })
            })?;
        }
        let mut two = ["outbox-send-1", "outbox-send-2"]
            .into_iter()
            .map(|name| drill.settle(name, &lost, "--send-again"))
            .collect::<Result<Vec<_>>>()?;
        two.iter_mut().try_for_each(Process::start)?;
        for command in &mut two {
            println!("{}", ended(command)?);
        }
        await_until("no call waits", LIMIT, || {
            let last = finished(&mut drill.settle("outbox-send", &lost, "--send-again")?)?;
            let waiting = drill.waiting()?.len();
            Ok(match waiting {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(format!("{waiting} wait:\n{last}")),
            })
        })?;

        await_until("the other group's caller skips the copies", LIMIT, || {
            let twice = drill.charged()?.values().filter(|times| **times > 1).count();
            ensure!(twice == 0, "{twice} orders are charged more than once");
            let skipped = counter(&of_other, "outbox_calls_of_other_groups_total")?;
            Ok(match usize::try_from(skipped)? == copies {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{skipped} of {copies}")),
            })
        })?;
        of_other.process.terminate(LIMIT)?;
        drill.finish(settled, copies)
    });
}
