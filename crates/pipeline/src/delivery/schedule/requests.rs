//! Requests of this process, by the position of their calls. They outlive assignments.
//!
//! A lost partition may come back a moment later, and with it calls whose requests are still in flight, or
//! that are final and could not be committed. This process remembers them and does not send them again. What
//! another owner has sent meanwhile changes nothing of that.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use records::{IdempotencyKey, Offset, Partition};

use crate::delivery::call::History;
use crate::delivery::event::CallId;
use crate::delivery::response::ClassifiedResponse;

/// Maximum number of calls that are remembered for partitions that are not ours.
// Beyond it the newest are forgotten, and may be sent again, as any other owner would send them.
const KNOWN_MAX: usize = 20_000;

/// Requests in flight, and results that no open call has taken.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Key of the call, and the time when its request was sent.
    in_flight: HashMap<(Partition, Offset), (Option<IdempotencyKey>, Instant)>,
    /// Results of calls that are not ours at the moment.
    known: BTreeMap<(Partition, Offset), Known>,
}

/// Result of a call in an earlier assignment, with the key that identifies the call.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Key of the call: another record at the same position, in a recreated topic, is another call.
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) result: KnownResult,
}

/// Knowledge of a call from an earlier assignment.
#[derive(Clone, Debug)]
pub(crate) enum KnownResult {
    /// Response to its last request, and the attempts before.
    Response(ClassifiedResponse, History),
    /// Its final state is acknowledged by Kafka.
    Final,
}

impl Requests {
    /// Records a request that is sent.
    pub(crate) fn sent(&mut self, id: CallId, key: Option<IdempotencyKey>, now: Instant) {
        self.in_flight.insert(position(id), (key, now));
    }

    /// Ends a request. Returns the key of its call and when it was sent, or `None` if none was in flight.
    pub(crate) fn end(&mut self, id: CallId) -> Option<(Option<IdempotencyKey>, Instant)> {
        self.in_flight.remove(&position(id))
    }

    pub(crate) fn is_in_flight(&self, id: CallId) -> bool {
        self.in_flight.contains_key(&position(id))
    }

    /// Returns `true` if a request is in flight, or an earlier assignment knows its result.
    pub(crate) fn knows(&self, id: CallId) -> bool {
        self.is_in_flight(id) || self.known.contains_key(&position(id))
    }

    /// Number of requests in flight, also of partitions that are not ours: the API works on all of them.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Positions of the requests in flight for some partitions, in their order.
    pub(crate) fn in_flight_of(&self, partitions: &[Partition]) -> Vec<(Partition, Offset)> {
        let is_theirs = |(partition, _): &&(Partition, Offset)| partitions.contains(partition);
        let mut positions: Vec<_> = self.in_flight.keys().filter(is_theirs).copied().collect();
        // Sorted, because actions must not depend on the order of a hash map.
        positions.sort_unstable();
        positions
    }

    /// Remembers the result of a call that is not ours at the moment.
    pub(crate) fn remember(&mut self, id: CallId, known: Known) {
        if self.known.len() < KNOWN_MAX {
            self.known.insert(position(id), known);
        }
    }

    /// Takes the remembered result of a call, if its key is the same.
    pub(crate) fn take_known(&mut self, id: CallId, key: Option<&IdempotencyKey>) -> Option<KnownResult> {
        // Removed in any case: with another key the position holds another record now.
        let known = self.known.remove(&position(id))?;
        (known.key.as_ref() == key).then_some(known.result)
    }

    /// Forgets results of a partition's calls that are committed as final.
    pub(crate) fn forget_finals(&mut self, of: Partition, is_final: impl Fn(Offset) -> bool) {
        // They are never read as open calls again, and would only fill the map.
        self.known
            .retain(|(partition, offset), _| *partition != of || !is_final(*offset));
    }
}

fn position(id: CallId) -> (Partition, Offset) {
    (id.partition, id.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::event::Assignment;

    fn id(assignment: u64, offset: i64) -> CallId {
        CallId {
            assignment: Assignment(assignment),
            partition: Partition(1),
            offset: Offset(offset),
        }
    }

    #[test]
    fn requests_outlive_their_assignment() {
        let mut requests = Requests::default();
        requests.sent(id(1, 7), None, Instant::now());
        assert!(requests.is_in_flight(id(2, 7)));
        assert_eq!(requests.in_flight_of(&[Partition(1)]).len(), 1);
        assert!(requests.end(id(2, 7)).is_some() && requests.end(id(2, 7)).is_none());
    }

    #[test]
    fn result_is_taken_once_and_by_the_same_key_only() {
        let key = IdempotencyKey::new("a").ok();
        let mut requests = Requests::default();
        for offset in [7, 8, 9] {
            let known = Known {
                key: key.clone(),
                result: KnownResult::Final,
            };
            requests.remember(id(1, offset), known);
        }
        assert!(requests.take_known(id(2, 7), key.as_ref()).is_some());
        assert!(requests.take_known(id(2, 7), key.as_ref()).is_none());
        assert!(requests.take_known(id(2, 8), None).is_none());
        requests.forget_finals(Partition(1), |offset| offset <= Offset(9));
        assert!(!requests.knows(id(2, 9)));
    }
}
