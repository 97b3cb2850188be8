//! The rules, one function each: what is wrong, why it matters, and the command that repairs it.

use super::{Described, Existing, Finding, HEADERS_BYTES, Purpose, Required, Severity};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// One broker may be down, and one may lose its disk.
const THREE_REPLICAS: &str = "on a cluster of three brokers or more: kafka-reassign-partitions.sh to three \
                              replicas, and min.insync.replicas=2. For a trial it may stay";

pub(super) struct Rules<'a> {
    required: &'a Required<'a>,
    existing: &'a Existing,
    findings: Vec<Finding>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(required: &'a Required<'a>, existing: &'a Existing) -> Self {
        Self {
            required,
            existing,
            findings: Vec::new(),
        }
    }

    pub(super) fn findings(mut self) -> Vec<Finding> {
        self.each_topic_once();
        for purpose in self.required.role.purposes() {
            let Some(topic) = self.described(purpose) else {
                self.missing(purpose);
                continue;
            };
            self.partitions(purpose, topic);
            self.cleanup(purpose, topic);
            self.retention(purpose, topic);
            self.replication(purpose, topic);
            self.sizes(purpose, topic);
            self.timestamps(purpose, topic);
        }
        self.findings
    }

    /// Two purposes on one topic would feed a program what it wrote itself.
    fn each_topic_once(&mut self) {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            let name = purpose.name(self.required.topics);
            if let Some(other) = Purpose::ALL[..at]
                .iter()
                .find(|other| other.name(self.required.topics) == name)
            {
                self.refuse(
                    purpose,
                    format!("is named for two purposes, {other:?} and {purpose:?}"),
                    "a program would take its own records, or another one's, for its input",
                    "give each setting in [topics] a name of its own".into(),
                );
            }
        }
    }

    fn missing(&mut self, purpose: Purpose) {
        self.refuse(
            purpose,
            "does not exist, or may not be described by this user".into(),
            "a broker that creates topics by itself would make it with a partition count and a cleanup \
             policy that break the guarantees",
            "outbox --config FILE topics create".into(),
        );
    }

    fn partitions(&mut self, purpose: Purpose, topic: &Described) {
        if purpose == Purpose::Orders
            && let Some(remembered) = self.required.partitions_remembered
            && remembered != topic.partitions
        {
            self.refuse(
                purpose,
                format!("has {} partitions, and had {remembered} when the stores were written", topic.partitions),
                "a key's partition follows from their number: an order that was admitted on its old partition \
                 is not known on its new one, and would be paid twice",
                format!(
                    "Kafka cannot take partitions away. Stop the producers, create orders, pending and \
                     changelog topics under new names in [topics], with {} partitions and an empty state \
                     directory, and let nothing be sent to the new ones that was sent to the old ones",
                    topic.partitions
                ),
            );
        }
        let must_equal_orders = matches!(purpose, Purpose::Pending | Purpose::Changelog);
        if let Some(orders) = self.described(Purpose::Orders)
            && must_equal_orders
            && topic.partitions != orders.partitions
        {
            let (has, should) = (topic.partitions, orders.partitions);
            let name = purpose.name(self.required.topics);
            let repair = if has < should {
                format!(
                    "if it has never held a record: kafka-topics.sh --bootstrap-server {} --alter --topic \
                     {name} --partitions {should}. Otherwise stop the programs and find out who changed a \
                     partition count, and when: keys admitted before and after may lie apart",
                    self.required.bootstrap_servers
                )
            } else {
                format!(
                    "Kafka cannot take partitions away: name a new topic with {should} partitions in \
                     [topics], before the first order is admitted"
                )
            };
            self.refuse(
                purpose,
                format!(
                    "has {has} partitions, and the orders topic {} has {should}",
                    self.required.topics.orders
                ),
                "each record goes to the partition of its order, which is where its key is looked up and \
                 from where its store is rebuilt",
                repair,
            );
        }
    }

    fn cleanup(&mut self, purpose: Purpose, topic: &Described) {
        let policy = topic.config("cleanup.policy").unwrap_or("delete");
        let has = |word| policy.split(',').any(|part| part.trim() == word);
        let (compact, delete) = (has("compact"), has("delete"));
        let what = format!("has cleanup.policy={policy}");
        match purpose {
            Purpose::Changelog if !compact => self.refuse(
                purpose,
                what,
                "Kafka deletes its records by age: a store that is rebuilt from what is left does not know \
                 the older orders, and they would be paid twice",
                self.alter(purpose, "cleanup.policy=compact"),
            ),
            // Keys have no retention window yet, so none of them may age out.
            Purpose::Changelog if delete => self.refuse(
                purpose,
                what,
                "Kafka also deletes keys by age, and the validator keeps them for ever: a store that is \
                 rebuilt would not know the older orders, and they would be paid twice",
                self.alter(purpose, "cleanup.policy=compact"),
            ),
            Purpose::Orders if compact => self.refuse(
                purpose,
                what,
                "Kafka removes an order when a later record has its key, perhaps before it is read: the \
                 order would be lost, or a conflicting one admitted in its place",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Pending if compact => self.refuse(
                purpose,
                what,
                "Kafka removes a pending call when a replay or a redelivery of the same key follows, perhaps \
                 before it is called; and what was called can no longer be shown or replayed",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::OrderDeadLetters if compact => self.refuse(
                purpose,
                what,
                "Kafka refuses records without a key on a compacted topic: an order without one could be \
                 neither admitted nor put aside, and its partition would stand still",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::CallDeadLetters | Purpose::Parked if compact => self.warn(
                purpose,
                what,
                "only the last record of a key is kept: the evidence of an earlier call is lost",
                self.alter(purpose, "cleanup.policy=delete"),
            ),
            Purpose::Orders
            | Purpose::Pending
            | Purpose::Changelog
            | Purpose::OrderDeadLetters
            | Purpose::Processed
            | Purpose::CallDeadLetters
            | Purpose::Parked => {}
        }
    }

    fn retention(&mut self, purpose: Purpose, topic: &Described) {
        let (days_min, why) = match purpose {
            Purpose::Orders => (1, "an order that no validator has read by then is lost"),
            Purpose::Pending => (
                7,
                "a call that is still pending by then, because the API or the callers were down, is lost; and \
                 what was called before can no longer be replayed",
            ),
            Purpose::OrderDeadLetters | Purpose::CallDeadLetters | Purpose::Parked => (
                30,
                "what no person has dealt with by then is lost, with its evidence",
            ),
            Purpose::Changelog | Purpose::Processed => return,
        };
        if topic.config("cleanup.policy") == Some("compact") {
            return;
        }
        let days_ms = days_min * DAY_MS;
        if let Some(ms @ 0..) = topic.number("retention.ms")
            && ms < days_ms
        {
            self.warn(
                purpose,
                format!("keeps its records for {} only (retention.ms={ms})", in_words(ms)),
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
                "a burst deletes what is still needed, however young it is",
                self.alter(purpose, "retention.bytes=-1"),
            );
        }
    }

    fn replication(&mut self, purpose: Purpose, topic: &Described) {
        let replicas = topic.replication_factor;
        if replicas <= 1 {
            self.warn(
                purpose,
                "lies on one broker only (replication factor 1)".into(),
                "with that broker's disk its records are lost, and with them the knowledge of what was paid",
                THREE_REPLICAS.into(),
            );
        }
        let in_sync_min = topic.number("min.insync.replicas").unwrap_or(1);
        let in_sync_min = usize::try_from(in_sync_min).unwrap_or(0);
        let what = format!("has min.insync.replicas={in_sync_min} and {replicas} replicas");
        let repair = match replicas {
            0..=2 => THREE_REPLICAS.into(),
            _ => self.alter(purpose, "min.insync.replicas=2"),
        };
        if in_sync_min > replicas {
            // Measured on Kafka 4.1: with one replica and min.insync.replicas=3 a record is acknowledged.
            self.warn(
                purpose,
                what,
                "newer brokers count it as the number of replicas, so that it promises more safety than there \
                 is; older ones take no record at all",
                repair,
            );
        } else if replicas > 1 && in_sync_min == replicas {
            self.warn(
                purpose,
                what,
                "no record can be written to it while one broker is down or restarts",
                repair,
            );
        } else if replicas > 1 && in_sync_min < 2 {
            self.warn(
                purpose,
                what,
                "a record may be acknowledged by one broker alone, and be lost with its disk: what was \
                 admitted or paid is then no longer known",
                repair,
            );
        }
        if replicas > 1 && topic.config("unclean.leader.election.enable") == Some("true") {
            let what = "has unclean.leader.election.enable=true".to_owned();
            let why = "after an outage a broker that lacks acknowledged records may lead: they are lost without \
                       a trace, and an order may be lost or paid twice";
            let repair = self.alter(purpose, "unclean.leader.election.enable=false");
            match purpose {
                Purpose::Orders | Purpose::Pending | Purpose::Changelog => {
                    self.refuse(purpose, what, why, repair);
                }
                Purpose::OrderDeadLetters
                | Purpose::Processed
                | Purpose::CallDeadLetters
                | Purpose::Parked => {
                    self.warn(purpose, what, why, repair);
                }
            }
        }
    }

    fn sizes(&mut self, purpose: Purpose, topic: &Described) {
        let Some(source) = purpose.copied_from() else {
            return;
        };
        let size = |topic: &Described| {
            topic
                .number("max.message.bytes")
                .and_then(|n| u64::try_from(n).ok())
        };
        let Some((original, copy)) = self.described(source).and_then(size).zip(size(topic)) else {
            return;
        };
        if copy >= original + HEADERS_BYTES {
            return;
        }
        let what = format!(
            "takes records of {copy} bytes (max.message.bytes), and {} takes {original}",
            source.name(self.required.topics)
        );
        let repair = self.alter(
            purpose,
            &format!("max.message.bytes={}", original + HEADERS_BYTES),
        );
        // Smaller than the original stops a partition on a record that is not extreme; the same size only on
        // one that leaves no room for the headers.
        if purpose == Purpose::Pending {
            self.warn(
                purpose,
                what,
                "an order that is too large for the outbox, with the headers that are added, becomes a dead \
                 letter and is not paid",
                repair,
            );
        } else if copy < original {
            self.refuse(
                purpose,
                what,
                "a large record can be put nowhere, and its partition stands still",
                repair,
            );
        } else {
            self.warn(
                purpose,
                what,
                "the headers that are added may make a very large record larger than that; it can then be put \
                 nowhere, and its partition stands still",
                repair,
            );
        }
    }

    fn timestamps(&mut self, purpose: Purpose, topic: &Described) {
        let by_writer = topic.config("message.timestamp.type") == Some("CreateTime");
        let expires = topic.number("retention.ms").is_some_and(|ms| ms >= 0);
        if purpose == Purpose::Pending && by_writer && expires {
            self.warn(
                purpose,
                "counts the age of its records by their writer's clock (message.timestamp.type=CreateTime)".into(),
                "a validator whose clock is wrong has its pending calls deleted too early, perhaps before they \
                 are called",
                self.alter(purpose, "message.timestamp.type=LogAppendTime"),
            );
        }
    }

    fn described(&self, purpose: Purpose) -> Option<&'a Described> {
        // The caller asks nothing about the topics before the outbox, and may not be allowed to see them.
        let asked = self.required.role.purposes().contains(&purpose);
        asked.then(|| self.existing.get(purpose.name(self.required.topics)))?
    }

    fn alter(&self, purpose: Purpose, config: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {} \
             --add-config {config}",
            self.required.bootstrap_servers,
            purpose.name(self.required.topics)
        )
    }

    fn refuse(&mut self, purpose: Purpose, what: String, why: &str, repair: String) {
        self.add(Severity::Refuse, purpose, what, why, repair);
    }

    fn warn(&mut self, purpose: Purpose, what: String, why: &str, repair: String) {
        self.add(Severity::Warn, purpose, what, why, repair);
    }

    fn add(&mut self, severity: Severity, purpose: Purpose, what: String, why: &str, repair: String) {
        let topic = purpose.name(self.required.topics).to_owned();
        self.findings.push(Finding {
            severity,
            topic,
            what,
            why: why.to_owned(),
            repair,
        });
    }
}

impl Described {
    fn config(&self, name: &str) -> Option<&str> {
        self.configs.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.config(name)?.parse().ok()
    }
}

/// As many acknowledgements as leave one broker free to be down.
pub(super) const fn creatable_in_sync_min(replicas: usize) -> usize {
    if replicas >= 3 { 2 } else { 1 }
}

fn in_words(ms: i64) -> String {
    let hours = ms / (60 * 60 * 1000);
    match hours {
        0 => format!("{} s", ms / 1000),
        1..48 => format!("{hours} h"),
        48.. => format!("{} days", hours / 24),
        _ => format!("{ms} ms"),
    }
}
