//! Generations of a consumer group, read from `__consumer_offsets`.
//!
//! Each rebalance writes the group's metadata again, with the new generation. The members' logs are no
//! substitute: a member that is evicted and rejoins may see its partitions revoked and assigned, or may not.

use anyhow::{Context, Result, ensure};

use crate::read_back::topics::{Keep, high_watermarks, read_partition_uncommitted};

const TOPIC: &str = "__consumer_offsets";

/// Key version of group metadata; 0 and 1 are offset commits.
const GROUP_METADATA_KEY: i16 = 2;

/// Returns the recorded generations of a group, oldest first. Compaction may have removed old ones.
///
/// # Errors
/// The topic cannot be read, or has a record of an unknown version.
pub fn generations(kafka: &str, group: &str) -> Result<Vec<i32>> {
    let partitions = high_watermarks(kafka, TOPIC)?;
    let count = i32::try_from(partitions.len()).context("number of partitions")?;
    ensure!(count > 0, "{TOPIC} does not exist");
    let partition = partition_of(group, count);
    let (_, end) = partitions
        .into_iter()
        .find(|(at, _)| at.0 == partition)
        .with_context(|| format!("{TOPIC} has no partition {partition}"))?;
    let mut generations = Vec::new();
    // Uncommitted: group metadata is written outside transactions, but open offset commits share the
    // partition.
    for record in
        read_partition_uncommitted(kafka, TOPIC, (records::Partition(partition), end), Keep::Values)?
    {
        let key = record.key.as_deref().unwrap_or_default();
        if group_of(key) == Some(group.as_bytes())
            && let Some(value) = &record.value
        {
            let generation = generation_of(value).with_context(|| {
                format!(
                    "{TOPIC}/{partition}@{} is group metadata of an unknown version",
                    record.offset
                )
            })?;
            // Other changes of a group, such as a new leader, write the same generation again.
            if generations.last() != Some(&generation) {
                generations.push(generation);
            }
        }
    }
    ensure!(
        !generations.is_empty(),
        "{TOPIC} has no metadata of the group {group}"
    );
    Ok(generations)
}

/// Returns the partition of a group, as `GroupMetadataManager.partitionFor` computes it.
fn partition_of(group: &str, count: i32) -> i32 {
    // `Utils.abs`: the absolute value, and 0 for the smallest integer, which has none.
    java_hash(group).checked_abs().unwrap_or(0) % count
}

/// Returns what Java's `String.hashCode` returns.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// Returns the group of a group metadata key: version (2), name (2 + n).
fn group_of(key: &[u8]) -> Option<&[u8]> {
    let (version, rest) = key.split_first_chunk()?;
    let (length, name) = rest.split_first_chunk()?;
    let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
    (i16::from_be_bytes(*version) == GROUP_METADATA_KEY && name.len() == length).then_some(name)
}

/// Returns the generation in a group metadata value: version (2), protocol type (2 + n), generation (4).
fn generation_of(value: &[u8]) -> Option<i32> {
    let (version, rest) = value.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    // From version 4 on lengths are varints.
    if !(0..=3).contains(&i16::from_be_bytes(*version)) {
        return None;
    }
    let rest = rest.get(usize::try_from(i16::from_be_bytes(*length)).ok()?..)?;
    let (generation, _) = rest.split_first_chunk()?;
    Some(i32::from_be_bytes(*generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_metadata_records_are_parsed() {
        assert_eq!(java_hash("abc"), 96_354);
        // Hash -1,144,640,621: clearing the sign bit instead of `Utils.abs` would give partition 3.
        assert_eq!(partition_of("order-validator", 4), 1);
        let key = [&[0, 2, 0, 3][..], b"abc"].concat();
        assert_eq!(group_of(&key), Some(&b"abc"[..]));
        let offset_key = [&[0, 1, 0, 3][..], b"abc", &[0, 1], b"t", &[0, 0, 0, 1]].concat();
        assert_eq!(group_of(&offset_key), None);
        let value = [&[0, 3, 0, 8][..], b"consumer", &[0, 0, 1, 2, 0, 5], b"range"].concat();
        assert_eq!(generation_of(&value), Some(258));
        assert_eq!(generation_of(&[0, 4, 9, 1, 1, 1]), None);
        assert_eq!(generation_of(&[]), None);
    }
}
