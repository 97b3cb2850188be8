//! Deletion of the oldest records of partitions.

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset as Below, TopicPartitionList};
use records::{Offset, Partition};

use super::{options, wait};
use crate::client::error::ClientError;

/// Deletes records below these offsets, and returns the partitions where that failed.
// Brokers refuse it (POLICY_VIOLATION) for a topic whose cleanup.policy is `compact` alone.
pub(super) fn delete_records(
    client: &AdminClient<DefaultClientContext>,
    topic: &str,
    below: &[(Partition, Offset)],
) -> Result<Vec<(Partition, ClientError)>, ClientError> {
    let attempted = || format!("deleting the oldest records of {topic}");
    let mut list = TopicPartitionList::with_capacity(below.len());
    for (partition, below) in below {
        list.add_partition_offset(topic, partition.0, Below::Offset(below.0))
            .map_err(|error| ClientError::new(attempted(), error))?;
    }
    let deleted = wait(client.delete_records(&list, &options()))
        .map_err(|error| ClientError::new(attempted(), error))?;
    Ok(deleted
        .elements()
        .iter()
        .filter_map(|of| {
            let partition = Partition(of.partition());
            let error = of.error().err()?;
            let attempted = format!("deleting the oldest records of {topic}/{partition}");
            Some((partition, ClientError::new(attempted, error)))
        })
        .collect())
}
