//! Readiness: the validator is ready when each assigned partition is running, and most of its records are not
//! refused. Beside it, the state of each partition, for the status.

use std::collections::BTreeSet;

use pipeline::admission::{MassRefusal, PartitionState};
use records::Partition;
use service::status::{self, PartitionStatus, Work};

use crate::run::Loop;

/// Readiness condition that each assigned partition is running.
const PARTITIONS: &str = "partitions";
/// Readiness condition that refusals in mass break.
const REFUSALS: &str = "refusals";

impl Loop<'_> {
    /// Records that the group has not assigned anything yet, which is not the same as an empty assignment.
    pub(super) fn set_unassigned(&mut self) {
        self.is_assigned = false;
        self.health
            .set_unready(PARTITIONS, "the group has not assigned any partitions yet");
        self.work.set(Work::default());
    }

    /// Reports the state of the assigned partitions by readiness and metrics.
    pub(super) fn update_readiness(&mut self) {
        if !self.is_assigned {
            return;
        }
        self.report_mass_refusals();
        let states = self.admission.partitions();
        self.shell.metrics.set_partition_states(states.values());
        self.work.set(Work {
            breaker: None,
            partitions: states
                .iter()
                .map(|(partition, state)| self.partition_status(*partition, state))
                .collect(),
        });
        let waiting: Vec<String> = states
            .iter()
            .filter_map(|(partition, state)| match state {
                PartitionState::Running { .. } => None,
                PartitionState::AwaitsProducer => {
                    Some(format!("partition {partition} waits for the producer"))
                }
                PartitionState::Restoring(_) => Some(match self.shell.restorers.last_error(*partition) {
                    None => format!("partition {partition} is being restored"),
                    Some(error) => {
                        format!("partition {partition} is being restored; the last attempt failed: {error}")
                    }
                }),
                PartitionState::Halted(reason) => Some(format!("partition {partition} is halted: {reason}")),
            })
            .collect();
        if waiting.is_empty() {
            self.health.set_ready(PARTITIONS);
        } else {
            self.health.set_unready(PARTITIONS, waiting.join("; "));
        }
    }

    fn partition_status(&self, partition: Partition, state: &PartitionState) -> PartitionStatus {
        let (state, reason) = match state {
            PartitionState::Running { .. } => (status::PartitionState::Running, None),
            PartitionState::AwaitsProducer => (status::PartitionState::AwaitsProducer, None),
            PartitionState::Restoring(_) => (
                status::PartitionState::Restoring,
                self.shell.restorers.last_error(partition),
            ),
            PartitionState::Halted(reason) => (status::PartitionState::Halted, Some(reason.clone())),
        };
        PartitionStatus {
            partition: partition.0,
            state,
            reason,
        }
    }

    /// Reports partitions most of whose records are refused by readiness, logs and metrics.
    fn report_mass_refusals(&mut self) {
        let dead_letters = &self.shell.config.topics.order_dead_letters;
        let pause = self.shell.config.refusals.pause;
        let refusals: Vec<(Partition, MassRefusal)> = self.admission.mass_refusals().collect();
        let refusing: BTreeSet<Partition> = refusals.iter().map(|(partition, _)| *partition).collect();
        for (partition, refusal) in &refusals {
            // Only the first report is a line, because each further refusal changes the numbers.
            if self.refusing.contains(partition) {
                continue;
            }
            self.shell.metrics.mass_refusals.inc();
            tracing::error!(
                %partition,
                refused = refusal.refused,
                of = refusal.of,
                reason = refusal.reason.as_str(),
                offset = %refusal.offset,
                dead_letters,
                ?pause,
                "most records are refused, partition paused after each further one, operator action required"
            );
        }
        for partition in self.refusing.difference(&refusing) {
            tracing::info!(%partition, "most records are no longer refused");
        }
        self.refusing = refusing;
        if refusals.is_empty() {
            self.health.set_ready(REFUSALS);
        } else {
            let reasons = refusals.iter().map(|(partition, refusal)| {
                format!(
                    "partition {partition} is paused for {pause:?} after each refused record: {} of its last {} \
                     records were refused, the last one at offset {} ({})",
                    refusal.refused, refusal.of, refusal.offset, refusal.reason
                )
            });
            let reasons: Vec<String> = reasons.collect();
            self.health.set_unready(
                REFUSALS,
                format!(
                    "{}. A setting such as validator.idempotency_key may be wrong, or a producer may have \
                     changed its schema; the refused records are in {dead_letters}, each with the reason. \
                     Correct the setting or the producer. If the refusals are right, restart the validator \
                     with refusals.threshold = 0",
                    reasons.join("; ")
                ),
            );
        }
    }
}
