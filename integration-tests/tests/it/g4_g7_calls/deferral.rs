//! G4, G6: a call that keeps failing does not block the other calls of its partition. It is deferred to the
//! outbox's tail in one transaction, and exactly one copy of it goes on.
//!
//! Set-up: an API that throttles some orders for a while or forever, and accepts the others. Callers defer a
//! call after one second. In the last scenario two callers crash at each step around the deferral's
//! transaction, and one is frozen in it past its session and its transaction timeout.
//!
//! Must hold: the other calls are accepted while some fail; a call that fails for too long becomes a dead
//! letter; no call is lost, and under `park` the API processes each order at most once. A caller whose transactional
//! producer is refused for good ends with that error.
//! `OUTBOX_TEST_DEFER_AFTER=0s` turns deferrals off, and
//! `OUTBOX_TEST_GUARDS="guard-deferral-atomic=return"` writes the copies and the call notes in two
//! transactions; either makes a scenario fail.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::check::at_most_once::Policy;
use harness::check::findings;
use harness::orders::manual;
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::instance_lifecycle::{ProcessFault, await_ready, run_stateless};
use harness::process::settings::Settings;
use harness::read_back::topics::{Keep, read_topic};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::message::{Header, OwnedHeaders};
use records::Timestamp;
use records::continuation::{CONTINUES, Continuation};

use crate::assertions::{LIMIT, await_outbox};
use crate::g4_g7_calls::fixture::{DRAIN_MAX, Fixture};
use crate::{run, seed};

/// The caller's commit timeout, which is also the timeout of its transactions.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(6);

/// Starts the fixture with an API that has these faults.
fn start(name: &str, partitions: i32, seed: u64, faults: &[(&str, &str)]) -> Result<Fixture> {
    let faults: Vec<String> = [("--seed", seed.to_string().as_str())]
        .iter()
        .chain(faults)
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
    Fixture::start(name, partitions, seed, &faults)
}

/// Returns settings of a caller that retries fast and defers a failing call after a second.
fn settings(fixture: &Fixture, number: u32) -> Settings {
    fixture
        .pipeline
        .caller_settings(number, &fixture.api.url)
        .with("caller.commit_timeout", format!("{}s", COMMIT_TIMEOUT.as_secs()))
        // Fast retries, so that a call has failed often enough to be deferred within a second.
        .with("retry.backoff_initial", "50ms")
        .with("retry.backoff_max", "200ms")
        .with("retry.retry_after_max", "50ms")
        .with("deferral.window_max", 1_000)
        .with("deferral.defer_after", defer_after())
}

/// Returns the time after which a failing call is deferred; `OUTBOX_TEST_DEFER_AFTER=0s` turns deferrals off.
fn defer_after() -> String {
    std::env::var("OUTBOX_TEST_DEFER_AFTER").unwrap_or_else(|_| "1s".into())
}

/// One partition, with a window of 1,000 offsets: without deferrals the first failing call would block all
/// orders behind that window.
#[test]
fn failing_calls_do_not_block_others() {
    run(|| {
        let faults = [("--failing-orders", "0.01"), ("--latency", "2ms")];
        let fixture = start("deferral", 1, seed(), &faults)?;
        let sent = fixture.feed(3_000, None).finish()?;
        fixture.await_verdicts()?;
        let pending = findings::pending_keys(&fixture.pipeline)?;
        let mut callers = [fixture.caller(1, settings(&fixture, 1))?];
        let started = Instant::now();
        callers[0].process.start()?;
        fixture.await_outcomes(|| Ok(pending - fixture.api.always_throttled_orders()?))?;
        let throttled = fixture.api.always_throttled_orders()?;
        ensure!(
            throttled > 10,
            "the API throttles only {throttled} orders each time, expected more than 10"
        );
        println!(
            "{} of {pending} calls have their outcome after {:?}",
            pending - throttled,
            started.elapsed()
        );
        // From here on it accepts them too, so that each call gets its outcome.
        fixture.api.change_faults(r#"{"failing_orders": 0}"#)?;
        let (counts, _) = fixture.finish(Policy::Retry, &mut callers, sent)?;
        ensure!(counts.deferred > 0, "no call was deferred");
        Ok(())
    });
}

/// The failing calls would fill the window, and block all others behind a caller that looks healthy.
#[test]
fn caller_that_can_never_defer_drains_and_ends() {
    run(|| {
        let faults = [("--failing-orders", "0.2"), ("--latency", "2ms")];
        let fixture = start("never-deferred", 1, seed(), &faults)?;
        let mut callers = [fixture.caller(1, settings(&fixture, 1))?];
        let refused = ("FAILPOINTS", "deferral-producer-refused=return");
        callers[0].process.start_with(&[refused])?;
        // Slowly, so that other calls succeed all the while: only then is a failing call deferred.
        let sent = fixture.feed(100, Some(20)).finish()?;
        let status = callers[0].process.wait_exit(LIMIT)?;
        let log = callers[0].process.log_since_start()?;
        ensure!(!status.success(), "it has stopped without an error:\n{log}");
        for words in [
            "failing calls cannot be deferred",
            "opening the transactional producer",
            "caller stopped",
        ] {
            ensure!(log.contains(words), "its log does not contain {words:?}:\n{log}");
        }
        fixture.api.change_faults(r#"{"failing_orders": 0}"#)?;
        callers[0].process.start()?;
        fixture.finish(Policy::Retry, &mut callers, sent)?;
        Ok(())
    });
}

/// The call was surely not processed, and carries its attempts as evidence.
#[test]
fn call_failing_too_long_becomes_a_dead_letter() {
    run(|| {
        let faults = [("--failing-orders", "0.2"), ("--latency", "2ms")];
        let fixture = start("abandoned", 1, seed(), &faults)?;
        let settings = settings(&fixture, 1).with("deferral.abandon_after", "4s");
        let mut callers = [fixture.caller(1, settings)?];
        callers[0].process.start()?;
        // Slowly, so that other calls succeed all the while: only then is a failing call deferred.
        let sent = fixture.feed(160, Some(20)).finish()?;
        let (counts, _) = fixture.finish(Policy::Retry, &mut callers, sent)?;
        ensure!(
            counts.abandoned > 0 && counts.deferrals >= counts.abandoned,
            "expected abandoned calls, each deferred at least once: {counts:?}"
        );
        Ok(())
    });
}

/// The validator removes the header from orders: with it, an order would count as the copy of another call.
#[test]
fn order_cannot_forge_the_header_of_a_deferral() {
    run(|| {
        let mut pipeline = Pipeline::create("forged-header", 1)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let call = "payment-orders/0@0".parse().context("a position")?;
        let continuation = Continuation::new(call, "api-caller".into(), Timestamp(1)).to_json();
        let headers = [("kept", &b"k"[..]), (CONTINUES, &continuation)]
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                let value = Some(value);
                headers.insert(Header { key, value })
            });
        let (kafka, topics) = (&pipeline.kafka, &pipeline.topics);
        manual::send_with(kafka, &topics.orders, &manual::orders(0, "o", 2), headers)?;
        await_outbox(&pipeline, 2)?;
        for record in read_topic(kafka, &topics.pending, Keep::Fingerprints)? {
            ensure!(
                record.header("kept") == Some("k"),
                "the validator lost a header of the order: {record:?}"
            );
            ensure!(
                record.header(CONTINUES).is_none(),
                "the validator kept the header {CONTINUES} of an order: {record:?}"
            );
        }
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// Failpoints around the deferral's transaction: before it begins, before and after its commit, and when the
/// caller has noted it.
const CRASH_POINTS: [&str; 4] = [
    "before-deferral",
    "before-deferral-end",
    "after-deferral-end",
    "after-deferral",
];

/// Two callers crash at each failpoint, and one is frozen before its commit. Under `park` a second copy of a
/// call would be seen as an order that is processed twice, and a lost one as a call without an outcome.
#[test]
fn crash_around_deferral_keeps_one_copy_per_call() {
    run(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut crashes =
            || CRASH_POINTS.map(|point| ProcessFault::CrashAt(point, random.random_range(0..3)));
        let (mut crashes, others) = (crashes(), crashes());
        // Longer than its session and its transaction: when it is thawed, the outcome of the transaction is
        // unknown.
        let longest = SESSION_TIMEOUT.max(COMMIT_TIMEOUT) + Duration::from_secs(3);
        let passes = random.random_range(0..3);
        let frozen = ProcessFault::FreezeAt("frozen-before-deferral-end", passes, longest);
        crashes.shuffle(&mut random);
        let (first, last) = (random.random_range(0..4), random.random_range(0..4));
        let faults = [
            crashes.to_vec(),
            vec![others[first].clone(), frozen, others[last].clone()],
        ];
        let api_faults = [
            ("--failing-orders", "0.1"),
            ("--failing-requests", "12"),
            ("--latency", "5ms"),
        ];
        let fixture = start("deferrals", 4, seed, &api_faults)?;
        let caller = |number| -> Result<Service> {
            let settings = settings(&fixture, number).with("caller.on_ambiguous", "park");
            fixture.caller(number, settings)
        };
        let mut callers = [caller(1)?, caller(2)?];
        let feed = fixture.feed(1_000_000, Some(100));
        run_stateless(&mut callers, &faults).with_context(|| format!("seed {seed}"))?;
        let sent = feed.stop()?;
        let (counts, _) = fixture
            .finish(Policy::Park, &mut callers, sent)
            .with_context(|| format!("seed {seed}"))?;
        ensure!(
            counts.deferrals >= 4,
            "only {} deferrals, expected at least 4",
            counts.deferrals
        );
        Ok(())
    });
}
