//! Writing of refused orders back to the orders topic.
//!
//! One fixed transactional id: the second of two operators ends what the first has open, fences it, and decides on
//! what the topics have then. Each order is in one transaction with the resubmission of its dead letter, so that a
//! command that was killed at any step, or whose commit has an unknown outcome, is simply run again.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kafka::admin::Admin;
use kafka::group_offsets::ExactRecord;
use kafka::{OutgoingHeaders, OutgoingRecord, TransactionalProducer};
use pipeline::admission::resubmissions::Resubmissions;
use records::resubmission::{self, Resubmission};
use records::{Bounds, OffsetSet, Partition, Timestamp, dead_letter};
use service::failpoint::{guard_removed, kill_at};

use super::reading::{DeadLetterReader, Kind, Letter};
use crate::brokers::CLIENT_ID;
use crate::config::Config;
use crate::operations_log::{self, operation};
use crate::transaction::{self, Batches};

/// Dead letters to resubmit, by their partitions.
pub(super) type Chosen = BTreeMap<Partition, OffsetSet>;

/// Opens the producer of resubmissions, before the topics are read: what an earlier operator has open is committed or
/// aborted by then, and whatever that one writes from now on is refused.
pub(super) fn open_producer(config: &Config) -> anyhow::Result<TransactionalProducer> {
    let topics = &config.topics;
    let id = format!("outbox-dead-letters-{}", topics.order_dead_letters);
    let names = [
        topics.orders.as_str(),
        &topics.order_dead_letters,
        &topics.operations,
    ];
    transaction::open_producer(config, &id, &names)
}

/// Fails if brokers write their own time into the orders.
///
/// # Errors
/// They do, or the topic cannot be described.
pub(super) fn expect_times_kept(config: &Config) -> anyhow::Result<()> {
    let orders = &config.topics.orders;
    // An order that is written back keeps its time, so that a validator that has forgotten its key refuses it as too old.
    if !config.store.forgets_keys() {
        return Ok(());
    }
    let described = Admin::connect(&config.connection(), CLIENT_ID)?.describe(&[orders.as_str()])?;
    let kept = described
        .get(orders)
        .and_then(|topic| topic.configs.get("message.timestamp.type"));
    ensure!(
        kept.is_none_or(|by| by != "LogAppendTime"),
        "the topic {orders:?} has message.timestamp.type=LogAppendTime, so that an order that is written back looks new: if \
         an order of its key was admitted longer ago than store.retention, validators have forgotten it, and it would be \
         admitted, and charged, a second time. Set it to CreateTime as long as the command runs: `kafka-configs.sh \
         --bootstrap-server {} --alter --entity-type topics --entity-name {orders} --add-config \
         message.timestamp.type=CreateTime`. Nothing was changed",
        config.kafka.bootstrap_servers
    );
    Ok(())
}

/// Writes orders back, and resubmissions.
pub(super) struct Writer<'a> {
    pub(super) reading: &'a DeadLetterReader<'a>,
    pub(super) producer: &'a TransactionalProducer,
    pub(super) resubmission: Resubmission,
    pub(super) config: &'a Config,
}

impl Writer<'_> {
    /// Resubmits the chosen dead letters, in transactions of a limited number. Reads them again, so that no order is
    /// kept in memory.
    pub(super) fn resubmit(&self, chosen: &Chosen) -> anyhow::Result<()> {
        let topic = self.reading.topic(Kind::Order);
        let mut batches = Batches::new(self.producer, |orders| self.commit(orders));
        for (partition, letters) in chosen {
            let (Some((start, _)), Some(end)) = (letters.runs().next(), letters.end()) else {
                continue;
            };
            let mut seen = 0;
            self.reading
                .visit_within(Kind::Order, *partition, Bounds { start, end }, |letter| {
                    if !letters.contains(letter.offset()) {
                        return Ok(());
                    }
                    seen += 1;
                    batches.write(|| {
                        self.write(letter).with_context(|| {
                            format!(
                                "writing back the order of {topic}/{partition}@{}",
                                letter.offset()
                            )
                        })
                    })
                })?;
            ensure!(
                seen == letters.count(),
                "{} dead letters of {topic}/{partition} are gone; run the command again",
                letters.count() - seen
            );
        }
        batches.commit()
    }

    /// Writes an order, and the resubmission of its dead letter.
    fn write(&self, letter: &Letter<'_>) -> anyhow::Result<()> {
        // Chosen before, so that none of them was resubmitted.
        let partition = self.reading.resubmit(letter, &Resubmissions::default())?;
        let record = letter.record;
        let own = of_the_order(record);
        let mut headers = OutgoingHeaders::with_capacity(own.len());
        for (name, value) in own {
            headers.add(name, *value);
        }
        self.producer.send(OutgoingRecord {
            topic: &self.reading.topics.orders,
            partition: Some(partition),
            key: record.key,
            value: record.value,
            headers: Some(headers),
            // With the present the order would look new to a validator that has forgotten its key since.
            at: time_of_the_order(record).filter(|_| self.config.store.forgets_keys()),
        })?;
        kill_at!("between-resubmission-records");
        if guard_removed!("guard-resubmission") {
            // A test removes the guard: nothing tells that the order was written back.
            return Ok(());
        }
        let topic = self.reading.topic(Kind::Order);
        let name = format!("{topic}/{}@{}", letter.partition, letter.offset());
        let mut headers = OutgoingHeaders::with_capacity(1);
        headers.add(resubmission::RESUBMITS, Some(name.as_bytes()));
        Ok(self.producer.send(OutgoingRecord {
            topic,
            // That of the dead letter, so that one partition tells all of it.
            partition: Some(letter.partition),
            key: record.key,
            value: Some(&self.resubmission.to_json()),
            headers: Some(headers),
            at: None,
        })?)
    }

    fn commit(&self, orders: usize) -> anyhow::Result<()> {
        let what = format!("{orders} orders written back to {}", self.reading.topics.orders);
        let operation = operation("dead-letters replay", what, Some(&self.resubmission.reason));
        operations_log::send(self.producer, self.config, &operation)?;
        let end = self.producer.end_without_offsets(|| {
            kill_at!("before-resubmission-commit");
        });
        kill_at!("after-resubmission-commit");
        transaction::expect_committed(end, "orders")
    }
}

/// Returns the time of the order's record. Without it, as in a dead letter of an earlier version, that of the refusal.
fn time_of_the_order(record: &ExactRecord<'_>) -> Option<Timestamp> {
    // The validator's come last: the order may have such a header of its own.
    let number = |name| {
        let value = records::header::last(&record.headers.readable, name)??;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    number(dead_letter::RECORD_AT)
        .or_else(|| number(dead_letter::AT))
        .map(Timestamp)
}

/// Returns the headers that the order had: the validator's come after them, from the last reason on.
fn of_the_order<'r>(record: &'r ExactRecord<'_>) -> &'r [(&'r str, Option<&'r [u8]>)] {
    let all = record.headers.readable.as_slice();
    let own = all.iter().rposition(|(name, _)| *name == dead_letter::REASON);
    &all[..own.unwrap_or(all.len())]
}

#[cfg(test)]
mod tests {
    use super::super::reading::tests::record;
    use super::*;

    #[test]
    fn order_keeps_its_own_headers() {
        let headers = [
            ("trace", "1"),
            (dead_letter::REASON, "of the order"),
            (dead_letter::SOURCE, "of the order"),
            (dead_letter::REASON, "not-json"),
            (dead_letter::DETAIL, "d"),
            (dead_letter::SOURCE, "orders/0@4"),
            (dead_letter::AT, "5"),
        ];
        let record = record(0, None, &headers, b"{");
        assert_eq!(of_the_order(&record), &record.headers.readable[..3]);
        assert_eq!(
            time_of_the_order(&record),
            Some(Timestamp(5)),
            "that of the refusal"
        );
    }
}
