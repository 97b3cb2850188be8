//! The groups of callers: each reads the same outbox under an ambiguity policy of its own, and calls an API of its own.
//! All three APIs inject the same faults, so that the policies compare.

use anyhow::Result;
use harness::api::{self, Api};
use harness::check::at_most_once::Policy;
use harness::check::findings::{self, StageTwoFindings};
use harness::pipeline::{Pipeline, Service};
use harness::process::Interruption;
use harness::read_back::tail::Tail;
use records::Topics;

use crate::setup::API_LATENCY;

/// Policies of the groups, in the order of the table's columns.
pub(crate) const POLICIES: [Policy; 3] = [Policy::Retry, Policy::Park, Policy::Verify];

/// Number of callers of each group.
const CALLERS: u32 = 2;

/// Callers of one policy, with their API.
pub(crate) struct Group {
    pub(crate) policy: Policy,
    /// Name of the consumer group.
    pub(crate) name: String,
    /// The shared topics, and the group's own for outcomes, dead letters and parked calls.
    pub(crate) topics: Topics,
    pub(crate) callers: Vec<Service>,
    pub(crate) api: Api,
}

impl Group {
    /// Creates the group's topics, starts its API, and describes its callers without starting them.
    pub(crate) fn create(policy: Policy, pipeline: &mut Pipeline, seed: u64) -> Result<Self> {
        let topics = own_topics(&pipeline.topics, policy);
        pipeline.create_topics_of_group(&topics)?;
        // The same seed for all: the fault of a request depends on the order and on how often it was sent.
        let faults = api::faults(seed, API_LATENCY);
        let api = Api::start_as(&format!("legacy-api-{}", policy.as_str()), pipeline, &faults)?;
        let mut group = Self {
            policy,
            name: format!("{}-{}", pipeline.caller_group, policy.as_str()),
            topics,
            callers: Vec::new(),
            api,
        };
        group.callers = (1..=CALLERS)
            .map(|number| group.caller(pipeline, number))
            .collect::<Result<_>>()?;
        Ok(group)
    }

    fn caller(&self, pipeline: &Pipeline, number: u32) -> Result<Service> {
        let url = &self.api.url;
        let settings = pipeline
            .caller_settings(number, url)
            .with("kafka.group_id", &self.name)
            .with("topics", &self.topics)
            // Transactional ids are global to the cluster.
            .with("caller.instance_id", format!("{}-{number}", self.name))
            .with("caller.on_ambiguous", self.policy.as_str())
            // Off, because the checkers know one chain of copies per call, and not one for each group.
            .with("deferral.defer_after", "0s")
            // The stand-in takes milliseconds and 300 ms at most, with room for a loaded machine.
            .with("verify.url", format!("{url}/{{order_id}}"))
            .with("verify.api_processing_max", "2s")
            // Loopback loses no packets, and each look-up waits for this too.
            .with("api.transport_timeout", "1s");
        pipeline.service_as(
            &format!("{}-caller-{number}", self.policy.as_str()),
            "caller",
            settings,
        )
    }

    /// Names of the topics in which a call of this group has its final state.
    pub(crate) fn outcome_topics(&self) -> [&str; 3] {
        let topics = &self.topics;
        [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str)
    }

    /// Number of calls that have a final state.
    pub(crate) fn calls_final(&self, tail: &Tail) -> u64 {
        tail.keys_of_all(&self.outcome_topics())
    }

    /// Returns the checker's findings, and the number of kills of the group's callers.
    pub(crate) fn findings(&self, kafka: &str) -> Result<(StageTwoFindings, usize)> {
        // Every kill explains repeated requests; those of the other groups explain none.
        let interruptions: Vec<Interruption> = self
            .callers
            .iter()
            .flat_map(|caller| caller.process.interruptions().to_vec())
            .collect();
        let found =
            findings::stage_two_of_group(self.policy, kafka, &self.topics, &self.api, &interruptions)?;
        Ok((found, interruptions.len()))
    }
}

/// Returns the topics of a group: those of the pipeline, with the outcome topics named for the policy.
pub(crate) fn own_topics(shared: &Topics, policy: Policy) -> Topics {
    let own = |topic: &str| format!("{topic}.{}", policy.as_str());
    Topics {
        processed: own(&shared.processed),
        call_dead_letters: own(&shared.call_dead_letters),
        parked: own(&shared.parked),
        ..shared.clone()
    }
}
