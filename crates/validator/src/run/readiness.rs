//! Readiness: the validator is ready when each assigned partition is running.

use pipeline::admission::PartitionState;

use crate::run::Loop;

/// Readiness condition that each assigned partition is running.
const PARTITIONS: &str = "partitions";

impl Loop<'_> {
    /// Records that the group has not assigned anything yet, which is not the same as an empty assignment.
    pub(super) fn set_unassigned(&mut self) {
        self.is_assigned = false;
        self.health
            .set_unready(PARTITIONS, "the group has not assigned any partitions yet");
    }

    /// Reports the state of the assigned partitions by readiness and metrics.
    pub(super) fn update_readiness(&self) {
        if !self.is_assigned {
            return;
        }
        let states = self.admission.partitions();
        self.shell.metrics.set_partition_states(states.values());
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
}
