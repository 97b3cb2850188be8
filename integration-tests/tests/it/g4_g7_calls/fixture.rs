//! Fixture of the scenarios about callers: orders flow through a validator that nothing disturbs, the API
//! injects faults, and at the end the outcomes are compared with what the API has recorded.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::check::findings;
use harness::check::stage_two::Counts;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::Interruption;
use harness::process::instance_lifecycle::await_ready;
use harness::process::settings::Settings;
use harness::read_back::tail::Tail;
use harness::wait::await_until;

use crate::assertions::await_verdicts_within;

const PARTITIONS: i32 = 6;
const ORDERS_PER_SECOND: u64 = 200;
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(120);
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Latency of the API: long enough that a kill at a random time finds requests in flight.
pub(crate) const API_LATENCY: Duration = Duration::from_millis(50);

/// Longest processing time of the API on a loaded machine.
pub(crate) const API_PROCESSING_MAX: Duration = Duration::from_secs(2);

/// Topics, API and validator of one scenario.
// The order of the fields is the order in which they are dropped: the pipeline comes last, because it prints
// the logs of the others if the scenario fails.
pub(crate) struct Fixture {
    pub(crate) api: Api,
    tail: Tail,
    validator: Service,
    orders: Orders,
    pub(crate) pipeline: Pipeline,
}

impl Fixture {
    /// Creates the topics, and starts an API with these faults and a validator.
    pub(crate) fn start(name: &str, partitions: i32, seed: u64, faults: &[String]) -> Result<Self> {
        let pipeline = Pipeline::create(name, partitions)?;
        // Scenarios start their callers at any time, also on an outbox that is filled already.
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let api = Api::start(&pipeline, faults)?;
        let tail = Tail::start(&pipeline.kafka, &outcome_topics(&pipeline))?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, Duration::from_secs(60))?;
        Ok(Self {
            api,
            tail,
            validator,
            orders: Orders::Generated(Mix::with_seed(seed)),
            pipeline,
        })
    }

    /// Returns a caller with these settings; it does not run yet.
    pub(crate) fn caller(&self, number: u32, settings: Settings) -> Result<Service> {
        self.pipeline.service("caller", number, settings)
    }

    /// Sends this number of orders, at most so many per second.
    pub(crate) fn feed(&self, count: u64, per_second: Option<u64>) -> Feed {
        Feed::start(Plan {
            kafka: self.pipeline.kafka.clone(),
            topic: self.pipeline.topics.orders.clone(),
            partitions: self.pipeline.partitions,
            orders: self.orders.clone(),
            count,
            per_second,
        })
    }

    /// Returns the number of calls that have an outcome.
    pub(crate) fn outcomes(&self) -> u64 {
        self.tail.keys_of_all(&outcome_topics(&self.pipeline))
    }

    /// Waits until at least this number of calls have an outcome; the number may change meanwhile.
    pub(crate) fn await_outcomes(&self, count: impl Fn() -> Result<u64>) -> Result<()> {
        await_until("pending calls have their outcomes", SETTLE_MAX, || {
            let (outcomes, count) = (self.outcomes(), count()?);
            Ok(match outcomes >= count {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{outcomes} of {count} have one")),
            })
        })
    }

    /// Waits until each order has its verdict.
    pub(crate) fn await_verdicts(&self) -> Result<()> {
        await_verdicts_within(&self.pipeline, SETTLE_MAX)
    }

    /// Waits until each pending call has its outcome, drains all processes, and checks both stages.
    ///
    /// Returns the checker's counts and the number of kills and freezes of callers.
    pub(crate) fn finish(
        mut self,
        policy: Policy,
        callers: &mut [Service],
        sent: u64,
    ) -> Result<(Counts, usize)> {
        self.await_verdicts()?;
        // With each verdict committed, the outbox grows no more but by deferrals, which add no key.
        let pending = findings::pending_keys(&self.pipeline)?;
        self.await_outcomes(|| Ok(pending))?;
        for service in [&mut self.validator].into_iter().chain(&mut *callers) {
            service.process.terminate(DRAIN_MAX)?;
        }
        let interruptions: Vec<Interruption> = callers
            .iter()
            .flat_map(|caller| caller.process.interruptions().to_vec())
            .collect();
        let one = findings::stage_one(&self.pipeline, &self.orders, sent)?;
        // Stage two is checked against the outbox, so the outbox must be right first.
        findings::expect_no_violations(&one.violations)?;
        let two = findings::stage_two_with_policy(policy, &self.pipeline, &self.api, &interruptions)?;
        println!(
            "{sent} orders, {} kills and freezes: {:?}",
            interruptions.len(),
            two.counts
        );
        findings::expect_no_violations(&two.violations)?;
        self.pipeline.passed();
        Ok((two.counts, interruptions.len()))
    }
}

/// Topics in which a call has its final state.
fn outcome_topics(pipeline: &Pipeline) -> [&str; 3] {
    let topics = &pipeline.topics;
    [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str)
}

/// Scenario in which several callers of one policy are disturbed while orders flow.
pub(crate) struct Scenario<'a> {
    pub(crate) name: &'a str,
    pub(crate) policy: Policy,
    pub(crate) callers: u32,
    /// Options of the API that inject its faults.
    pub(crate) faults: Vec<String>,
    /// Seed of the orders.
    pub(crate) seed: u64,
}

impl Scenario<'_> {
    /// Feeds orders while `disturb` starts and damages the callers, and checks everything at the end.
    ///
    /// Returns the checker's counts and the number of kills and freezes.
    pub(crate) fn run(
        &self,
        disturb: impl FnOnce(&Fixture, &mut [Service]) -> Result<()>,
    ) -> Result<(Counts, usize)> {
        let fixture = Fixture::start(self.name, PARTITIONS, self.seed, &self.faults)?;
        let mut callers = (1..=self.callers)
            .map(|number| fixture.caller(number, self.settings(&fixture, number)))
            .collect::<Result<Vec<_>>>()?;
        let feed = fixture.feed(1_000_000, Some(ORDERS_PER_SECOND));
        disturb(&fixture, &mut callers)?;
        let sent = feed.stop()?;
        fixture.finish(self.policy, &mut callers, sent)
    }

    fn settings(&self, fixture: &Fixture, number: u32) -> Settings {
        let url = &fixture.api.url;
        fixture
            .pipeline
            .caller_settings(number, url)
            .with("caller.on_ambiguous", self.policy.as_str())
            .with("verify.url", format!("{url}/{{order_id}}"))
            .with(
                "verify.api_processing_max",
                format!("{}ms", API_PROCESSING_MAX.as_millis()),
            )
            // Loopback loses no packets, and each look-up waits for this too.
            .with("api.transport_timeout", "1s")
    }
}
