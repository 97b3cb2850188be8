//! Set-up of the demo: the topics, two validators, and for each policy a stand-in API and two callers.

use std::time::Duration;

use anyhow::Result;
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::tail::Tail;

use crate::groups::{Group, POLICIES};

/// Timeout from the start of a program until it is ready.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);
/// Latency of the APIs.
pub(crate) const API_LATENCY: Duration = Duration::from_millis(3);
/// Timeout of the drain of a program.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// All running processes, and the reader that follows the topics.
// The order of the fields is the order in which they are dropped: the pipeline comes last, because it prints
// the logs of the others if something fails.
pub(crate) struct Setup {
    pub(crate) validators: Vec<Service>,
    pub(crate) groups: Vec<Group>,
    pub(crate) tail: Tail,
    pub(crate) pipeline: Pipeline,
}

impl Setup {
    /// Creates the topics, starts all processes, and waits until they are ready.
    pub(crate) fn start(partitions: i32, seed: u64) -> Result<Self> {
        let mut pipeline = Pipeline::without_topics("demo", partitions)?;
        let groups = POLICIES
            .into_iter()
            .map(|policy| Group::create(policy, &mut pipeline, seed))
            .collect::<Result<Vec<_>>>()?;
        let mut followed = vec![
            pipeline.topics.pending.as_str(),
            pipeline.topics.order_dead_letters.as_str(),
        ];
        followed.extend(groups.iter().flat_map(Group::outcome_topics));
        let tail = Tail::start(&pipeline.kafka, &followed)?;
        let mut setup = Self {
            validators: vec![pipeline.validator(1)?, pipeline.validator(2)?],
            groups,
            tail,
            pipeline,
        };
        // All start before the first is waited for, so that they get ready at the same time. The callers are ready
        // before the first order: a group without offsets starts beside an empty outbox only.
        for service in setup.services() {
            service.process.start()?;
        }
        for service in setup.services() {
            await_ready(service, READY_MAX)?;
        }
        Ok(setup)
    }

    /// Returns the validators and callers, validators first.
    pub(crate) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        let callers = self.groups.iter_mut().flat_map(|group| &mut group.callers);
        self.validators.iter_mut().chain(callers)
    }

    /// Returns the number of calls that have a final state, for each group.
    pub(crate) fn calls_final(&self) -> [u64; POLICIES.len()] {
        std::array::from_fn(|index| self.groups[index].calls_final(&self.tail))
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
