//! The few fields of Kafka requests that the rules read.
//!
//! ```text
//! length (4) │ api key (2) │ api version (2) │ correlation id (4) │ client id (2 + n) │ body
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// API key of Produce.
pub(crate) const PRODUCE: i16 = 0;
/// API key of `ListOffsets`.
pub(crate) const LIST_OFFSETS: i16 = 2;
/// API key of `OffsetCommit`.
pub(crate) const OFFSET_COMMIT: i16 = 8;
/// API key of `FindCoordinator`.
pub(crate) const FIND_COORDINATOR: i16 = 10;
/// API key of `JoinGroup`.
pub(crate) const JOIN_GROUP: i16 = 11;
/// API key of `EndTxn`.
pub(crate) const END_TXN: i16 = 26;
/// API key of `TxnOffsetCommit`.
pub(crate) const TXN_OFFSET_COMMIT: i16 = 28;

/// Splits each connection's byte stream into whole requests.
#[derive(Default)]
pub(crate) struct RequestSplitter {
    incomplete: Mutex<HashMap<u64, Vec<u8>>>,
}

impl RequestSplitter {
    /// Returns the requests that these bytes complete; keeps the rest for the connection's next bytes.
    pub(crate) fn split(&self, connection: u64, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut incomplete = self.incomplete.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = incomplete.remove(&connection).unwrap_or_default();
        buffer.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(length) = request_length(&buffer) {
            let rest = buffer.split_off(length);
            whole.push(std::mem::replace(&mut buffer, rest));
        }
        incomplete.insert(connection, buffer);
        whole
    }
}

fn request_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    // The length does not count its own four bytes.
    let whole = 4 + usize::try_from(length).ok()?;
    (bytes.len() >= whole).then_some(whole)
}

/// Returns the API key of a request; -1, which Kafka does not use, if the request is too short.
pub(crate) fn api_key(request: &[u8]) -> i16 {
    int16(request, 4).unwrap_or(-1)
}

/// Returns the correlation id of a request, which its response repeats behind the length.
pub(crate) fn correlation_id(request: &[u8]) -> &[u8] {
    request.get(8..12).unwrap_or_default()
}

/// Returns the error code of the first partition in an `OffsetCommit` response of version 8 or 9, or in a
/// `TxnOffsetCommit` response of version 3: the latest that librdkafka sends.
pub(crate) fn offset_commit_error(response: &[u8]) -> Option<i16> {
    // Length (4), correlation id (4), tags (1), throttle time (4), number of topics (1), then the first
    // topic's name behind its length plus one (1), number of partitions (1), partition (4).
    let name = usize::from(*response.get(14)?).checked_sub(1)?;
    int16(response, 15 + name + 1 + 4)
}

/// Returns true for a `FindCoordinator` request for a consumer group.
pub(crate) fn is_find_group_coordinator(request: &[u8]) -> bool {
    // Version 0 has no key type, and from version 3 on fields are encoded as compact strings. librdkafka
    // sends 1 or 2.
    let is_known_version = matches!(int16(request, 6), Some(1 | 2));
    let key_type = || {
        let client_id = usize::try_from(int16(request, 12)?).ok()?;
        let key = usize::try_from(int16(request, 14 + client_id)?).ok()?;
        request.get(16 + client_id + key).copied()
    };
    // Key type 0 is a group, 1 a transactional id.
    api_key(request) == FIND_COORDINATOR && is_known_version && key_type() == Some(0)
}

/// Returns the partitions of this topic in a `ListOffsets` request of version 6 or 7: the latest that librdkafka sends.
pub(crate) fn listed_partitions(request: &[u8], topic: &str) -> Vec<i32> {
    if api_key(request) != LIST_OFFSETS || !matches!(int16(request, 6), Some(6 | 7)) {
        return Vec::new();
    }
    // A compact string: its length plus one, then the name.
    let name: Vec<u8> = u8::try_from(topic.len() + 1)
        .into_iter()
        .chain(topic.bytes())
        .collect();
    let Some(at) = request.windows(name.len()).position(|window| window == name) else {
        return Vec::new();
    };
    // The number of partitions plus one, then of each its number (4), leader epoch (4), time (8) and tags (1).
    let Some((count, partitions)) = request.get(at + name.len()..).and_then(<[u8]>::split_first) else {
        return Vec::new();
    };
    partitions
        .chunks(4 + 4 + 8 + 1)
        .take(usize::from(count.saturating_sub(1)))
        .filter_map(|partition| Some(i32::from_be_bytes(*partition.first_chunk()?)))
        .collect()
}

/// Returns the big-endian 16-bit integer at a byte index.
pub(crate) fn int16(bytes: &[u8], index: usize) -> Option<i16> {
    let bytes = bytes.get(index..)?.first_chunk()?;
    Some(i16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_coordinator(version: i16, key_type: u8) -> Vec<u8> {
        let mut request = Vec::new();
        request.extend(FIND_COORDINATOR.to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend([0, 0, 0, 9]);
        for name in ["client", "group"] {
            request.extend(u16::try_from(name.len()).expect("a short name").to_be_bytes());
            request.extend(name.as_bytes());
        }
        request.push(key_type);
        let length = u32::try_from(request.len()).expect("a short request");
        [&length.to_be_bytes()[..], &request].concat()
    }

    #[test]
    fn requests_are_split_per_connection() {
        let (first, second) = (find_coordinator(2, 0), find_coordinator(2, 1));
        let both = [&first[..], &second].concat();
        let splitter = RequestSplitter::default();
        assert_eq!(splitter.split(1, &both[..7]), Vec::<Vec<u8>>::new());
        assert_eq!(splitter.split(2, &second), std::slice::from_ref(&second));
        assert_eq!(splitter.split(1, &both[7..]), [first, second]);
    }

    #[test]
    fn partitions_of_a_list_offsets_request() {
        // Client id "c", replica -1, read_committed, one topic.
        let head = [0, 2, 0, 7, 0, 0, 0, 9, 0, 1, b'c', 0, 255, 255, 255, 255, 1, 2];
        let topic = [4, b't', b'-', b'1', 3];
        let partition = |number: u8| [&[0, 0, 0, number], &[255; 12][..], &[0]].concat();
        let request = [&head[..], &topic, &partition(3), &partition(5), &[0, 0]].concat();
        let length = u32::try_from(request.len()).expect("a short request");
        let request = [&length.to_be_bytes()[..], &request].concat();
        assert_eq!(listed_partitions(&request, "t-1"), [3, 5]);
        assert!(listed_partitions(&request, "t-2").is_empty());
        assert!(listed_partitions(&find_coordinator(2, 0), "group").is_empty());
    }

    #[test]
    fn only_group_coordinator_requests_match() {
        assert!(is_find_group_coordinator(&find_coordinator(2, 0)));
        assert!(!is_find_group_coordinator(&find_coordinator(2, 1)));
        assert!(!is_find_group_coordinator(&find_coordinator(3, 0)));
    }
}
