//! Description of a consumer group: its state, and the partitions of each member.
//!
//! Uses librdkafka's older request for groups, which asks every broker. The newer one, which asks the group's
//! coordinator (`rd_kafka_DescribeConsumerGroups`), aborts the whole process in 2.12.1 when its connection
//! breaks at the wrong moment (librdkafka 4605). rust-rdkafka's binding of the older one loses the response,
//! and leaks its memory, whenever one of several brokers is down.
#![expect(
    unsafe_code,
    reason = "rust-rdkafka 0.39 leaks the list of groups while a broker is down"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use records::Partition;

use crate::client::c_string;

/// A consumer group, as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Set if a broker reported the group. While a group moves from one broker to another, none does.
    pub is_known: bool,
    /// Set if no rebalance is in progress, as far as the coordinator knows.
    pub is_stable: bool,
    /// By member id, the partitions of one topic that the coordinator has assigned to the member.
    pub members: BTreeMap<String, BTreeSet<Partition>>,
}

/// Describes a group, with the partitions of one topic. A group that no broker reports has no members.
/// Blocks.
///
/// # Errors
/// No broker reported the group within the timeout and not all brokers responded, or the response is
/// malformed.
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Group> {
    let name = CString::new(group)?;
    let mut list = GroupList(std::ptr::null());
    // SAFETY: `client` and `name` outlive the call, and `list.0` is valid for the write of one pointer. What
    // is written there is destroyed once, by `GroupList`, also if the call fails.
    let code = unsafe {
        native::rd_kafka_list_groups(
            client.native_ptr(),
            name.as_ptr(),
            &raw mut list.0,
            i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        )
    };
    // A partial response is enough: the broker that is down cannot be the group's coordinator if another one
    // reported the group.
    if code.is_error() && code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTIAL {
        return Err(KafkaError::GroupListFetch(code.into()));
    }
    // SAFETY: librdkafka has written the list, or left it null, and it lives until the end of this function.
    unsafe { list.read(topic) }
}

/// A list of groups that librdkafka has allocated for us, or null.
struct GroupList(*const native::rd_kafka_group_list);

impl GroupList {
    /// Copies the only group out of the list.
    ///
    /// # Safety
    /// The pointer is null, or points to a list of librdkafka that was not destroyed.
    unsafe fn read(&self, topic: &str) -> KafkaResult<Group> {
        // SAFETY: by the caller's promise. The arrays in the list are as long as the counts beside them, the
        // texts end with a zero, and all of them live as long as the list; what is kept is copied.
        unsafe {
            let Some(list) = self.0.as_ref() else {
                return Ok(Group::default());
            };
            // The request named one group, so there is at most one.
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
                let Some(assigned) = parse_assignment(bytes, topic) else {
                    // Passing over the member would make its partitions look unassigned.
                    let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;
                    return Err(KafkaError::GroupListFetch(code.into()));
                };
                members.insert(c_string::copy(member.member_id), assigned);
            }
            let state = c_string::copy(group.state);
            Ok(Group {
                // A coordinator reports a group that it does not know as dead.
                is_known: state != "Dead",
                is_stable: state == "Stable",
                members,
            })
        }
    }
}

impl Drop for GroupList {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: librdkafka allocated the list for us, and this is the only place that destroys it.
            unsafe { native::rd_kafka_group_list_destroy(self.0) };
        }
    }
}

/// Returns a C array as a slice.
///
/// # Safety
/// `first` is null, or points to `count` elements that live and do not change for `'a`.
unsafe fn slice<'a, T>(first: *const T, count: i32) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: `first` is not null, and the rest is the caller's promise.
        Ok(count) if !first.is_null() => unsafe { std::slice::from_raw_parts(first, count) },
        _ => &[],
    }
}

/// Returns the partitions of a topic in an assignment as consumers encode it (`ConsumerProtocolAssignment`):
/// a version, then for each topic its name and its partitions, then user data. No bytes are an empty
/// assignment; `None` is a malformed one.
fn parse_assignment(mut bytes: &[u8], topic: &str) -> Option<BTreeSet<Partition>> {
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

    let mut assigned = BTreeSet::new();
    if bytes.is_empty() {
        return Some(assigned);
    }
    let bytes = &mut bytes;
    // Later versions append fields, and keep these.
    let _version = short(bytes)?;
    for _ in 0..long(bytes)? {
        let length = short(bytes)?.try_into().ok()?;
        let is_wanted = take(bytes, length)? == topic.as_bytes();
        for _ in 0..long(bytes)? {
            let partition = Partition(long(bytes)?);
            if is_wanted {
                assigned.insert(partition);
            }
        }
    }
    Some(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignment_is_parsed_for_one_topic() {
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
        let assigned =
            |topic| parse_assignment(&whole, topic).map(|set| set.iter().map(|p| p.0).collect::<Vec<_>>());
        assert_eq!(assigned("orders"), Some(vec![0, 258]));
        assert_eq!(assigned("a"), Some(vec![7, 8]));
        assert_eq!(assigned("other"), Some(vec![]));
        assert_eq!(parse_assignment(&[], "orders"), Some(BTreeSet::new()));
        for cut in 1..bytes.len() {
            assert_eq!(parse_assignment(&bytes[..cut], "orders"), None, "cut at {cut}");
        }
    }
}
