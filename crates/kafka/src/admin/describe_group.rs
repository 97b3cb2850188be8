//! How a consumer group stands with Kafka: whether it is at rest, and which member has which partitions.
//!
//! librdkafka's older request for groups is made, which asks each broker. The newer one, which asks the group's
//! coordinator (`rd_kafka_DescribeConsumerGroups`), ends the whole process in 2.12.1 when its connection breaks at the
//! wrong moment (librdkafka 4605). rust-rdkafka's binding of the older one loses the answer, and its memory, whenever
//! one of several brokers is away.
#![expect(
    unsafe_code,
    reason = "rust-rdkafka 0.39 leaks the groups that it is told of while a broker is away"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use records::Partition;

/// A consumer group, as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Some broker told of it. One that is on its way from one broker to another is told of by none.
    pub is_known: bool,
    /// No rebalance is under way, as far as the coordinator knows.
    pub is_stable: bool,
    /// By member id, the partitions of one topic that the coordinator has handed to each.
    pub members: BTreeMap<String, BTreeSet<Partition>>,
}

/// Describes a group, with the partitions of one topic. One that no broker tells of has no members. Blocks.
///
/// # Errors
/// No broker told of the group within the limit, and not all answered; or what it told is not understood.
pub(crate) fn of<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topic: &str,
    limit: Duration,
) -> KafkaResult<Group> {
    let name = CString::new(group)?;
    let mut list = Groups(std::ptr::null());
    // SAFETY: the client and the name outlive the call; the list is given back by `Groups`, where there is one.
    let code = unsafe {
        native::rd_kafka_list_groups(
            client.native_ptr(),
            name.as_ptr(),
            &raw mut list.0,
            i32::try_from(limit.as_millis()).unwrap_or(i32::MAX),
        )
    };
    // Partial: some other broker is away.
    if code.is_error() && code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTIAL {
        return Err(KafkaError::GroupListFetch(code.into()));
    }
    // SAFETY: the list lives until the end, and all that is kept of it is copied.
    unsafe { list.read(topic) }
}

/// What librdkafka was told.
struct Groups(*const native::rd_kafka_group_list);

impl Groups {
    /// # Safety
    /// It is librdkafka's, or null.
    unsafe fn read(&self, topic: &str) -> KafkaResult<Group> {
        // SAFETY: as the caller promises; the arrays are as long as librdkafka says.
        unsafe {
            let Some(list) = self.0.as_ref() else {
                return Ok(Group::default());
            };
            let Some(group) = slice(list.groups, list.group_cnt).first() else {
                return Ok(Group::default());
            };
            if group.err.is_error() {
                return Err(KafkaError::GroupListFetch(group.err.into()));
            }
            let mut members = BTreeMap::new();
            for member in slice(group.members, group.member_cnt) {
                let bytes = slice(
                    member.member_assignment.cast::<u8>(),
                    member.member_assignment_size,
                );
                let Some(owned) = assigned(bytes, topic) else {
                    let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;
                    return Err(KafkaError::GroupListFetch(code.into()));
                };
                members.insert(copied(member.member_id), owned);
            }
            let state = copied(group.state);
            Ok(Group {
                // What a coordinator says of a group that it does not know.
                is_known: state != "Dead",
                is_stable: state == "Stable",
                members,
            })
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was made by librdkafka for us and is given back once.
            unsafe { native::rd_kafka_group_list_destroy(self.0) };
        }
    }
}

/// # Safety
/// There are as many elements as `count` says, unless it is null.
unsafe fn slice<'a, T>(first: *const T, count: i32) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: as the caller promises.
        Ok(count) if !first.is_null() => unsafe { std::slice::from_raw_parts(first, count) },
        _ => &[],
    }
}

/// # Safety
/// The text is null or ends with a zero.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The partitions of the topic in an assignment as consumers write it (`ConsumerProtocolAssignment`): a version, then
/// for each topic its name and its partitions; what follows is of no interest. Without a byte: nothing is assigned.
/// `None`: it is not understood.
fn assigned(mut bytes: &[u8], topic: &str) -> Option<BTreeSet<Partition>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn short(bytes: &mut &[u8]) -> Option<i16> {
        Some(i16::from_be_bytes(take(bytes, 2)?.try_into().ok()?))
    }
    fn long(bytes: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }

    let mut owned = BTreeSet::new();
    if bytes.is_empty() {
        return Some(owned);
    }
    let bytes = &mut bytes;
    let _version = short(bytes)?;
    for _ in 0..long(bytes)? {
        let length = short(bytes)?.try_into().ok()?;
        let is_ours = take(bytes, length)? == topic.as_bytes();
        for _ in 0..long(bytes)? {
            let partition = Partition(long(bytes)?);
            if is_ours {
                owned.insert(partition);
            }
        }
    }
    Some(owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_for_one_topic() {
        let mut bytes: Vec<u8> = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("a", [7, 8].as_slice()), ("orders", &[0, 258])] {
            bytes.extend([0, u8::try_from(topic.len()).expect("short")]);
            bytes.extend(topic.bytes());
            bytes.extend([0, 0, 0, 2]);
            bytes.extend(
                partitions
                    .iter()
                    .flat_map(|partition: &i32| partition.to_be_bytes()),
            );
        }
        let user_data = [0xff; 4];
        let whole = [&bytes[..], &user_data].concat();
        let owned =
            |topic| assigned(&whole, topic).map(|owned| owned.iter().map(|p| p.0).collect::<Vec<_>>());
        assert_eq!(owned("orders"), Some(vec![0, 258]));
        assert_eq!(owned("a"), Some(vec![7, 8]));
        assert_eq!(owned("other"), Some(vec![]));
        assert_eq!(assigned(&[], "orders"), Some(BTreeSet::new()));
        for cut in 1..bytes.len() {
            assert_eq!(assigned(&bytes[..cut], "orders"), None, "cut at {cut}");
        }
    }
}
