//! Work of a caller, for its status: the circuit breaker, and the state of each partition.

use pipeline::delivery::{BreakerState, Phase};
use records::Partition;
use service::status::{Breaker, PartitionState, PartitionStatus, Work};

use crate::effects::load_offsets::assigned::AssignedPartitions;

/// Returns the work. `assigned` has the reasons of the partitions that are not being read.
pub(super) fn of(
    breaker: BreakerState,
    partitions: impl Iterator<Item = (Partition, Phase)>,
    assigned: &AssignedPartitions,
) -> Work {
    Work {
        breaker: Some(match breaker {
            BreakerState::Closed => Breaker::Closed,
            BreakerState::Open => Breaker::Open,
            BreakerState::Probing => Breaker::Probing,
        }),
        partitions: partitions
            .map(|(partition, phase)| PartitionStatus {
                partition: partition.0,
                state: match phase {
                    Phase::Loading => PartitionState::Loading,
                    Phase::Halted => PartitionState::Halted,
                    Phase::Active => PartitionState::Running,
                    Phase::Draining => PartitionState::Draining,
                },
                reason: assigned.reason_of(partition).map(str::to_owned),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halted_partition_has_its_reason() {
        let partitions = [(Partition(0), Phase::Active), (Partition(4), Phase::Halted)];
        let mut assigned = AssignedPartitions::default();
        assigned.halt(Partition(4), "no committed offset".into());
        let work = of(BreakerState::Open, partitions.into_iter(), &assigned);
        assert_eq!(work.breaker, Some(Breaker::Open));
        let shown: Vec<_> = work
            .partitions
            .iter()
            .map(|of| (of.partition, of.state, of.reason.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                (0, PartitionState::Running, None),
                (4, PartitionState::Halted, Some("no committed offset"))
            ]
        );
    }
}
