//! Set-up of the demo: the topics, the stand-in API, two validators and two callers.

use std::time::Duration;

use anyhow::Result;
use harness::api::{self, Api};
use harness::pipeline::{Pipeline, Service};
use harness::process::Interruption;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::tail::Tail;

/// Timeout from the start of a program until it is ready.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);
/// Latency of the API.
const API_LATENCY: Duration = Duration::from_millis(3);
/// Timeout of the drain of a program.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// All running processes, and the reader that follows the topics.
// The order of the fields is the order in which they are dropped: the pipeline comes last, because it prints
// the logs of the others if something fails.
pub(crate) struct Setup {
    pub(crate) validators: Vec<Service>,
    pub(crate) callers: Vec<Service>,
    pub(crate) api: Api,
    pub(crate) tail: Tail,
    pub(crate) pipeline: Pipeline,
}

impl Setup {
    /// Creates the topics, starts all processes, and waits until they are ready.
    pub(crate) fn start(partitions: i32, seed: u64) -> Result<Self> {
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
        let mut setup = Self {
            validators: vec![pipeline.validator(1)?, pipeline.validator(2)?],
            callers: vec![pipeline.caller(1, &api.url)?, pipeline.caller(2, &api.url)?],
            api,
            tail,
            pipeline,
        };
        // All start before the first is waited for, so that they get ready at the same time.
        for service in setup.services() {
            service.process.start()?;
        }
        for service in setup.services() {
            await_ready(service, READY_MAX)?;
        }
        Ok(setup)
    }

    /// Returns all four programs, validators first.
    pub(crate) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.validators.iter_mut().chain(&mut self.callers)
    }

    /// Returns the number of calls that have a final state.
    pub(crate) fn calls_final(&self) -> u64 {
        let topics = &self.pipeline.topics;
        self.tail
            .keys_of_all(&[&topics.processed, &topics.call_dead_letters, &topics.parked])
    }

    /// Returns every kill of a caller, which explains repeated requests.
    pub(crate) fn caller_interruptions(&self) -> Vec<Interruption> {
        self.callers
            .iter()
            .flat_map(|caller| caller.process.interruptions().to_vec())
            .collect()
    }

    /// Drains all programs with SIGTERM.
    pub(crate) fn stop(&mut self) -> Result<()> {
        // Validators first: the callers still make the calls that those have just admitted.
        for service in self.services() {
            service.process.terminate(DRAIN_MAX)?;
        }
        Ok(())
    }
}
