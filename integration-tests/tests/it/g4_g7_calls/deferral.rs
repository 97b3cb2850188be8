//! A call that fails while others succeed does not hold up its partition: it is deferred to the outbox's tail,
//! once, wherever its caller is killed around the transaction that does so.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::findings::{self, StageTwoFindings};
use harness::orders::feed::{Feed, Plan};
use harness::orders::manual;
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT, Service};
use harness::process::Interruption;
use harness::process::instance_lifecycle::{InstanceLifecycle, ProcessFault, await_ready};
use harness::process::settings::Settings;
use harness::read_back::tail::Tail;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::message::{Header, OwnedHeaders};
use records::Timestamp;
use records::continuation::{CONTINUES, Continuation};

use crate::assertions::await_outbox;
use crate::{in_turn, seed};

const LIMIT: Duration = Duration::from_secs(90);
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Also how long the brokers wait for a caller to end its transaction.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(6);

/// Orders on their way through a validator to callers, and an API that turns some of them away.
struct Scene {
    pipeline: Pipeline,
    api: Api,
    tail: Tail,
    orders: Orders,
    validator: Service,
    sent: u64,
}

impl Scene {
    fn start(name: &str, partitions: i32, seed: u64, faults: &[(&str, &str)]) -> Result<Self> {
        let pipeline = Pipeline::create(name, partitions)?;
        let faults: Vec<String> = [("--seed", seed.to_string().as_str())]
            .iter()
            .chain(faults)
            .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
            .collect();
        let api = Api::start(&pipeline, &faults)?;
        let topics = &pipeline.topics;
        let finals = [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str);
        let tail = Tail::start(&pipeline.kafka, &finals)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        Ok(Self {
            api,
            tail,
            orders: Orders::Generated(Mix::with_seed(seed)),
            validator,
            pipeline,
            sent: 0,
        })
    }

    /// A caller that is quick to call a call deferral.
    fn caller_settings(&self, number: u32) -> Settings {
        self.pipeline
            .caller_settings(number, &self.api.url)
            .with("caller.commit_timeout", format!("{}s", COMMIT_TIMEOUT.as_secs()))
            .with("retry.backoff_initial", "50ms")
            .with("retry.backoff_max", "200ms")
            .with("retry.retry_after_max", "50ms")
            .with("deferral.window_max", 1_000)
            .with("deferral.defer_after", defer_after())
    }

    fn caller(&self, number: u32, settings: Settings) -> Result<Service> {
        self.pipeline.service("caller", number, settings)
    }

    fn feed(&self, count: u64, per_second: Option<u64>) -> Feed {
        Feed::start(Plan {
            kafka: self.pipeline.kafka.clone(),
            topic: self.pipeline.topics.orders.clone(),
            partitions: self.pipeline.partitions,
            orders: self.orders.clone(),
            count,
            per_second,
        })
    }

    fn outcomes(&self) -> u64 {
        let topics = &self.pipeline.topics;
        let finals = [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str);
        self.tail.keys_of_all(&finals)
    }

    /// Until so many calls have come to an end.
    fn await_outcomes(&self, count: impl Fn() -> Result<u64>) -> Result<()> {
        await_until("pending calls have their outcomes", LIMIT, || {
            let (outcomes, count) = (self.outcomes(), count()?);
            Ok(match outcomes >= count {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{outcomes} of {count} have one")),
            })
        })
    }

    /// Ends all processes, and checks what they have left.
    fn finish(mut self, policy: Policy, callers: &mut [Service]) -> Result<StageTwoFindings> {
        self.await_verdicts()?;
        self.await_outcomes(|| findings::pending_keys(&self.pipeline))?;
        for service in [&mut self.validator].into_iter().chain(&mut *callers) {
            service.process.terminate(DRAIN_MAX)?;
        }
        let interruptions: Vec<Interruption> = callers
            .iter()
            .flat_map(|caller| caller.process.interruptions().to_vec())
            .collect();
        let one = findings::stage_one(&self.pipeline, &self.orders, self.sent)?;
        findings::expect_no_violations(&one.violations)?;
        let two = findings::stage_two_with_policy(policy, &self.pipeline, &self.api, &interruptions)?;
        println!(
            "{} orders, {} kills: {:?}",
            self.sent,
            interruptions.len(),
            two.counts
        );
        findings::expect_no_violations(&two.violations)?;
        self.pipeline.passed();
        Ok(two)
    }

    fn await_verdicts(&self) -> Result<()> {
        await_until("each order has its verdict", LIMIT, || {
            let (kafka, topic) = (&self.pipeline.kafka, &self.pipeline.topics.orders);
            Ok(
                match harness::cluster::lag(kafka, &self.pipeline.validator_group, topic)? {
                    0 => ControlFlow::Break(()),
                    lag => ControlFlow::Continue(format!("{lag} orders without one")),
                },
            )
        })
    }
}

/// `OUTBOX_TEST_DEFER_AFTER=0s` shows what a test comes to without deferrals.
fn defer_after() -> String {
    std::env::var("OUTBOX_TEST_DEFER_AFTER").unwrap_or_else(|_| "1s".into())
}

/// Failpoints in all lives of the callers, as in `OUTBOX_TEST_GUARDS="guard-deferral-together=return"`.
fn guards() -> String {
    std::env::var("OUTBOX_TEST_GUARDS").unwrap_or_default()
}

/// One partition, with room for half of the orders ahead of the first stubborn one: all others are accepted
/// while the stubborn ones fail, and those when the API takes them at last.
#[test]
fn calls_that_always_fail_do_not_hold_up_the_others() {
    in_turn(|| {
        let faults = [("--failing-orders", "0.01"), ("--latency", "2ms")];
        let mut scene = Scene::start("stubborn", 1, seed(), &faults)?;
        scene.sent = scene.feed(3_000, None).finish()?;
        scene.await_verdicts()?;
        let pending = findings::pending_keys(&scene.pipeline)?;
        let mut callers = [scene.caller(1, scene.caller_settings(1))?];
        let began = Instant::now();
        callers[0].process.start()?;
        scene.await_outcomes(|| Ok(pending - scene.api.always_throttled_orders()?))?;
        let stubborn = scene.api.always_throttled_orders()?;
        ensure!(stubborn > 10, "only {stubborn} orders are stubborn");
        println!("{} of {pending} in {:?}", pending - stubborn, began.elapsed());
        scene.api.change_faults(r#"{"failing_orders": 0}"#)?;
        let two = scene.finish(Policy::Retry, &mut callers)?;
        ensure!(two.counts.deferred > 0, "nothing was deferred");
        Ok(())
    });
}

/// What surely was not processed, and never is, is a dead letter in the end, with all that was tried.
#[test]
fn a_call_that_fails_for_too_long_is_given_up() {
    in_turn(|| {
        let faults = [("--failing-orders", "0.2"), ("--latency", "2ms")];
        let mut scene = Scene::start("abandoned", 1, seed(), &faults)?;
        let settings = scene.caller_settings(1).with("deferral.give_up_after", "4s");
        let mut callers = [scene.caller(1, settings)?];
        callers[0].process.start()?;
        // Others succeed all the while.
        scene.sent = scene.feed(160, Some(20)).finish()?;
        let two = scene.finish(Policy::Retry, &mut callers)?;
        ensure!(
            two.counts.abandoned > 0 && two.counts.deferrals >= two.counts.abandoned,
            "{:?}",
            two.counts
        );
        Ok(())
    });
}

/// A user's header by the name that continuations have would make an order the continuation of another call.
#[test]
fn an_order_cannot_pass_itself_off_as_a_continuation() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("passed-off", 1)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let call = "payment-orders/0@0".parse().context("a position")?;
        let continuation = Continuation::new(call, Timestamp(1)).to_json();
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
            ensure!(record.header("kept") == Some("k"), "{record:?}");
            ensure!(record.header(CONTINUES).is_none(), "{record:?}");
        }
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// The steps around the transaction: before it begins, before and after the request to commit it, and when the
/// caller has taken note of it.
const STEPS: [&str; 4] = [
    "before-deferral",
    "before-deferral-end",
    "after-deferral-end",
    "after-deferral",
];

/// Callers die at each step, and one stands still before the request to commit. Under park the API processes each order at most once, so a copy beside a call
/// that goes on would be seen; each ends, so one that is lost would be, too.
#[test]
fn whoever_dies_around_a_deferral_its_calls_go_on_once() {
    in_turn(|| {
        let seed = seed();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut steps = || STEPS.map(|step| ProcessFault::CrashAt(step, random.random_range(0..3)));
        let (mut steps, others) = (steps(), steps());
        // Longer than its session and its transaction: when it goes on, nobody knows what became of that.
        let longest = SESSION_TIMEOUT.max(COMMIT_TIMEOUT) + Duration::from_secs(3);
        let passes = random.random_range(0..3);
        let frozen = ProcessFault::FreezeAt("frozen-before-deferral-end", passes, longest);
        steps.shuffle(&mut random);
        let (first, last) = (random.random_range(0..4), random.random_range(0..4));
        let process_faults = [
            steps.to_vec(),
            vec![others[first].clone(), frozen, others[last].clone()],
        ];
        let faults = [
            ("--failing-orders", "0.1"),
            ("--failing-requests", "12"),
            ("--latency", "5ms"),
        ];
        let mut scene = Scene::start("deferrals", 4, seed, &faults)?;
        let caller = |number| {
            let settings = scene.caller_settings(number).with("caller.on_ambiguous", "park");
            scene.caller(number, settings)
        };
        let mut callers = [caller(1)?, caller(2)?];
        let feed = scene.feed(1_000_000, Some(100));
        let guards = guards();
        std::thread::scope(|scope| {
            let lanes: Vec<_> = callers
                .iter_mut()
                .zip(&process_faults)
                .map(|(service, faults)| {
                    let failpoints = guards.as_str();
                    scope.spawn(move || {
                        InstanceLifecycle {
                            service,
                            state: None,
                            failpoints,
                        }
                        .run(faults)
                    })
                })
                .collect();
            lanes.into_iter().try_for_each(|lane| {
                lane.join()
                    .map_err(|_| anyhow!("a lane panicked"))
                    .and_then(|lived| lived)
            })
        })
        .with_context(|| format!("seed {seed}"))?;
        scene.sent = feed.stop()?;
        let two = scene
            .finish(Policy::Park, &mut callers)
            .with_context(|| format!("seed {seed}"))?;
        ensure!(
            two.counts.deferrals >= 4,
            "only {} deferrals",
            two.counts.deferrals
        );
        Ok(())
    });
}
