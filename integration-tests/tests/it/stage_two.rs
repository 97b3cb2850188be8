//! G4, G5: the API loses answers, turns calls away and goes down, callers are killed at the worst steps and
//! at random; in the end each pending call has one outcome, and each repeated request is explained.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use harness::api::{self, Api};
use harness::check::at_most_once::Policy;
use harness::check::explain::Explanation;
use harness::check::stage_two::Counts;
use harness::cluster;
use harness::feed::{Feed, Plan};
use harness::findings;
use harness::lane::{Lane, Mishap, await_ready};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::Interruption;
use harness::tail::Tail;
use harness::wait::await_until;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{in_turn, seed};

const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 200;
const SETTLE_MAX: Duration = Duration::from_secs(120);
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Long enough that a kill at random finds requests sent and not answered.
const API_LATENCY: Duration = Duration::from_millis(50);

/// The longest that the API may take to process what it was sent, on a loaded machine.
const API_PROCESSING_MAX: Duration = Duration::from_secs(2);

/// Each step at which a caller is killed, and how many passes it may be let through before.
const STEPS: [(&str, u32); 5] = [
    ("before-send", 200),
    ("after-answer", 200),
    ("after-outcome-ack", 200),
    ("before-commit", 20),
    ("after-commit", 20),
];

/// What happens to a caller, from a seed.
fn mishaps(random: &mut ChaCha8Rng) -> Vec<Mishap> {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(2);
    let mut mishaps = vec![Mishap::Frozen(longer_than_session)];
    for (step, passes_max) in STEPS {
        mishaps.push(Mishap::DiesAt(step, random.random_range(0..passes_max)));
    }
    for _ in 0..6 {
        mishaps.push(Mishap::Killed(Duration::from_millis(
            random.random_range(0..1_000),
        )));
    }
    mishaps.shuffle(random);
    mishaps
}

/// What a story can see and touch beside the callers.
struct Scene<'a> {
    api: &'a Api,
    tail: &'a Tail,
    finals: [&'a str; 3],
}

/// Orders flow through a validator that nobody harms, while `happen` does its worst to two callers of one policy.
fn story(
    name: &str,
    policy: Policy,
    seed: u64,
    happen: impl FnOnce(&Scene<'_>, &mut [Service; 2]) -> Result<()>,
) -> Result<(Counts, usize)> {
    let mut pipeline = Pipeline::create(name, PARTITIONS)?;
    let api = Api::start(&pipeline, &api::faults(seed, API_LATENCY))?;
    let topics = &pipeline.topics;
    let finals = [
        topics.processed.as_str(),
        topics.call_dead_letters.as_str(),
        topics.parked.as_str(),
    ];
    let tail = Tail::start(&pipeline.kafka, &finals)?;
    let orders = Orders::Generated(Mix::with_seed(seed));
    let mut validator = pipeline.validator(1)?;
    let caller = |number| {
        let settings = pipeline
            .caller_settings(number, &api.url)
            .with("caller.on_ambiguous", policy.as_str())
            .with("verify.url", format!("{}/{{order_id}}", api.url))
            .with("verify.settle", format!("{}ms", API_PROCESSING_MAX.as_millis()));
        pipeline.service("caller", number, settings)
    };
    let mut callers = [caller(1)?, caller(2)?];
    validator.process.start()?;
    await_ready(&mut validator, Duration::from_secs(60))?;
    let feed = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: topics.orders.clone(),
        partitions: PARTITIONS,
        orders: orders.clone(),
        count: 1_000_000,
        per_second: Some(ORDERS_PER_SECOND),
    });
    let scene = Scene {
        api: &api,
        tail: &tail,
        finals,
    };
    happen(&scene, &mut callers)?;
    let sent = feed.stop()?;
    settle(&pipeline, &scene)?;
    for service in [&mut validator].into_iter().chain(&mut callers) {
        service.process.terminate(DRAIN_MAX)?;
    }
    let interruptions: Vec<Interruption> = callers
        .iter()
        .flat_map(|caller| caller.process.interruptions().to_vec())
        .collect();
    let one = findings::stage_one(&pipeline, &orders, sent)?;
    findings::none(&one.violations)?;
    let two = findings::stage_two_under(policy, &pipeline, &api, &interruptions)?;
    println!(
        "{name}: {sent} orders, {} kills and freezes: {:?}",
        interruptions.len(),
        two.counts
    );
    findings::none(&two.violations)?;
    pipeline.passed();
    Ok((two.counts, interruptions.len()))
}

/// Until each pending call has its outcome.
fn settle(pipeline: &Pipeline, scene: &Scene<'_>) -> Result<()> {
    let started = Instant::now();
    await_until("each order has its verdict", SETTLE_MAX, || {
        let lag = cluster::lag(
            &pipeline.kafka,
            &pipeline.validator_group,
            &pipeline.topics.orders,
        )?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders without one")),
        })
    })?;
    let pending = findings::pending_keys(pipeline)?;
    let left = SETTLE_MAX.saturating_sub(started.elapsed());
    scene.await_outcomes(pending, left)
}

impl Scene<'_> {
    fn outcomes(&self) -> u64 {
        self.tail.keys_of_all(&self.finals)
    }

    fn await_outcomes(&self, count: u64, limit: Duration) -> Result<()> {
        await_until("pending calls have their outcomes", limit, || {
            let outcomes = self.outcomes();
            Ok(if outcomes >= count {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{outcomes} of {count} have one"))
            })
        })
    }
}

#[test]
fn callers_are_killed_twenty_times_and_each_call_ends_once_with_each_repeat_explained() {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mishaps = [mishaps(&mut random), mishaps(&mut random)];
        let (counts, killed) = story("callers", Policy::Retry, seed, |scene, callers| {
            scene.api.go_down(Duration::from_secs(2))?;
            std::thread::scope(|scope| {
                let lanes: Vec<_> = callers
                    .iter_mut()
                    .zip(&mishaps)
                    .map(|(service, mishaps)| {
                        scope.spawn(move || {
                            Lane {
                                service,
                                state: None,
                                failpoints: "",
                            }
                            .live_through(mishaps)
                        })
                    })
                    .collect();
                lanes.into_iter().try_for_each(|lane| {
                    lane.join()
                        .map_err(|_| anyhow!("a lane panicked"))
                        .and_then(|lived| lived)
                })
            })
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(killed >= 20, "only {killed} kills");
        ensure!(
            counts.repeats.contains_key(&Explanation::Interrupted),
            "no kill made a call ambiguous: they struck beside the point"
        );
        Ok(())
    });
}

/// Without kills nothing but the API's answers explains a repeat, and outcomes are told once; not even a
/// rolling restart makes anything ambiguous.
#[test]
fn a_rolling_restart_repeats_nothing_that_the_answers_do_not_explain() {
    rolling_restart("rolling", Policy::Retry);
}

#[test]
fn a_rolling_restart_under_park_leaves_no_call_begun() {
    rolling_restart("rolling-park", Policy::Park);
}

fn rolling_restart(name: &str, policy: Policy) {
    in_turn(|| {
        let (counts, killed) = story(name, policy, seed(), |scene, callers| {
            for caller in callers.iter_mut() {
                caller.process.start()?;
            }
            for _round in 0..2 {
                for caller in callers.iter_mut() {
                    await_ready(caller, Duration::from_secs(60))?;
                    scene.await_outcomes(scene.outcomes() + 500, SETTLE_MAX)?;
                    caller.process.terminate(DRAIN_MAX)?;
                    caller.process.start()?;
                }
            }
            Ok(())
        })?;
        ensure!(killed == 0, "{killed} kills in a story without any");
        ensure!(
            counts.outcomes_repeated == 0,
            "{} outcomes were told twice",
            counts.outcomes_repeated
        );
        ensure!(
            counts.parked_begun == 0,
            "{} calls were begun and left without an end, and nobody was killed",
            counts.parked_begun
        );
        Ok(())
    });
}

/// Steps at which a caller dies under the policies that note beginnings: before a note is committed, after it,
/// before and after sending, after the answer, after the outcome's acknowledgement.
const NOTED_STEPS: [(&str, u32); 6] = [
    ("before-commit", 50),
    ("after-commit", 50),
    ("before-send", 200),
    ("after-send", 20),
    ("after-answer", 200),
    ("after-outcome-ack", 200),
];

/// Guards that are taken out of the callers in all their lives, to see a test fail: failpoints, as in
/// `OUTBOX_TEST_GUARDS="guard-beginnings=return"`.
fn guards() -> String {
    std::env::var("OUTBOX_TEST_GUARDS").unwrap_or_default()
}

/// Callers die at every step and at random, stand still past their session with a request about to leave, and
/// partitions move between them: the API's own count is at most 1 for each order.
fn at_most_once(name: &str, policy: Policy) {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(3);
        let mut steps: Vec<Mishap> = NOTED_STEPS
            .iter()
            .map(|(step, passes_max)| Mishap::DiesAt(step, random.random_range(0..*passes_max)))
            .collect();
        steps.shuffle(&mut random);
        let mut others: Vec<Mishap> = (0..4)
            .map(|_| Mishap::Killed(Duration::from_millis(random.random_range(0..1_000))))
            .collect();
        let passes = random.random_range(50..150);
        others.push(Mishap::FrozenAt(
            "frozen-before-send",
            passes,
            longer_than_session,
        ));
        others.shuffle(&mut random);
        let mishaps = [steps, others];
        let guards = guards();
        let (counts, killed) = story(name, policy, seed, |_, callers| {
            std::thread::scope(|scope| {
                let lanes: Vec<_> = callers
                    .iter_mut()
                    .zip(&mishaps)
                    .map(|(service, mishaps)| {
                        let failpoints = guards.as_str();
                        scope.spawn(move || {
                            Lane {
                                service,
                                state: None,
                                failpoints,
                            }
                            .live_through(mishaps)
                        })
                    })
                    .collect();
                lanes.into_iter().try_for_each(|lane| {
                    lane.join()
                        .map_err(|_| anyhow!("a lane panicked"))
                        .and_then(|lived| lived)
                })
            })
        })
        .with_context(|| format!("seed {seed}"))?;
        ensure!(killed >= 11, "only {killed} kills");
        match policy {
            Policy::Park => ensure!(
                counts.parked > 0,
                "nothing was parked: the kills struck beside the point"
            ),
            Policy::Verify => ensure!(
                counts.parked == 0,
                "{} calls were parked that a look-up could settle",
                counts.parked
            ),
            Policy::Retry => {}
        }
        Ok(())
    });
}

#[test]
fn under_park_no_order_is_processed_twice_whoever_is_killed_wherever() {
    at_most_once("park", Policy::Park);
}

#[test]
fn under_verify_no_order_is_processed_twice_and_none_is_parked() {
    at_most_once("verify", Policy::Verify);
}
