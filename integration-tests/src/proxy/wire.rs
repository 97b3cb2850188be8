//! The little of Kafka's protocol that a proxy reads.
//!
//! A request is its length (4 bytes), its kind (2), the kind's version (2), a number that its answer repeats (4), the
//! client's name (a string: 2 bytes of length, and the bytes), and the rest.

use std::collections::HashMap;

/// The kind of a request that writes records.
pub(crate) const PRODUCE: i16 = 0;
/// The kind of a request that asks who coordinates a group or a transactional id.
pub(crate) const FIND_COORDINATOR: i16 = 10;
/// The kind of a request that joins a consumer group.
pub(crate) const JOIN_GROUP: i16 = 11;
/// The kind of a request that ends a transaction.
pub(crate) const END_TXN: i16 = 26;

/// Whole requests, out of what each client has said so far.
#[derive(Default)]
pub(crate) struct Requests {
    incomplete: HashMap<u64, Vec<u8>>,
}

impl Requests {
    /// The requests that are complete with this; the rest is kept for what comes next on the connection.
    pub(crate) fn take(&mut self, connection: u64, said: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = self.incomplete.remove(&connection).unwrap_or_default();
        bytes.extend_from_slice(said);
        let mut whole = Vec::new();
        while let Some(length) = request_length(&bytes) {
            let rest = bytes.split_off(length);
            whole.push(std::mem::replace(&mut bytes, rest));
        }
        self.incomplete.insert(connection, bytes);
        whole
    }
}

fn request_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let whole = 4 + usize::try_from(length).ok()?;
    (bytes.len() >= whole).then_some(whole)
}

/// The kind of a request; -1 for what is none.
pub(crate) fn api_key(request: &[u8]) -> i16 {
    number(request, 4).unwrap_or(-1)
}

/// Whether it asks who coordinates a consumer group. From version 1 on the name is followed by what it names: 0 is a
/// group. Later versions than 2 are written otherwise, and are not read.
pub(crate) fn asks_for_group_coordinator(request: &[u8]) -> bool {
    let kind = || {
        let client = usize::try_from(number(request, 12)?).ok()?;
        let name = usize::try_from(number(request, 14 + client)?).ok()?;
        request.get(16 + client + name).copied()
    };
    api_key(request) == FIND_COORDINATOR && matches!(number(request, 6), Some(1 | 2)) && kind() == Some(0)
}

/// The number of two bytes at a place.
pub(crate) fn number(bytes: &[u8], place: usize) -> Option<i16> {
    let bytes = bytes.get(place..)?.first_chunk()?;
    Some(i16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_coordinator(version: i16, kind: u8) -> Vec<u8> {
        let mut request = Vec::new();
        request.extend(FIND_COORDINATOR.to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend([0, 0, 0, 9]);
        for name in ["client", "group"] {
            request.extend(u16::try_from(name.len()).expect("a short name").to_be_bytes());
            request.extend(name.as_bytes());
        }
        request.push(kind);
        let length = u32::try_from(request.len()).expect("a short request");
        [&length.to_be_bytes()[..], &request].concat()
    }

    #[test]
    fn requests_are_cut_where_they_end() {
        let (first, second) = (find_coordinator(2, 0), find_coordinator(2, 1));
        let both = [&first[..], &second].concat();
        let mut requests = Requests::default();
        assert_eq!(requests.take(1, &both[..7]), Vec::<Vec<u8>>::new());
        assert_eq!(requests.take(2, &second), std::slice::from_ref(&second));
        assert_eq!(requests.take(1, &both[7..]), [first, second]);
    }

    #[test]
    fn only_a_group_s_coordinator_is_meant() {
        assert!(asks_for_group_coordinator(&find_coordinator(2, 0)));
        assert!(!asks_for_group_coordinator(&find_coordinator(2, 1)));
        assert!(!asks_for_group_coordinator(&find_coordinator(3, 0)));
    }
}
