//! The generations that a consumer group has been through, as its coordinator wrote them down.
//!
//! Each rebalance writes the group anew to `__consumer_offsets`, with the number of its generation. Members say nothing
//! of it that could be trusted here: one that is thrown out and comes back sees its partitions go and come, or not.

use anyhow::{Context, Result, ensure};

use crate::read_back::topics::{Keep, high_watermarks, read_partition_uncommitted};

const TOPIC: &str = "__consumer_offsets";

/// What a key of the topic begins with if it is a group's, and not an offset's.
const GROUP_KEY: i16 = 2;

/// The generations of a group that are on record, oldest first. Compaction may have taken old ones.
///
/// # Errors
/// The topic cannot be read, or is written in a way that is not known here.
pub fn generations(kafka: &str, group: &str) -> Result<Vec<i32>> {
    let partitions = high_watermarks(kafka, TOPIC)?;
    let count = i32::try_from(partitions.len()).context("a number of partitions")?;
    ensure!(count > 0, "{TOPIC} does not exist");
    let partition = partition_of(group, count);
    let (_, end) = partitions
        .into_iter()
        .find(|(at, _)| at.0 == partition)
        .with_context(|| format!("{TOPIC} has no partition {partition}"))?;
    let mut generations = Vec::new();
    for record in
        read_partition_uncommitted(kafka, TOPIC, (records::Partition(partition), end), Keep::Values)?
    {
        let key = record.key.as_deref().unwrap_or_default();
        if group_of(key) == Some(group.as_bytes())
            && let Some(value) = &record.value
        {
            let generation = generation_of(value).with_context(|| {
                format!(
                    "{TOPIC}/{partition}@{} is written in an unknown way",
                    record.offset
                )
            })?;
            if generations.last() != Some(&generation) {
                generations.push(generation);
            }
        }
    }
    ensure!(!generations.is_empty(), "the group {group} is not on record");
    Ok(generations)
}

/// The partition that a group is written to, as Kafka chooses it (`Utils.abs`): the absolute value of Java's hash of its
/// name, or 0 where there is none.
fn partition_of(group: &str, count: i32) -> i32 {
    java_hash(group).checked_abs().unwrap_or(0) % count
}

fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// The group that a key is of: its version, and the name with its length.
fn group_of(key: &[u8]) -> Option<&[u8]> {
    let (version, rest) = key.split_first_chunk()?;
    let (length, name) = rest.split_first_chunk()?;
    let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
    (i16::from_be_bytes(*version) == GROUP_KEY && name.len() == length).then_some(name)
}

/// The generation in a group's value: behind its version, and the kind of group with its length.
fn generation_of(value: &[u8]) -> Option<i32> {
    let (version, rest) = value.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    // From version 4 on lengths are written in another way.
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
    fn keys_and_values_are_read_as_kafka_writes_them() {
        assert_eq!(java_hash("abc"), 96_354);
        // Its hash is -1,144,640,621, which without its sign bit would give partition 3.
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
