//! Who plays: the topics, the stand-in API, two validators and two callers.

use std::time::Duration;

use anyhow::Result;
use harness::api::{self, Api};
use harness::pipeline::{Pipeline, Service};
use harness::process::Interruption;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::tail::Tail;

/// How long a program may take from its start until it is ready.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);
/// What the API takes for an answer.
const API_LATENCY: Duration = Duration::from_millis(3);
/// How long a program may take to drain.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// All that runs. The pipeline stands last, because it is dropped last: it has the logs of the others.
pub(crate) struct Stage {
    pub(crate) validators: Vec<Service>,
    pub(crate) callers: Vec<Service>,
    pub(crate) api: Api,
    pub(crate) tail: Tail,
    pub(crate) pipeline: Pipeline,
}

impl Stage {
    /// Creates the topics and starts everything.
    pub(crate) fn set(partitions: i32, seed: u64) -> Result<Self> {
        let pipeline = Pipeline::create("demo", partitions)?;
        let api = Api::start(&pipeline, &api::faults(seed, API_LATENCY))?;
        let topics = &pipeline.topics;
        let tail = Tail::start(
            &pipeline.kafka,
            &[
                &topics.pending,
                &topics.order_dead_letters,
                &topics.processed,
                &topics.call_dead_letters,
                &topics.parked,
            ],
        )?;
        let mut stage = Self {
            validators: vec![pipeline.validator(1)?, pipeline.validator(2)?],
            callers: vec![pipeline.caller(1, &api.url)?, pipeline.caller(2, &api.url)?],
            api,
            tail,
            pipeline,
        };
        for service in stage.services() {
            service.process.start()?;
        }
        for service in stage.services() {
            await_ready(service, READY_MAX)?;
        }
        Ok(stage)
    }

    /// All four programs.
    pub(crate) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.validators.iter_mut().chain(&mut self.callers)
    }

    /// How many calls have ended.
    pub(crate) fn calls_final(&self) -> u64 {
        let topics = &self.pipeline.topics;
        self.tail
            .keys_of_all(&[&topics.processed, &topics.call_dead_letters, &topics.parked])
    }

    /// The kills of callers.
    pub(crate) fn caller_interruptions(&self) -> Vec<Interruption> {
        self.callers
            .iter()
            .flat_map(|caller| caller.process.interruptions().to_vec())
            .collect()
    }

    /// SIGTERM to all, callers last: they drain what the validators wrote.
    pub(crate) fn stop(&mut self) -> Result<()> {
        for service in self.services() {
            service.process.terminate(DRAIN_MAX)?;
        }
        Ok(())
    }
}
