//! Whether the topic of the outcomes still has each one that an order can have.

use kafka::ClientError;
use kafka::group_offsets::GroupOffsets;
use pipeline::ledger::KeptOutcomes;
use records::{Bounds, Partition, Timestamp};

use crate::brokers::REQUEST_TIMEOUT;

/// End of the reading of a partition at its first record.
enum Stop {
    At(Option<Timestamp>),
    Failed(ClientError),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

/// Returns what the topic still has, by the first record of each of its partitions. Asked for after its outcomes were read:
/// one that is deleted meanwhile then counts as gone.
pub(super) fn kept_outcomes(
    offsets: &GroupOffsets,
    topic: &str,
    partitions: &[Partition],
) -> anyhow::Result<KeptOutcomes> {
    let mut kept = KeptOutcomes::default();
    for partition in partitions {
        let bounds = offsets.bounds(topic, *partition, REQUEST_TIMEOUT)?;
        kept.partition(bounds.start, first_at(offsets, topic, *partition, bounds)?);
    }
    Ok(kept)
}

fn first_at(
    offsets: &GroupOffsets,
    topic: &str,
    partition: Partition,
    bounds: Bounds,
) -> anyhow::Result<Option<Timestamp>> {
    match offsets.read(topic, partition, bounds, |record| Err(Stop::At(record.at))) {
        // Neither a record, nor one that is committed.
        Ok(()) => Ok(None),
        Err(Stop::At(first)) => Ok(first),
        Err(Stop::Failed(error)) => Err(error.into()),
    }
}
