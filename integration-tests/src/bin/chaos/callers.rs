//! The callers under test, under `park`: their faults, and the loss of their consumer group.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::api::Api;
use harness::check::at_most_once::Policy;
use harness::cluster::{self, Administrator};
use harness::pipeline::Pipeline;
use harness::process::Interruption;
use harness::wait::{await_until, pause};
use rand_chacha::ChaCha8Rng;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::instance::{Instance, READY_MAX, for_each_at_once};
use crate::plan::{self, CallerFault};
use crate::tally::{Incident, Tally};

/// Maximum time between two losses of the callers' group.
// Each leaves all calls that wait in the outbox ambiguous, and so parked.
const ROUND_MAX: Duration = Duration::from_secs(240);
/// Minimum time left to delete the group.
const GROUP_MIN: Duration = Duration::from_secs(15);
/// Text with which a caller halts a partition whose committed offset is lost.
const HALTED: &str = "no committed offset";

/// Caller under test, and the random stream of its faults.
pub(crate) struct Caller {
    instance: Instance,
    random: ChaCha8Rng,
}

/// All callers.
pub(crate) struct Callers<'a> {
    pipeline: &'a Pipeline,
    all: Vec<Caller>,
}

impl<'a> Callers<'a> {
    /// Returns this number of callers; none runs yet.
    pub(crate) fn new(pipeline: &'a Pipeline, api: &Api, count: u32, seed: u64) -> Result<Self> {
        let all = (1..=count)
            .map(|number| {
                let settings = pipeline
                    .caller_settings(number, &api.url)
                    .with("caller.on_ambiguous", Policy::Park.as_str());
                Ok(Caller {
                    instance: Instance::new(pipeline.service("caller", number, settings)?)?,
                    random: plan::random_stream(seed, plan::CALLERS + number),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { pipeline, all })
    }

    pub(crate) fn start_ready(&mut self, tally: &Tally) -> Result<()> {
        for_each_at_once(&mut self.all, |caller| caller.instance.start_ready(tally))
    }

    pub(crate) fn terminate(&mut self, tally: &Tally) -> Result<()> {
        for_each_at_once(&mut self.all, |caller| caller.instance.terminate(tally))
    }

    /// Injects faults into all callers at the same time, with a loss of their group after each round, until
    /// this time.
    pub(crate) fn inject_until(&mut self, until: Instant, tally: &Tally) -> Result<()> {
        let round = ROUND_MAX.min(until.saturating_duration_since(Instant::now()) / 3);
        while Instant::now() < until {
            let end = until.min(Instant::now() + round);
            for_each_at_once(&mut self.all, |caller| caller.inject_until(end, tally))?;
            if until.saturating_duration_since(Instant::now()) >= GROUP_MIN {
                self.lose_group(tally)
                    .context("the deletion of the callers' group")?;
            }
        }
        Ok(())
    }

    /// All kills and freezes so far.
    pub(crate) fn interruptions(&self) -> Vec<Interruption> {
        self.all
            .iter()
            .flat_map(|caller| caller.instance.service.process.interruptions().to_vec())
            .collect()
    }

    /// Kills all callers, and deletes their group. They must halt until the group is recovered.
    fn lose_group(&mut self, tally: &Tally) -> Result<()> {
        for caller in &mut self.all {
            caller.instance.stop_at_once(tally)?;
        }
        let (kafka, group) = (&self.pipeline.kafka, &self.pipeline.caller_group);
        delete_group(kafka, group, &self.pipeline.topics.pending)?;
        self.expect_halted(tally)?;
        self.terminate(tally)?;
        self.recover_group()?;
        tally.count(Incident::CallersGroupDeleted);
        self.start_ready(tally)
    }

    /// Starts all callers, and waits until each of them that can have a partition has halted.
    fn expect_halted(&mut self, tally: &Tally) -> Result<()> {
        let expected = self.all.len().min(usize::try_from(self.pipeline.partitions)?);
        await_until("the callers halt without their group", READY_MAX, || {
            let mut halted = 0;
            let mut reasons = Vec::new();
            for Caller { instance, .. } in &mut self.all {
                if instance.has_exited(tally)? || instance.service.process.id().is_none() {
                    instance.service.process.start()?;
                }
                let (status, reason) = instance.readiness();
                halted += usize::from(status == Some(503) && reason.contains(HALTED));
                reasons.push(reason);
            }
            Ok(match halted >= expected {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(reasons.join("; ")),
            })
        })
    }

    /// Rebuilds the group from the topics, as an operator does.
    fn recover_group(&self) -> Result<()> {
        // Refused until the group has noticed that the callers left, and while a broker is away.
        await_until("the callers' group is recovered", READY_MAX, || {
            Ok(
                match self.pipeline.recover_caller_group(&self.pipeline.caller_group) {
                    Ok(_) => ControlFlow::Break(()),
                    Err(error) => ControlFlow::Continue(format!("{error:#}")),
                },
            )
        })
    }
}

impl Caller {
    fn inject_until(&mut self, until: Instant, tally: &Tally) -> Result<()> {
        self.instance.start_ready(tally)?;
        while Instant::now() < until {
            let fault = plan::caller_fault(&mut self.random);
            self.inject(fault, tally)
                .and_then(|()| self.instance.start_ready(tally))
                .with_context(|| format!("{}: {fault:?}", self.instance.name()))?;
        }
        Ok(())
    }

    fn inject(&mut self, fault: CallerFault, tally: &Tally) -> Result<()> {
        let instance = &mut self.instance;
        match fault {
            CallerFault::Kill(after) => {
                pause(after)?;
                instance.kill(Incident::CallerKilled, tally)
            }
            CallerFault::KillWhileStarting(after) => {
                instance.kill(Incident::CallerKilled, tally)?;
                instance.service.process.start()?;
                pause(after)?;
                instance.kill(Incident::CallerKilledWhileStarting, tally)
            }
            CallerFault::KillAndStayDown(time) => {
                instance.kill(Incident::CallerKilledAndStayedDown, tally)?;
                pause(time)
            }
            CallerFault::FreezePastSession(time) => instance.freeze(time, Incident::CallerZombie, tally),
            CallerFault::Restart => {
                instance.terminate(tally)?;
                tally.count(Incident::CallerRestarted);
                Ok(())
            }
        }
    }
}

/// Deletes a group whose members were killed, once Kafka has noticed that. Returns the offsets that it had.
pub(crate) fn delete_group(kafka: &str, group: &str, topic: &str) -> Result<TopicPartitionList> {
    let mut offsets = None;
    await_until(&format!("{group} is deleted"), READY_MAX, || {
        let deleted = cluster::committed_with_metadata(kafka, group, topic).and_then(|found| {
            // Of the first attempt that a broker may have carried out; a later one may find no group.
            if offsets.is_none()
                || found
                    .elements()
                    .iter()
                    .any(|of| of.offset().to_raw().is_some_and(|at| at >= 0))
            {
                offsets = Some(found);
            }
            // A new client each time: one that was asked while the coordinator moved goes on asking the old one.
            Administrator::new(kafka)?.delete_group(group)
        });
        Ok(match deleted {
            Ok(()) => ControlFlow::Break(()),
            // By an attempt whose response was lost with its broker.
            Err(error) if format!("{error:#}").contains("does not exist") => ControlFlow::Break(()),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })?;
    offsets.with_context(|| format!("reading the offsets of {group}"))
}
