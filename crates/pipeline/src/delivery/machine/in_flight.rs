//! The requests of this process, by the position of their calls: they outlive assignments.
//!
//! A partition that is lost may come back a moment later, and with it the calls whose requests are still
//! under way, or that have ended and whose end could not be committed. This process knows of them, so it
//! does not ask twice. That another owner may have asked meanwhile changes nothing of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use records::{IdempotencyKey, Offset, Partition};

use crate::delivery::call::History;
use crate::delivery::event::CallId;
use crate::delivery::response::Response;

/// How many calls that are not ours at the moment are remembered. Beyond this the newest are forgotten, and
/// may be made again, as they would be by any other caller.
const KNOWN_MAX: usize = 20_000;

/// The requests of this process.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Requests {
    /// The call's key, and when its request began.
    under_way: HashMap<(Partition, Offset), (Option<IdempotencyKey>, Instant)>,
    /// Calls that are not ours at the moment.
    known: BTreeMap<(Partition, Offset), Known>,
}

/// What an earlier assignment came to know of a call.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The call's key: another record at the same position, in a topic that was recreated, is another call.
    pub(super) key: Option<IdempotencyKey>,
    pub(super) what: What,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// The report of its last request, and what was tried before.
    Reported(Response, History),
    /// Its end is acknowledged by Kafka.
    Ended,
}

impl Requests {
    pub(super) fn begin(&mut self, id: CallId, key: Option<IdempotencyKey>, now: Instant) {
        self.under_way.insert(position(id), (key, now));
    }

    /// A report has come. Returns the call's key and when its request began, or `None` if no report was awaited.
    pub(super) fn end(&mut self, id: CallId) -> Option<(Option<IdempotencyKey>, Instant)> {
        self.under_way.remove(&position(id))
    }

    pub(super) fn is_under_way(&self, id: CallId) -> bool {
        self.under_way.contains_key(&position(id))
    }

    /// Whether a request of it is under way, or an earlier assignment came to know of its end.
    pub(super) fn knows(&self, id: CallId) -> bool {
        self.is_under_way(id) || self.known.contains_key(&position(id))
    }

    pub(in crate::delivery) fn count(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn of(&self, partitions: &[Partition]) -> Vec<(Partition, Offset)> {
        let is_theirs = |(partition, _): &&(Partition, Offset)| partitions.contains(partition);
        let mut requests: Vec<_> = self.under_way.keys().filter(is_theirs).copied().collect();
        requests.sort_unstable();
        requests
    }

    /// Remembers a call that is not ours at the moment.
    pub(super) fn keep(&mut self, id: CallId, known: Known) {
        if self.known.len() < KNOWN_MAX {
            self.known.insert(position(id), known);
        }
    }

    pub(super) fn take_known(&mut self, id: CallId, key: Option<&IdempotencyKey>) -> Option<What> {
        let known = self.known.remove(&position(id))?;
        (known.key.as_ref() == key).then_some(known.what)
    }

    /// Forgets what is kept of a partition and is final now.
    pub(super) fn forget_finals(&mut self, of: Partition, is_final: impl Fn(Offset) -> bool) {
        self.known
            .retain(|(partition, offset), _| *partition != of || !is_final(*offset));
    }
}

fn position(id: CallId) -> (Partition, Offset) {
    (id.partition, id.offset)
}
