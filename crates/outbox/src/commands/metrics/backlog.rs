//! Reading of the backlog of both stages: what lies behind the committed offsets of their groups.

use anyhow::Context as _;
use kafka::admin::Admin;
use kafka::group_offsets::{GroupOffsets, TopicRecord};
use kafka::offsets::Committed;
use pipeline::ledger::Backlog;
use records::call_note::CallNote;
use records::{Bounds, Offset, Timestamp};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, partitions};
use crate::call_records::continuation_of;
use crate::cli::ServeMetrics;
use crate::config::Config;
use crate::metrics::Metrics;

/// Maximum number of offsets of a partition that are read; the records behind them are estimated.
const OFFSETS_MAX: u32 = 10_000;

/// Reader of the backlog.
pub(super) struct BacklogReading<'a> {
    options: &'a ServeMetrics,
    config: &'a Config,
    admin: Admin,
    callers: GroupOffsets,
    validators: GroupOffsets,
}

/// Sum over the partitions of a topic.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    records: u64,
    oldest: Option<Timestamp>,
}

impl<'a> BacklogReading<'a> {
    pub(super) fn open(options: &'a ServeMetrics, config: &'a Config) -> anyhow::Result<Self> {
        let callers = config.connection_as(&options.which.group);
        let validators = config.connection_as(&options.validators);
        Ok(Self {
            options,
            config,
            admin: Admin::connect(&callers, CLIENT_ID)?,
            callers: GroupOffsets::open(&callers, CLIENT_ID)?,
            validators: GroupOffsets::open(&validators, CLIENT_ID)?,
        })
    }

    pub(super) fn read(&self, metrics: &Metrics) -> anyhow::Result<()> {
        let topics = &self.config.topics;
        // A note that no caller can read halts its partition, and says nothing of its calls.
        let notes = |of: &Committed| {
            CallNote::decode(of.offset.unwrap_or(Offset(0)), &of.metadata).unwrap_or_default()
        };
        let pending = self.waiting(&self.callers, &topics.pending, notes, since)?;
        let orders = self.waiting(
            &self.validators,
            &topics.orders,
            |_| CallNote::default(),
            |order| order.at,
        )?;
        let members = |group: &str, topic: &str| -> anyhow::Result<usize> {
            let group = self
                .admin
                .group(group, topic, REQUEST_TIMEOUT)
                .with_context(|| format!("asking for the members of the group {group:?}"))?;
            Ok(group.members.len())
        };
        let validators = members(&self.options.validators, &topics.orders)?;
        let callers = members(&self.options.which.group, &topics.pending)?;
        let now = Timestamp::now();
        metrics.set_pending(pending.records, pending.oldest, now);
        metrics.set_orders_waiting(orders.records, orders.oldest, now);
        metrics.set_members(validators, callers);
        Ok(())
    }

    fn waiting(
        &self,
        offsets: &GroupOffsets,
        topic: &str,
        note_of: impl Fn(&Committed) -> CallNote,
        since: impl Fn(&TopicRecord<'_>) -> Option<Timestamp>,
    ) -> anyhow::Result<Waiting> {
        // Each time: a topic may grow.
        let identities = self.admin.identities(&[topic], REQUEST_TIMEOUT)?;
        let partitions = partitions(&identities, topic)?;
        let mut waiting = Waiting::default();
        for of in offsets.committed(topic, &partitions, REQUEST_TIMEOUT)? {
            let bounds = offsets.bounds(topic, of.partition, REQUEST_TIMEOUT)?;
            let behind = Bounds {
                start: of.offset.unwrap_or(bounds.start).max(bounds.start),
                end: bounds.end,
            };
            let mut backlog = Backlog::new(behind, note_of(&of), OFFSETS_MAX);
            offsets.read::<anyhow::Error>(topic, of.partition, backlog.to_read(), |record| {
                backlog.take(record.offset, since(record));
                Ok(())
            })?;
            waiting.records = waiting.records.saturating_add(backlog.pending());
            waiting.oldest = waiting.oldest.into_iter().chain(backlog.oldest()).min();
        }
        Ok(waiting)
    }
}

/// Returns since when a call is pending: a deferred copy since a caller first read the call.
// Otherwise a call that fails again and again would look young for ever. The copy of a replay has the time of the replay.
fn since(record: &TopicRecord<'_>) -> Option<Timestamp> {
    continuation_of(record).map_or(record.at, |before| Some(before.first_seen_at))
}

#[cfg(test)]
mod tests {
    use records::{Continuation, continuation};

    use super::*;
    use crate::call_records::record_with;

    #[test]
    fn deferred_copy_is_as_old_as_its_call() {
        let call = "pending-api-calls/3@1".parse().expect("a position");
        let json = Continuation::new(call, "api-caller".into(), Timestamp(2)).to_json();
        let copy = record_with(&[(continuation::CONTINUES, &json)], b"{}");
        assert_eq!(since(&copy), Some(Timestamp(2)));
        assert_eq!(since(&record_with(&[], b"{}")), Some(Timestamp(5)));
    }
}
