//! Work of a caller, for its status: the circuit breaker, and the state of each partition.

use std::collections::BTreeMap;

use pipeline::delivery::{BreakerState, Phase};
use records::Partition;
use service::status::{Breaker, PartitionState, PartitionStatus, Work};

/// Returns the work. `halted` has the reasons of the halted partitions.
pub(super) fn of(
    breaker: BreakerState,
    partitions: impl Iterator<Item = (Partition, Phase)>,
    halted: &BTreeMap<Partition, String>,
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
                reason: halted.get(&partition).cloned(),
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
        let halted = [(Partition(4), "no committed offset".to_owned())].into();
        let work = of(BreakerState::Open, partitions.into_iter(), &halted);
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
