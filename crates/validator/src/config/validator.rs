//! Settings of the validator itself: `[validator]`.

use std::time::Duration;

use anyhow::ensure;
use bytesize::ByteSize;
use pipeline::admission::{KeySource, Partitioner, RecordKey};
use records::Selection;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ValidatorSettings {
    /// Name of this instance: its static group membership, and part of its transactional id. Unique among the
    /// running validators, and the same after a restart.
    pub(crate) instance_id: String,
    /// Time from a transaction's first order to its commit, without a backlog: about a third of an order's latency.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_interval: Duration,
    /// The same under a backlog; no less than `commit_interval` in any case.
    #[serde(with = "humantime_serde")]
    pub(crate) backlog_commit_interval: Duration,
    /// Maximum number of orders per transaction. Two records for each must fit into the producer's queue.
    pub(crate) batch_orders_max: usize,
    /// Maximum size of the orders of a transaction.
    pub(crate) batch_bytes_max: ByteSize,
    /// Source of the idempotency key: a JSON pointer, `record-key`, or `header:NAME`.
    pub(crate) idempotency_key: String,
    /// Part of an order that two records with one key have in common if they are the same order. Others are a
    /// conflict.
    pub(crate) fingerprint: Selection,
    /// Requirement on the record key.
    pub(crate) record_key: RecordKey,
    /// Partitioner of the producers. Unless `any`, an order on another partition than its own is refused.
    pub(crate) partitioner: Partitioner,
    /// Session timeout: another instance takes over this long after the last heartbeat.
    #[serde(with = "humantime_serde")]
    pub(crate) session_timeout: Duration,
    /// Time after which the broker aborts a dead validator's transaction; until then readers of its
    /// partitions wait. Longer than the session timeout, so that a slow commit is not aborted while its owner
    /// lives.
    #[serde(with = "humantime_serde")]
    pub(crate) transaction_timeout: Duration,
    /// Time after which a commit without a response has an unknown outcome, which a restore resolves.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_timeout: Duration,
}

impl Default for ValidatorSettings {
    fn default() -> Self {
        Self {
            instance_id: "validator-0".into(),
            // About a third of the latency of an order without a backlog; shorter ones cost the brokers more than they gain.
            commit_interval: Duration::from_millis(10),
            // Long enough that the end of a transaction, some 30 ms, is a small part of it.
            backlog_commit_interval: Duration::from_millis(200),
            batch_orders_max: 50_000,
            batch_bytes_max: ByteSize::mib(32),
            idempotency_key: "/order_id".into(),
            fingerprint: Selection::default(),
            record_key: RecordKey::IsIdempotencyKey,
            partitioner: Partitioner::Any,
            // Failover takes this long. Much less would evict a validator whose host only pauses.
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(15),
            commit_timeout: Duration::from_secs(10),
        }
    }
}

impl ValidatorSettings {
    /// Checks what the types cannot express, but for the source of the key: [`Self::key_source`].
    ///
    /// # Errors
    /// Names the setting that is wrong, and the values that are allowed.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.instance_id.is_empty(),
            "the setting validator.instance_id is empty"
        );
        ensure!(
            (1..=50_000).contains(&self.batch_orders_max),
            "the setting validator.batch_orders_max is {}; it must be from 1 to 50000, so that both records of \
             each order fit into the producer's queue",
            self.batch_orders_max
        );
        ensure!(
            self.batch_bytes_max <= ByteSize::mib(50),
            "the setting validator.batch_bytes_max is {}; it must be at most 50MiB, so that a transaction can \
             be sent long before its commit_timeout",
            self.batch_bytes_max
        );
        // librdkafka refuses less, at each attempt to open the producer.
        ensure!(
            self.transaction_timeout >= Duration::from_secs(1),
            "the setting validator.transaction_timeout is {:?}; it must be at least 1s",
            self.transaction_timeout
        );
        ensure!(
            (SESSION_MIN..=POLL_INTERVAL_MAX).contains(&self.session_timeout),
            "the setting validator.session_timeout is {:?}; it must be from {SESSION_MIN:?} to \
             {POLL_INTERVAL_MAX:?}",
            self.session_timeout
        );
        ensure!(
            !self.commit_timeout.is_zero(),
            "the setting validator.commit_timeout is 0; no transaction could be committed"
        );
        // The loop polls nothing while it waits for a full queue, for the commit, and for a new producer.
        ensure!(
            self.commit_timeout * 2 + PRODUCER_OPEN_TIMEOUT < POLL_INTERVAL_MAX,
            "the setting validator.commit_timeout is {:?}; twice that and {PRODUCER_OPEN_TIMEOUT:?} for a new producer \
             must add up to less than {POLL_INTERVAL_MAX:?}, after which the group removes a validator that \
             does not poll",
            self.commit_timeout
        );
        // The rest of the transaction's time is for sending its last records and for the commit.
        for (name, interval) in [
            ("commit_interval", self.commit_interval),
            ("backlog_commit_interval", self.backlog_commit_interval),
        ] {
            ensure!(
                interval < self.transaction_timeout / 2,
                "the setting validator.{name} must be less than half of validator.transaction_timeout"
            );
        }
        // Waiting longer is useless: the broker has aborted the transaction by then.
        ensure!(
            self.commit_timeout <= self.transaction_timeout,
            "the setting validator.commit_timeout must not be longer than validator.transaction_timeout"
        );
        Ok(())
    }

    /// Returns the source of the idempotency key.
    ///
    /// # Errors
    /// `validator.idempotency_key` is malformed.
    pub(super) fn key_source(&self) -> anyhow::Result<KeySource> {
        let text = self.idempotency_key.as_str();
        match text.strip_prefix("header:") {
            Some(name) if !name.is_empty() => Ok(KeySource::Header(name.to_owned())),
            None if text == "record-key" => Ok(KeySource::RecordKey),
            None if text.starts_with('/') => Ok(KeySource::Pointer(text.to_owned())),
            Some(_) | None => anyhow::bail!(
                "the setting validator.idempotency_key is {text:?}; it must be a JSON pointer such as \
                 \"/order_id\", \"record-key\", or \"header:NAME\""
            ),
        }
    }
}

/// librdkafka's default of `max.poll.interval.ms`, after which the group removes a member that does not poll.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Timeout of one attempt to open the producer.
// The loop polls nothing meanwhile, so it stays well below `max.poll.interval.ms`.
pub(crate) const PRODUCER_OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Minimum of the session timeout: several heartbeats, which are at least 100 ms apart.
const SESSION_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn contradicting_timeouts_are_refused() {
        let check = |change: fn(&mut ValidatorSettings), names: &str| {
            let mut config = Config::default();
            change(&mut config.validator);
            let error = config.check().expect_err(names).to_string();
            assert!(error.contains(names), "{error}");
        };
        check(
            |v| v.transaction_timeout = Duration::from_millis(999),
            "validator.transaction_timeout",
        );
        check(
            |v| v.session_timeout = Duration::from_millis(999),
            "validator.session_timeout",
        );
        check(
            |v| v.session_timeout = Duration::from_secs(301),
            "validator.session_timeout",
        );
        check(|v| v.commit_timeout = Duration::ZERO, "validator.commit_timeout");
        check(
            |v| v.commit_timeout = Duration::from_secs(16),
            "validator.commit_timeout",
        );
        check(
            |v| (v.transaction_timeout, v.commit_timeout) = (POLL_INTERVAL_MAX, POLL_INTERVAL_MAX / 2),
            "does not poll",
        );
    }

    #[test]
    fn key_source_follows_the_setting() {
        let source = |text: &str| {
            let mut config = Config::default();
            config.validator.idempotency_key = text.into();
            config.validator.key_source().ok()
        };
        assert_eq!(source("/a/b"), Some(KeySource::Pointer("/a/b".into())));
        assert_eq!(source("record-key"), Some(KeySource::RecordKey));
        assert_eq!(source("header:x-id"), Some(KeySource::Header("x-id".into())));
        assert_eq!((source("header:"), source("order_id")), (None, None));
    }
}
