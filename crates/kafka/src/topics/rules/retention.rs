//! Rules for the deletion of records: compaction and expiry.

use super::Rules;
use crate::topics::{Purpose, TopicDescription};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl Rules<'_> {
    /// Refuses cleanup policies that delete records which a guarantee depends on.
    pub(super) fn cleanup(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let policy = topic.config("cleanup.policy").unwrap_or("delete");
        let has = |name| policy.split(',').any(|part| part.trim() == name);
        let (compact, delete) = (has("compact"), has("delete"));
        let what = format!("has cleanup.policy={policy}");
        match purpose {
            Purpose::Orders if compact => self.refuse(
                purpose,
                what,
                "Kafka removes an order once a later record has its key, perhaps before it is read: the \
                 order would be lost, or a conflicting one admitted in its place",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Pending if compact => self.refuse(
                purpose,
                what,
                "Kafka removes a pending call once a replay or a deferral of the same key follows, perhaps \
                 before it is sent; and past calls can no longer be shown or replayed",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::OrderDeadLetters if compact => self.refuse(
                purpose,
                what,
                "Kafka refuses records without a key on a compacted topic: an order without a key could be \
                 neither admitted nor made a dead letter, and its partition would halt",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Control if delete || !compact => self.refuse(
                purpose,
                what,
                "Kafka deletes a pause by age, and callers that start after that would make calls that an \
                 operator has paused",
                self.alter(purpose, "cleanup.policy=compact"),
            ),
            Purpose::Operations if compact => self.refuse(
                purpose,
                what,
                "Kafka keeps only the last record of a replay: a replay that is run again would not know what it \
                 has appended",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Processed if compact => self.refuse(
                purpose,
                what,
                "Kafka keeps only the last outcome of a key: an earlier call of the order then looks as if it had not \
                 been accepted, and a command could make it again",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::CallDeadLetters | Purpose::Parked if compact => self.warn(
                purpose,
                what,
                "Kafka keeps only the last record of a key: the evidence of earlier calls is lost",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Orders
            | Purpose::Pending
            | Purpose::Changelog
            | Purpose::OrderDeadLetters
            | Purpose::Processed
            | Purpose::CallDeadLetters
            | Purpose::Parked
            | Purpose::Control
            | Purpose::Operations => {}
        }
    }

    /// Warns of records that expire before they are processed or dealt with.
    pub(super) fn retention(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let (days_min, why) = match purpose {
            Purpose::Orders => (1, "an order that no validator reads in time is lost"),
            Purpose::Pending => (
                7,
                "a call that is still pending after that time, because the API or the callers were down, is \
                 lost; and past calls can no longer be replayed",
            ),
            Purpose::OrderDeadLetters | Purpose::CallDeadLetters | Purpose::Parked => (
                30,
                "a record that no operator has dealt with in time is lost, with its evidence",
            ),
            Purpose::Operations => (
                30,
                "it is no longer known who has changed what, and a replay that was begun cannot be continued",
            ),
            Purpose::Changelog | Purpose::Processed | Purpose::Control => return,
        };
        // Without `delete` in the policy nothing expires.
        if topic.config("cleanup.policy") == Some("compact") {
            return;
        }
        let days_ms = days_min * DAY_MS;
        // A negative number is no limit, here and below.
        if let Some(ms @ 0..) = topic.number("retention.ms")
            && ms < days_ms
        {
            self.warn(
                purpose,
                format!(
                    "keeps its records for {} only (retention.ms={ms})",
                    human_duration(ms)
                ),
                why,
                self.alter(purpose, &format!("retention.ms={days_ms}")),
            );
        }
        if let Some(bytes @ 0..) = topic.number("retention.bytes") {
            self.warn(
                purpose,
                format!(
                    "deletes records as soon as a partition is larger than {bytes} bytes (retention.bytes)"
                ),
                "a burst of records deletes older ones that are still needed, whatever their age",
                self.alter(purpose, "retention.bytes=-1"),
            );
        }
    }

    /// Warns of an outbox that outlives the offsets of its callers' group.
    pub(super) fn offsets(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let Some(minutes) = self.required.offsets_retention_minutes else {
            return;
        };
        let (kept_ms, retention_ms) = (minutes.saturating_mul(60_000), topic.number("retention.ms"));
        // Without `delete` in the policy nothing expires; a compacted outbox is refused.
        let outlives = retention_ms.is_some_and(|ms| ms < 0 || ms > kept_ms);
        if purpose == Purpose::Pending && outlives {
            let wanted = match retention_ms {
                Some(ms @ 0..) => format!("{} or more", ms.saturating_add(59_999) / 60_000),
                _ => "the longest time without a caller".to_owned(),
            };
            self.warn(
                purpose,
                format!(
                    "keeps its records for longer than the brokers keep the offsets of a group without \
                     members, which is {} (offsets.retention.minutes={minutes})",
                    human_duration(kept_ms)
                ),
                "if no caller runs for that time, the group forgets which calls were made: its partitions \
                 halt, and an operator has to find that out from the outcomes",
                format!(
                    "set offsets.retention.minutes to {wanted} in the properties of each broker, and restart \
                     the brokers one after the other; or never leave the group without a caller for so long"
                ),
            );
        }
    }

    /// Warns of outcomes that expire before the calls.
    pub(super) fn outcomes(&mut self, purpose: Purpose, topic: &TopicDescription) {
        if purpose != Purpose::Processed || topic.config("cleanup.policy") == Some("compact") {
            return;
        }
        let outbox = self.described(Purpose::Pending);
        let number = |name| outbox.and_then(|outbox| outbox.number(name));
        // Brokers delete closed segments as a whole: the first record of one is kept for as long as the last one, which
        // may be as much later.
        let (Some(kept @ 0..), Some(calls_ms)) = (topic.number("retention.ms"), number("retention.ms"))
        else {
            return;
        };
        let needed = match calls_ms {
            0.. => calls_ms.saturating_add(number("segment.ms").unwrap_or(0)),
            _ => -1,
        };
        if needed < 0 || kept < needed {
            let calls = match needed {
                0.. => format!(
                    "for up to {} (retention.ms and segment.ms)",
                    human_duration(needed)
                ),
                _ => "for ever (retention.ms=-1)".to_owned(),
            };
            self.warn(
                purpose,
                format!(
                    "keeps its records for {} only (retention.ms={kept}), and the outbox keeps calls {calls}",
                    human_duration(kept)
                ),
                "nobody knows whether a call was accepted whose outcome is gone: it cannot be sent again once it is parked, \
                 and a group that is recovered needs a decision on it",
                self.alter(purpose, &format!("retention.ms={needed}")),
            );
        }
    }

    /// Warns of expiry by the clock of the writer.
    pub(super) fn timestamps(&mut self, purpose: Purpose, topic: &TopicDescription) {
        let by_writer = topic.config("message.timestamp.type") == Some("CreateTime");
        let expires = topic.number("retention.ms").is_some_and(|ms| ms >= 0);
        if purpose == Purpose::Pending && by_writer && expires {
            self.warn(
                purpose,
                "determines the age of its records by the writer's clock \
                 (message.timestamp.type=CreateTime)"
                    .into(),
                "pending calls of a validator with a wrong clock are deleted too early, perhaps before they \
                 are sent",
                self.alter(purpose, "message.timestamp.type=LogAppendTime"),
            );
        }
    }
}

fn human_duration(ms: i64) -> String {
    let hours = ms / (60 * 60 * 1000);
    match hours {
        0 => format!("{} s", ms / 1000),
        1..48 => format!("{hours} h"),
        48.. => format!("{} days", hours / 24),
        _ => format!("{ms} ms"),
    }
}
