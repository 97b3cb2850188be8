//! Keys that the outbox has at the positions of parked calls. In topics that were copied, a parked record names a
//! position where another order may be now, and what is settled would be that order's call.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use pipeline::ledger::ParkedCalls;
use records::{Bounds, Offset, Partition, Position};
use service::failpoint::guard_removed;

use super::reading::{ParkedReader, ParkedRecord};
use super::write::{Chosen, is_chosen};
use crate::progress::Progress;

/// Fails if a chosen call is that of another order.
///
/// # Errors
/// The topics were copied, or cannot be read.
pub(super) fn expect_own(
    reading: &ParkedReader<'_>,
    calls: &ParkedCalls<ParkedRecord>,
    chosen: &Chosen,
) -> anyhow::Result<()> {
    // A test removes the guard: another order's call is then ended.
    if guard_removed!("guard-parked-position") {
        return Ok(());
    }
    let keys = OutboxKeys::read(reading, chosen)?;
    calls
        .waiting()
        .filter(|(_, waiting)| is_chosen(chosen, &waiting.record.at))
        .try_for_each(|(call, waiting)| keys.expect(&call, &waiting.record.key))
}

/// Keys of the outbox at some positions.
#[derive(Debug, Default)]
struct OutboxKeys {
    /// First offset that each partition still has.
    starts: BTreeMap<Partition, Offset>,
    keys: BTreeMap<(Partition, Offset), Box<[u8]>>,
}

impl OutboxKeys {
    /// Reads the keys at the positions of the chosen calls.
    fn read(reading: &ParkedReader<'_>, chosen: &Chosen) -> anyhow::Result<Self> {
        let mut wanted: BTreeMap<Partition, BTreeSet<Offset>> = BTreeMap::new();
        for call in chosen.values().flat_map(BTreeMap::values) {
            wanted.entry(call.partition).or_default().insert(call.offset);
        }
        let topic = &reading.topics.pending;
        let (mut found, mut progress) = (Self::default(), Progress::new());
        for (partition, offsets) in wanted {
            let kept = reading.reader.settled_bounds(topic, partition, &progress)?;
            found.starts.insert(partition, kept.start);
            let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
                continue;
            };
            // In one go: the calls of an outage are near each other.
            let bounds = Bounds {
                start: kept.start.max(*first),
                end: kept.end.min(Offset(last.0 + 1)),
            };
            reading
                .reader
                .visit_within(topic, partition, bounds, &mut progress, |record| {
                    if offsets.contains(&record.offset) {
                        found.keys.insert((partition, record.offset), record.key.into());
                    }
                    Ok(())
                })?;
        }
        progress.finish();
        Ok(found)
    }

    /// Fails if the outbox has no record of this key at the position of a call, unless its retention has passed there.
    fn expect(&self, call: &Position, key: &[u8]) -> anyhow::Result<()> {
        let place = (call.partition, call.offset);
        let is_past = self
            .starts
            .get(&call.partition)
            .is_some_and(|start| call.offset < *start);
        ensure!(
            is_past || self.keys.get(&place).is_some_and(|own| **own == *key),
            "the parked record of {} names the call {call}, where the outbox does not have this order: the topics were \
             copied from another cluster. To settle it would end the call of another order; nothing was changed. Ask \
             the provider, and charge it by hand if it was not charged",
            String::from_utf8_lossy(key)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_of_another_order_is_not_settled() {
        let mut keys = OutboxKeys::default();
        keys.starts.insert(Partition(0), Offset(5));
        keys.keys.insert((Partition(0), Offset(7)), (*b"a").into());
        let expect = |offset, key: &[u8]| {
            let call = Position {
                topic: "outbox".into(),
                partition: Partition(0),
                offset: Offset(offset),
            };
            keys.expect(&call, key)
        };
        expect(7, b"a").expect("its own");
        expect(4, b"b").expect("its retention has passed");
        let other = expect(7, b"b").expect_err("another order").to_string();
        assert!(
            other.contains("record of b") && other.contains("outbox/0@7"),
            "{other}"
        );
        // A marker, or behind the end.
        expect(8, b"a").expect_err("no record");
    }
}
