//! Mishaps of all validators together: their state, their group, or the end of the changelog is lost, or the
//! topics have grown.

mod grown_topics;

pub(crate) use self::grown_topics::grow_topics;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::three_brokers::ThreeBrokers;
use harness::cluster::{self, log_truncation};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT};
use harness::wait::{await_until, pause};
use records::{Offset, Partition};

use crate::callers::delete_group;
use crate::instance::{READY_MAX, for_each_at_once};
use crate::observer::Observers;
use crate::plan::Mishap;
use crate::tally::{Incident, Tally};
use crate::validators::Validator;

/// Timeout from the deletion of the group until all orders before it are duplicates.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Everything that a mishap touches.
pub(crate) struct Mishaps<'a> {
    pub(crate) cluster: &'a ThreeBrokers,
    /// Held while a broker is away, so that no two faults of brokers overlap.
    pub(crate) brokers: &'a Mutex<()>,
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) tally: &'a Tally,
}

impl Mishaps<'_> {
    /// Injects a mishap, and starts the validators again.
    pub(crate) fn inject(
        &self,
        mishap: Mishap,
        validators: &mut [Validator],
        observers: &mut Observers,
    ) -> Result<()> {
        match mishap {
            Mishap::AllStateLost => {
                kill_all(validators, self.tally)?;
                validators.iter().try_for_each(Validator::lose_state)?;
                self.tally.count(Incident::AllStateLost);
                self.start_all(validators)
            }
            Mishap::GroupDeleted => self.delete_group(validators, observers),
            Mishap::RollingRestart => rolling_restart(validators, self.tally),
            Mishap::ChangelogTailLost => self.lose_changelog_tail(validators, observers),
        }
        .with_context(|| format!("{mishap:?}"))
    }

    /// Deletes the group: the validators begin with the first order again, and drop all as duplicates.
    fn delete_group(&self, validators: &mut [Validator], observers: &mut Observers) -> Result<()> {
        let (kafka, group) = (&self.pipeline.kafka, &self.pipeline.validator_group);
        let topic = &self.pipeline.topics.orders;
        kill_all(validators, self.tally)?;
        // Until the committed offsets are where they were, they say nothing about the outbox.
        observers.pause_snapshots();
        let lost: HashMap<Partition, Offset> = delete_group(kafka, group, topic)?
            .elements()
            .iter()
            .filter_map(|of| Some((Partition(of.partition()), Offset(of.offset().to_raw()?))))
            .collect();
        self.tally.count(Incident::GroupDeleted);
        self.start_all(validators)?;
        await_until("all orders are read again", AGAIN_MAX, || {
            let committed = match cluster::committed(kafka, group, topic) {
                Ok(committed) => committed,
                Err(error) => return Ok(ControlFlow::Continue(format!("{error:#}"))),
            };
            let is_there = |(partition, offset)| committed.get(partition).is_some_and(|now| now >= offset);
            Ok(match lost.iter().all(is_there) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{committed:?} of {lost:?}")),
            })
        })?;
        observers.resume_snapshots();
        Ok(())
    }

    /// Cuts off the end of the changelog on all replicas. The validators must halt until it is rebuilt from
    /// the outbox.
    fn lose_changelog_tail(&self, validators: &mut [Validator], observers: &mut Observers) -> Result<()> {
        let changelog = &self.pipeline.topics.changelog;
        kill_all(validators, self.tally)?;
        // What was seen of the changelog will have other offsets.
        observers.forget(changelog)?;
        let cut = {
            let _no_other_fault = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
            let cut = self.cluster.kill_all_and_restart(|data| {
                (0..self.pipeline.partitions)
                    .map(|partition| log_truncation::lose_tail(data, &format!("{changelog}-{partition}")))
                    .collect::<Result<Vec<_>>>()
            })?;
            self.cluster.await_in_sync()?;
            cut
        };
        ensure!(
            cut.iter().any(Option::is_some),
            "no partition of {changelog} was long enough to lose its end"
        );
        let halted: Vec<i32> = (0..)
            .zip(&cut)
            .filter_map(|(partition, end)| end.map(|_| partition))
            .collect();
        await_halted(validators, &halted, self.tally)
            .with_context(|| format!("the changelog has lost its end at {cut:?}"))?;
        kill_all(validators, self.tally)?;
        // An attempt that fails has its output in the error, and may have appended entries before.
        let mut appended = false;
        // Refused until the group has noticed that the validators left.
        await_until("the changelog is rebuilt", READY_MAX, || {
            let rebuilt = self.pipeline.rebuild_state();
            let output = match &rebuilt {
                Ok(output) => output.clone(),
                Err(error) => format!("{error:#}"),
            };
            appended |= output.contains(" entries appended");
            Ok(match rebuilt {
                Ok(_) => ControlFlow::Break(()),
                Err(_) => ControlFlow::Continue(output),
            })
        })?;
        ensure!(
            appended,
            "the changelog has lost its end at {cut:?}, and nothing was appended"
        );
        // They are equal to a changelog that is no more.
        validators.iter().try_for_each(Validator::lose_state)?;
        self.tally.count(Incident::ChangelogTailLost);
        observers.follow_again()?;
        self.start_all(validators)
    }

    fn start_all(&self, validators: &mut [Validator]) -> Result<()> {
        for_each_at_once(validators, |validator| validator.instance.start_ready(self.tally))
    }
}

fn kill_all(validators: &mut [Validator], tally: &Tally) -> Result<()> {
    validators
        .iter_mut()
        .try_for_each(|validator| validator.instance.stop_at_once(tally).map(drop))
}

/// Starts the validators, and waits until each of these partitions is halted.
fn await_halted(validators: &mut [Validator], partitions: &[i32], tally: &Tally) -> Result<()> {
    let expected: Vec<String> = partitions
        .iter()
        .map(|partition| format!("partition {partition} is halted"))
        .collect();
    await_until(
        &format!("the partitions {partitions:?} are halted"),
        READY_MAX,
        || {
            let mut seen = String::new();
            for Validator { instance, .. } in &mut *validators {
                if instance.has_exited(tally)? || instance.service.process.id().is_none() {
                    instance.service.process.start()?;
                }
                seen += &instance.readiness().1;
            }
            Ok(match expected.iter().all(|halted| seen.contains(halted)) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(seen),
            })
        },
    )
}

/// Scales down to one validator, which takes all partitions over, up to all, and restarts one after the
/// other.
fn rolling_restart(validators: &mut [Validator], tally: &Tally) -> Result<()> {
    for_each_at_once(&mut validators[1..], |validator| {
        validator.instance.terminate(tally)
    })?;
    // A static member keeps its partitions until its session ends.
    pause(SESSION_TIMEOUT + Duration::from_secs(1))?;
    for validator in &mut *validators {
        validator.instance.start_ready(tally)?;
    }
    for validator in validators {
        validator.instance.terminate(tally)?;
        validator.instance.start_ready(tally)?;
    }
    tally.count(Incident::RollingRestart);
    Ok(())
}
