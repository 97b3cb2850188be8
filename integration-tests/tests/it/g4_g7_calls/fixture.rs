//! The scene of the stories about callers: orders flow, an API fails in its ways, and in the end each pending call
//! has one outcome.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::findings;
use harness::check::stage_two::Counts;
use harness::cluster;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::Interruption;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::tail::Tail;
use harness::wait::await_until;

const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 200;
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(120);
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Long enough that a kill at random finds requests sent and not answered.
pub(crate) const API_LATENCY: Duration = Duration::from_millis(50);

/// The longest that the API may take to process what it was sent, on a loaded machine.
pub(crate) const API_PROCESSING_MAX: Duration = Duration::from_secs(2);

/// What a story can see and touch beside the callers.
pub(crate) struct Scene<'a> {
    pub(crate) api: &'a Api,
    tail: &'a Tail,
    finals: [&'a str; 3],
}

/// What a story is told about.
pub(crate) struct Plot<'a> {
    pub(crate) name: &'a str,
    pub(crate) policy: Policy,
    pub(crate) callers: u32,
    /// The API's faults.
    pub(crate) faults: Vec<String>,
    /// Of the orders.
    pub(crate) seed: u64,
}

/// Orders flow through a validator that nobody harms, while `happen` does its worst to callers of one policy.
pub(crate) fn story(
    plot: &Plot<'_>,
    happen: impl FnOnce(&Scene<'_>, &mut [Service]) -> Result<()>,
) -> Result<(Counts, usize)> {
    let Plot { name, policy, .. } = *plot;
    let mut pipeline = Pipeline::create(name, PARTITIONS)?;
    let api = Api::start(&pipeline, &plot.faults)?;
    let topics = &pipeline.topics;
    let finals = [
        topics.processed.as_str(),
        topics.call_dead_letters.as_str(),
        topics.parked.as_str(),
    ];
    let tail = Tail::start(&pipeline.kafka, &finals)?;
    let orders = Orders::Generated(Mix::with_seed(plot.seed));
    let mut validator = pipeline.validator(1)?;
    let caller = |number| {
        let settings = pipeline
            .caller_settings(number, &api.url)
            .with("caller.on_ambiguous", policy.as_str())
            .with("verify.url", format!("{}/{{order_id}}", api.url))
            .with(
                "verify.api_processing_max",
                format!("{}ms", API_PROCESSING_MAX.as_millis()),
            );
        pipeline.service("caller", number, settings)
    };
    let mut callers = (1..=plot.callers).map(caller).collect::<Result<Vec<_>>>()?;
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
    findings::expect_no_violations(&one.violations)?;
    let two = findings::stage_two_with_policy(policy, &pipeline, &api, &interruptions)?;
    println!(
        "{name}: {sent} orders, {} kills and freezes: {:?}",
        interruptions.len(),
        two.counts
    );
    findings::expect_no_violations(&two.violations)?;
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
    pub(crate) fn outcomes(&self) -> u64 {
        self.tail.keys_of_all(&self.finals)
    }

    pub(crate) fn await_outcomes(&self, count: u64, limit: Duration) -> Result<()> {
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
