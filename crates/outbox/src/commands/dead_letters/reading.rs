//! Reading of the dead letters of orders and calls, and of the resubmissions among those of orders.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use kafka::group_offsets::ExactRecord;
use pipeline::admission::resubmissions::{self, NotResubmitted, OrdersTopic, Resubmissions};
use records::resubmission::{self, Resubmission};
use records::{
    AmountForm, Bounds, Offset, Order, Partition, Position, Timestamp, Topics, call_dead_letter, dead_letter,
    order_id,
};
use serde::Serialize;

use crate::call_records::text;
use crate::cli::{FilterDeadLetters, OffsetRange, WhichDeadLetters};
use crate::config::Config;
use crate::progress::Progress;
use crate::topics_reader::TopicsReader;

/// Kind of a dead letter, which is that of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Order that a validator refused.
    Order,
    /// Call that the API rejected, or that a caller could not make.
    Call,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Call => "call",
        }
    }

    /// Returns the kinds that are asked for.
    pub(super) const fn of(which: WhichDeadLetters) -> &'static [Self] {
        match (which.orders, which.calls) {
            (true, _) => &[Self::Order],
            (false, true) => &[Self::Call],
            (false, false) => &[Self::Order, Self::Call],
        }
    }
}

/// A record of a dead-letter topic.
pub(super) enum Content {
    Letter,
    /// Resubmission of the dead letter at this offset of the partition.
    Resubmission(Offset, Resubmission),
}

/// Dead letter that is being read.
pub(super) struct Letter<'r> {
    pub(super) kind: Kind,
    pub(super) partition: Partition,
    pub(super) record: &'r ExactRecord<'r>,
}

/// Filter of dead letters: what is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct DeadLetterFilter {
    pub(super) arguments: FilterDeadLetters,
    /// Keys; `None` for all.
    pub(super) keys: Option<BTreeSet<String>>,
    pub(super) partition: Option<Partition>,
    pub(super) offsets: Option<OffsetRange>,
}

/// Reader of the dead-letter topics.
pub(crate) struct DeadLetterReader<'a> {
    pub(super) topics: &'a Topics,
    reader: TopicsReader,
    /// Form of the orders' amounts; `None` if orders have another form.
    amount: Option<AmountForm>,
    orders: OrdersTopic<'a>,
}

impl<'a> DeadLetterReader<'a> {
    pub(crate) fn open(config: &'a Config) -> anyhow::Result<Self> {
        let topics = &config.topics;
        let names = [
            topics.orders.as_str(),
            &topics.order_dead_letters,
            &topics.call_dead_letters,
        ];
        let reader = TopicsReader::open(&config.connection(), &names)?;
        Ok(Self {
            topics,
            amount: config.order.amount(),
            orders: OrdersTopic {
                name: &topics.orders,
                partitions: i32::try_from(reader.partitions(&topics.orders)?.len())?,
                checks_record_key: config.validator.checks_record_key(),
                checks_partition: config.validator.checks_partition(),
            },
            reader,
        })
    }

    pub(super) fn topic(&self, kind: Kind) -> &str {
        match kind {
            Kind::Order => &self.topics.order_dead_letters,
            Kind::Call => &self.topics.call_dead_letters,
        }
    }

    /// Returns the partitions of a topic. The other one need not exist: the settings of the validators do not name the
    /// topics of each group of callers.
    pub(super) fn partitions(&self, kind: Kind) -> anyhow::Result<Vec<Partition>> {
        self.reader.partitions(self.topic(kind))
    }

    /// Returns the number of orders' dead letters that were not resubmitted.
    pub(crate) fn waiting_orders(&self) -> anyhow::Result<u64> {
        let mut waiting = 0;
        for partition in &self.partitions(Kind::Order)? {
            let bounds = self.bounds(Kind::Order, *partition)?;
            let (mut letters, mut resubmissions) = (0, Resubmissions::default());
            self.read(Kind::Order, *partition, bounds, |_, content| {
                match content {
                    Content::Letter => letters += 1,
                    // The topic's retention deletes a dead letter before its resubmission.
                    Content::Resubmission(letter, _) if letter >= bounds.start => {
                        resubmissions.resubmitted(letter);
                    }
                    Content::Resubmission(..) => {}
                }
                Ok(())
            })?;
            waiting += letters - resubmissions.count().min(letters);
        }
        Ok(waiting)
    }

    /// Passes each dead letter of a kind to `sink`, with the resubmissions of its partition. Reads each partition
    /// twice, so that no dead letter is kept in memory until its resubmission comes.
    pub(super) fn visit(
        &self,
        kind: Kind,
        progress: &mut Progress,
        mut sink: impl FnMut(&Letter<'_>, &Resubmissions) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for partition in &self.partitions(kind)? {
            let bounds = self.bounds(kind, *partition)?;
            let resubmissions = self.resubmissions(kind, *partition, bounds, progress)?;
            self.visit_within(kind, *partition, bounds, |letter| {
                progress.read(self.topic(kind));
                sink(letter, &resubmissions)
            })?;
        }
        Ok(())
    }

    /// Passes each dead letter of a partition to `sink`.
    pub(super) fn visit_within(
        &self,
        kind: Kind,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(&Letter<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.read(kind, partition, bounds, |record, content| match content {
            Content::Resubmission(..) => Ok(()),
            Content::Letter => sink(&Letter {
                kind,
                partition,
                record,
            }),
        })
    }

    /// Reads which dead letters of a partition were resubmitted.
    pub(super) fn resubmissions(
        &self,
        kind: Kind,
        partition: Partition,
        bounds: Bounds,
        progress: &mut Progress,
    ) -> anyhow::Result<Resubmissions> {
        let mut resubmissions = Resubmissions::default();
        // Calls are not resubmitted.
        if kind == Kind::Order {
            self.read(kind, partition, bounds, |_, content| {
                progress.read(self.topic(kind));
                if let Content::Resubmission(letter, _) = content {
                    resubmissions.resubmitted(letter);
                }
                Ok(())
            })?;
        }
        Ok(resubmissions)
    }

    /// Passes each record of a partition to `sink`, with what it is.
    pub(super) fn read(
        &self,
        kind: Kind,
        partition: Partition,
        bounds: Bounds,
        mut sink: impl FnMut(&ExactRecord<'_>, Content) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let topic = self.topic(kind);
        self.reader
            .offsets
            .read_exact(topic, partition, bounds, |record| {
                let content = match kind {
                    Kind::Order => content_of(&record, topic, partition).with_context(|| {
                        format!(
                            "reading {topic}/{partition}@{}; nothing was changed",
                            record.offset
                        )
                    })?,
                    Kind::Call => Content::Letter,
                };
                sink(&record, content)
            })
    }

    /// Returns the bounds of what can be read now.
    pub(super) fn bounds(&self, kind: Kind, partition: Partition) -> anyhow::Result<Bounds> {
        self.reader.bounds(self.topic(kind), partition)
    }

    /// Returns the bounds of all that is written until now, once it can be read.
    pub(super) fn settled_bounds(
        &self,
        kind: Kind,
        partition: Partition,
        progress: &Progress,
    ) -> anyhow::Result<Bounds> {
        self.reader.settled_bounds(self.topic(kind), partition, progress)
    }

    /// Returns the partition of the orders topic to which a dead letter may be written back.
    pub(super) fn resubmit(
        &self,
        letter: &Letter<'_>,
        resubmissions: &Resubmissions,
    ) -> Result<Partition, NotResubmitted> {
        let reason = letter.reason();
        let letter = resubmissions::Letter {
            offset: letter.offset(),
            source: letter.source(),
            reason: dead_letter::Reason::ALL
                .into_iter()
                .find(|known| known.as_str() == reason),
            lacks_header: letter.record.headers.unreadable.is_some(),
            lacks_order: letter.header(dead_letter::OMITTED).is_some(),
        };
        resubmissions.resubmit(letter, self.orders)
    }

    /// Returns the order of a dead letter, if it has the built-in form.
    pub(super) fn order<'r>(&self, letter: &Letter<'r>) -> Option<Order<'r>> {
        let (order, _) = Order::parse_unique(letter.record.value?, self.amount?, None).ok()?;
        Some(order)
    }
}

impl Letter<'_> {
    pub(super) fn offset(&self) -> Offset {
        self.record.offset
    }

    /// Returns the key of the order: that of the record, or the order id if the record has none.
    pub(super) fn key(&self) -> String {
        match self.record.key {
            Some(key) if !key.is_empty() => String::from_utf8_lossy(key).into_owned(),
            _ => {
                let id = order_id(self.record.value.unwrap_or_default()).ok().flatten();
                id.map(std::borrow::Cow::into_owned).unwrap_or_default()
            }
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        text(&self.record.headers, name)
    }

    /// Returns the name of the reason.
    pub(super) fn reason(&self) -> &str {
        self.header(dead_letter::REASON).unwrap_or("unknown")
    }

    pub(super) fn detail(&self) -> &str {
        self.header(dead_letter::DETAIL).unwrap_or_default()
    }

    /// Returns the reason, and the status of the API's response.
    pub(super) fn cause(&self) -> String {
        let status = self
            .header(call_dead_letter::STATUS)
            .filter(|_| self.kind == Kind::Call);
        match status {
            Some(status) => format!("{}, status {status}", self.reason()),
            None => self.reason().to_owned(),
        }
    }

    /// Returns the time at which it became a dead letter.
    pub(super) fn at(&self) -> Option<Timestamp> {
        let at = self.header(dead_letter::AT).and_then(|at| at.parse().ok());
        at.map(Timestamp).or(self.record.at)
    }

    /// Returns the position of its order, or of its call.
    pub(super) fn source(&self) -> Option<Position> {
        let name = match self.kind {
            Kind::Order => dead_letter::SOURCE,
            Kind::Call => call_dead_letter::CALL,
        };
        self.header(name)?.parse().ok()
    }
}

impl DeadLetterFilter {
    /// Returns whether a dead letter is selected.
    pub(super) fn selects(&self, letter: &Letter<'_>) -> bool {
        let arguments = &self.arguments;
        let is_within = |letter: &Letter<'_>| {
            let Some(at) = letter.at() else {
                return arguments.from.is_none() && arguments.to.is_none();
            };
            arguments.from.is_none_or(|from| at >= from) && arguments.to.is_none_or(|to| at < to)
        };
        self.partition
            .is_none_or(|partition| letter.partition == partition)
            && self
                .offsets
                .is_none_or(|offsets| offsets.contains(letter.offset()))
            && (arguments.dead_letter_reason.is_empty()
                || arguments
                    .dead_letter_reason
                    .iter()
                    .any(|reason| reason == letter.reason()))
            && is_within(letter)
            && self.keys.as_ref().is_none_or(|keys| keys.contains(&letter.key()))
    }
}

/// Returns what a record of the orders' dead-letter topic is.
fn content_of(record: &ExactRecord<'_>, topic: &str, partition: Partition) -> anyhow::Result<Content> {
    // A dead letter names the position of its order, whatever headers the order has. A resubmission has none of
    // the order's.
    let is_letter = record.headers.last(dead_letter::SOURCE).is_some();
    if is_letter || record.headers.last(resubmission::RESUBMITS).is_none() {
        return Ok(Content::Letter);
    }
    let Some(letter): Option<Position> =
        text(&record.headers, resubmission::RESUBMITS).and_then(|text| text.parse().ok())
    else {
        bail!("the header {} names no dead letter", resubmission::RESUBMITS);
    };
    ensure!(
        letter.topic == topic && letter.partition == partition,
        "the header {} names {letter}, which is not of this partition: the topic is a copy of another one",
        resubmission::RESUBMITS
    );
    let resubmission = Resubmission::parse(record.value.unwrap_or_default())?;
    Ok(Content::Resubmission(letter.offset, resubmission))
}

#[cfg(test)]
pub(super) mod tests {
    use kafka::Headers;

    use super::*;

    /// Returns a dead-letter record.
    pub(in crate::commands::dead_letters) fn record<'a>(
        offset: i64,
        key: Option<&'a str>,
        headers: &[(&'a str, &'a str)],
        value: &'a [u8],
    ) -> ExactRecord<'a> {
        ExactRecord {
            offset: Offset(offset),
            at: Some(Timestamp(7)),
            key: key.map(str::as_bytes),
            value: Some(value),
            headers: Headers {
                readable: headers
                    .iter()
                    .map(|&(name, value)| (name, Some(value.as_bytes())))
                    .collect(),
                unreadable: None,
            },
        }
    }

    pub(in crate::commands::dead_letters) fn letter<'r>(record: &'r ExactRecord<'r>) -> Letter<'r> {
        Letter {
            kind: Kind::Order,
            partition: Partition(1),
            record,
        }
    }

    #[test]
    fn order_cannot_forge_a_resubmission() {
        let value = Resubmission::new(Timestamp(1), "a@b".into(), "r".into()).to_json();
        let of = |headers: &[(&'static str, &'static str)], value| {
            content_of(&record(9, None, headers, value), "dead", Partition(1))
        };
        let resubmits = (resubmission::RESUBMITS, "dead/1@4");
        let source = (dead_letter::SOURCE, "orders/0@4");
        assert!(matches!(of(&[resubmits, source], &value), Ok(Content::Letter)));
        assert!(matches!(
            of(&[resubmits], &value),
            Ok(Content::Resubmission(Offset(4), _))
        ));
        assert!(matches!(of(&[], b""), Ok(Content::Letter)));
        // One of a later version may say that the order went elsewhere.
        assert!(of(&[resubmits], br#"{"version":2}"#).is_err());
        for elsewhere in ["dead/2@4", "other/1@4", "4"] {
            assert!(of(&[(resubmission::RESUBMITS, elsewhere)], &value).is_err());
        }
    }

    #[test]
    fn filter_selects_what_has_all_of_it() {
        let headers = [
            (dead_letter::REASON, "not-json"),
            (dead_letter::SOURCE, "orders/0@4"),
            (dead_letter::AT, "50"),
        ];
        let record = record(9, Some("k"), &headers, b"{");
        let letter = letter(&record);
        let all = DeadLetterFilter::default();
        assert!(all.selects(&letter));
        let with = |change: fn(&mut DeadLetterFilter)| {
            let mut filter = DeadLetterFilter {
                partition: Some(Partition(1)),
                offsets: "9..10".parse().ok(),
                keys: Some(["k".to_owned()].into()),
                arguments: FilterDeadLetters {
                    dead_letter_reason: vec!["conflict".into(), "not-json".into()],
                    from: Some(Timestamp(50)),
                    to: Some(Timestamp(51)),
                },
            };
            change(&mut filter);
            filter.selects(&letter)
        };
        assert!(with(|_| ()));
        for change in [
            (|of| of.partition = Some(Partition(0))) as fn(&mut DeadLetterFilter),
            |of| of.offsets = "0..9".parse().ok(),
            |of| of.keys = Some(["K".to_owned()].into()),
            |of| of.arguments.dead_letter_reason = vec!["conflict".into()],
            |of| of.arguments.from = Some(Timestamp(51)),
            |of| of.arguments.to = Some(Timestamp(50)),
        ] {
            assert!(!with(change));
        }
    }

    #[test]
    fn key_is_that_of_the_record_or_the_order() {
        let value = br#"{"order_id":"o-1"}"#;
        let key = |key| letter(&record(0, key, &[], value)).key();
        assert_eq!([key(Some("k")), key(Some("")), key(None)], ["k", "o-1", "o-1"]);
        assert_eq!(letter(&record(0, None, &[], b"{")).key(), "");
    }
}
