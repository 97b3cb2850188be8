//! The operations topic: reading it, and writing to it.

use anyhow::Context;
use kafka::admin::Admin;
use kafka::group_offsets::GroupOffsets;
use kafka::{OutgoingRecord, TransactionalProducer};
use pipeline::ledger::Replays;
use records::operation::{Event, Operation, Replay};
use records::{Offset, Partition, Timestamp};

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, TRANSACTIONS_WAIT_MAX, partitions};
use crate::config::Config;
use crate::operator::operator;
use crate::transaction::{expect_committed, open_producer};

/// The only partition of the topic.
pub(crate) const PARTITION: Partition = Partition(0);

/// Reader of the operations.
pub(crate) struct OperationsLog<'a> {
    topic: &'a str,
    offsets: GroupOffsets,
}

impl<'a> OperationsLog<'a> {
    pub(crate) fn open(config: &'a Config) -> anyhow::Result<Self> {
        let (topic, settings) = (config.topics.operations.as_str(), config.connection());
        // A topic that does not exist, or that this user may not see, looks like one without a leader to the reader, which
        // would wait for that.
        let identities = Admin::connect(&settings, CLIENT_ID)?.identities(&[topic], REQUEST_TIMEOUT)?;
        partitions(&identities, topic).with_context(|| {
            format!(
                "reading the topic {topic:?} (setting topics.operations; `outbox topics create` creates it)"
            )
        })?;
        Ok(Self {
            topic,
            offsets: GroupOffsets::open(&settings, CLIENT_ID)?,
        })
    }

    /// Passes each operation to `sink`, in their order.
    pub(crate) fn visit(&self, mut sink: impl FnMut(Offset, Operation)) -> anyhow::Result<()> {
        let topic = self.topic;
        let bounds = self
            .offsets
            .settled_bounds(topic, PARTITION, TRANSACTIONS_WAIT_MAX)
            .with_context(|| format!("reading the topic {topic:?} (setting topics.operations)"))?;
        self.offsets
            .read::<anyhow::Error>(topic, PARTITION, bounds, |record| {
                let operation = Operation::parse(record.value).with_context(|| {
                    format!(
                        "reading {topic}/{PARTITION}@{}: what the operator before has done is not known, and \
                         nothing was changed",
                        record.offset
                    )
                })?;
                sink(record.offset, operation);
                Ok(())
            })
    }

    /// Returns the replays, as of now.
    pub(crate) fn replays(&self) -> anyhow::Result<Replays> {
        let mut replays = Replays::default();
        self.visit(|_, operation| {
            if let Some(event) = operation.replay {
                replays.take(event, operation.at);
            }
        })?;
        Ok(replays)
    }
}

/// Returns an operation of the person who runs the command.
pub(crate) fn operation(command: &str, what: String, reason: Option<&str>) -> Operation {
    let mut operation = Operation::new(Timestamp::now(), operator(), command.to_owned(), what);
    operation.reason = reason.map(str::to_owned);
    operation
}

/// Returns an event of a replay.
pub(crate) fn event(command: &str, plan: &str, event: Event, reason: Option<&str>) -> Operation {
    let what = match &event {
        Event::Calls { partition, .. } => format!("plan {plan}: its calls of partition {partition}"),
        Event::Planned(planned) => format!(
            "plan {plan}: {} calls of the group {}, {}",
            planned.calls,
            planned.group,
            planned.states.join(", ")
        ),
        Event::Begun { canary: 0, .. } => format!("replay {plan} begun"),
        Event::Begun { canary, .. } => format!("replay {plan} begun, with a canary of {canary} calls"),
        Event::Appended {
            appended, left_out, ..
        } => format!("replay {plan}: {appended} calls appended, {left_out} left out"),
        Event::CanaryPassed => format!("replay {plan}: each call of the canary was accepted"),
        Event::CanaryFailed => format!("replay {plan}: a call of the canary was not accepted"),
        Event::Paused => format!("replay {plan} paused"),
        Event::Resumed => format!("replay {plan} resumed"),
        Event::Cancelled => format!("replay {plan} cancelled"),
        Event::Finished => format!("replay {plan} finished"),
    };
    let mut of = operation(command, what, reason);
    of.replay = Some(Replay {
        plan: plan.to_owned(),
        event,
    });
    of
}

/// Sends an operation within the producer's transaction.
pub(crate) fn send(
    producer: &TransactionalProducer,
    config: &Config,
    operation: &Operation,
) -> anyhow::Result<()> {
    let key = operation.replay.as_ref().map(|replay| replay.plan.as_bytes());
    Ok(producer.send(OutgoingRecord {
        topic: &config.topics.operations,
        partition: Some(PARTITION),
        key,
        value: Some(&operation.to_json()),
        headers: None,
        at: None,
    })?)
}

/// Writes operations in a transaction of their own, before a command changes what no transaction can hold: so no
/// change is without a record.
pub(crate) fn write(config: &Config, operations: &[Operation]) -> anyhow::Result<()> {
    let topic = config.topics.operations.as_str();
    let producer = open_producer(config, &format!("outbox-operations-{topic}"), &[topic])?;
    write_with(&producer, config, operations)
}

/// Writes operations in a transaction of this producer.
pub(crate) fn write_with(
    producer: &TransactionalProducer,
    config: &Config,
    operations: &[Operation],
) -> anyhow::Result<()> {
    producer.begin()?;
    for operation in operations {
        send(producer, config, operation)?;
    }
    expect_committed(producer.end_without_offsets(|| ()), "operations")
}
