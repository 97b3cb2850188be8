//! Settings of the caller, with their defaults and limits.

mod deferral;
mod flow_control;
mod instance_id;
mod renamed_settings;
mod retry;

use std::time::Duration;

use anyhow::ensure;
use bytesize::ByteSize;
use kafka::{KafkaSettings, Membership};
use pipeline::delivery::{FlowControlSettings, Limits, Policy};
use records::Topics;
use registry::RegistrySettings;
use serde::{Deserialize, Serialize};
use service::admin::AdminSettings;
use service::traces::TracesSettings;

use self::deferral::DeferralSettings;
use self::flow_control::{CircuitBreakerSettings, ConcurrencySettings, RateLimitSettings};
pub(crate) use self::renamed_settings::RENAMED_SETTINGS;
use self::retry::RetrySettings;
use crate::http::{Api, ApiSettings, VerifySettings};

/// All settings of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) kafka: KafkaSettings,
    pub(crate) topics: Topics,
    pub(crate) caller: CallerSettings,
    pub(crate) api: ApiSettings,
    pub(crate) schema_registry: RegistrySettings,
    pub(crate) verify: VerifySettings,
    pub(crate) retry: RetrySettings,
    pub(crate) deferral: DeferralSettings,
    pub(crate) circuit_breaker: CircuitBreakerSettings,
    pub(crate) rate_limit: RateLimitSettings,
    pub(crate) concurrency: ConcurrencySettings,
    pub(crate) admin: AdminSettings,
    pub(crate) traces: TracesSettings,
}

/// Settings of the caller itself: `[caller]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CallerSettings {
    /// Name of this instance in logs, on the brokers and in its transactional id; with static membership also
    /// its `group.instance.id`. Must be unique among running callers. Empty, with dynamic membership only: host
    /// name and process id.
    pub(crate) instance_id: String,
    /// Membership of this instance in its consumer group.
    pub(crate) membership: MembershipSetting,
    /// Maximum number of requests in flight, over all partitions. At the limit, further calls wait. A call
    /// that waits for its next attempt takes no slot, so failing calls do not block others.
    pub(crate) calls_in_flight_max: usize,
    /// Maximum number of calls whose intent is committed before a slot in flight is free for them, so that no
    /// slot waits for a commit. Applies under `park` and `verify`. The number in use adapts: twice the slots
    /// that became free during the latest commit. A killed caller leaves these calls ambiguous, like those in
    /// flight.
    pub(crate) intents_ahead_max: usize,
    /// Make no call before an operator resumes them, unless the control topic already has a switch of this group.
    pub(crate) start_paused: bool,
    /// Policy for an ambiguous call, that is, one whose outcome is unknown.
    pub(crate) on_ambiguous: OnAmbiguous,
    /// Header of a pending call that sets its ambiguity policy to `retry`, `park` or `verify`; empty: none. A
    /// call without the header follows `on_ambiguous`. A call with another value, or with `verify` where
    /// `verify.url` is empty, is parked if it becomes ambiguous: parking never pays twice.
    pub(crate) policy_header: String,
    /// Maximum number of open calls per partition. At the limit the partition is paused. The bound of 600
    /// guarantees that the call notes fit into the metadata of one offset commit.
    pub(crate) calls_open_max: usize,
    /// Maximum size of all open calls together, in bytes. At the limit the partitions are paused. One call is
    /// taken however large it is.
    pub(crate) bytes_open_max: ByteSize,
    /// Kafka's `session.timeout.ms`: time without a heartbeat after which another caller takes over.
    #[serde(with = "humantime_serde")]
    pub(crate) session_timeout: Duration,
    /// Time for which an acknowledged commit proves that the partitions are still ours. After it, nothing is
    /// sent until the next commit is acknowledged. At most three quarters of `session_timeout`.
    #[serde(with = "humantime_serde")]
    pub(crate) ownership_lease: Duration,
    /// Minimum interval between commits of the call notes. Calls that became final since the latest commit
    /// are called again after a `kill -9`.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_interval: Duration,
    /// Time after which an unacknowledged commit has an unknown result. The caller then leaves the group and
    /// rejoins.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_timeout: Duration,
    /// Time after which an unacknowledged outcome, dead letter or parked call is published again.
    #[serde(with = "humantime_serde")]
    pub(crate) publish_timeout: Duration,
    /// Maximum time for calls in flight to finish when their partition is revoked or the program shuts down.
    /// Calls that take longer become ambiguous. Must exceed `api.timeout`; the grace period of the supervisor
    /// must be longer still.
    #[serde(with = "humantime_serde")]
    pub(crate) drain_timeout: Duration,
}

/// Membership of an instance in its consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MembershipSetting {
    /// A caller that stops hands its partitions over at once.
    Dynamic,
    /// A caller that stops keeps its partitions until the session timeout, and gets them back if it restarts
    /// before.
    Static,
}

/// Ambiguity policy: the next step for a call whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnAmbiguous {
    /// Send the call again: at least once. Parked after `retry.ambiguous_attempts_max`.
    Retry,
    /// Park the call for an operator: at most once.
    Park,
    /// Ask the API for the order, and send the call again only if the API never saw it.
    Verify,
}

impl From<OnAmbiguous> for Policy {
    fn from(setting: OnAmbiguous) -> Self {
        match setting {
            OnAmbiguous::Retry => Self::Retry,
            OnAmbiguous::Park => Self::Park,
            OnAmbiguous::Verify => Self::Verify,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kafka: KafkaSettings {
                bootstrap_servers: "127.0.0.1:9092".into(),
                group_id: "api-caller".into(),
                properties: [].into(),
            },
            topics: Topics::default(),
            caller: CallerSettings::default(),
            api: ApiSettings::default(),
            schema_registry: RegistrySettings::default(),
            verify: VerifySettings::default(),
            retry: RetrySettings::default(),
            deferral: DeferralSettings::default(),
            circuit_breaker: CircuitBreakerSettings::default(),
            rate_limit: RateLimitSettings::default(),
            concurrency: ConcurrencySettings::default(),
            admin: AdminSettings::on_port(9465),
            traces: TracesSettings::default(),
        }
    }
}

impl Default for CallerSettings {
    fn default() -> Self {
        Self {
            // Two callers of one name would share a transactional id, and fence each other's deferrals.
            instance_id: String::new(),
            // A static member that is scaled down keeps its partitions until the session timeout, and its
            // calls wait.
            membership: MembershipSetting::Dynamic,
            calls_in_flight_max: 64,
            // Four times the slots: enough for an API that responds within half a commit (some 7 ms).
            intents_ahead_max: 256,
            start_paused: false,
            on_ambiguous: OnAmbiguous::Retry,
            policy_header: String::new(),
            calls_open_max: 500,
            bytes_open_max: ByteSize::mib(8),
            session_timeout: Duration::from_secs(10),
            // Half of the session timeout leaves room for clocks that run at different rates.
            ownership_lease: Duration::from_secs(5),
            // Short, because it bounds the calls that are repeated after a kill.
            commit_interval: Duration::from_millis(10),
            commit_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(20),
            // Longer than `api.timeout`, so that a rolling deployment makes no call ambiguous.
            drain_timeout: Duration::from_secs(35),
        }
    }
}

impl Config {
    /// Checks what the types cannot: ranges, and settings that depend on each other.
    ///
    /// # Errors
    /// Names the setting that is invalid, and the values it may have.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.kafka.check()?;
        self.traces.check()?;
        self.schema_registry.check()?;
        let (caller, api) = (&self.caller, &self.api);
        self.verify.check()?;
        self.deferral.check()?;
        ensure!(
            caller.on_ambiguous != OnAmbiguous::Verify || !self.verify.url.is_empty(),
            "the setting caller.on_ambiguous is \"verify\", and verify.url is empty; set it to the look-up \
             endpoint of the API"
        );
        let abandon_after = self.deferral.abandon_after;
        ensure!(
            caller.on_ambiguous != OnAmbiguous::Retry
                || api
                    .idempotency_key_lifetime
                    .is_none_or(|lifetime| !abandon_after.is_zero() && abandon_after <= lifetime),
            "the setting caller.on_ambiguous is \"retry\", and a call is repeated for deferral.abandon_after, \
             {abandon_after:?} (0: for ever); it must be at most api.idempotency_key_lifetime, {:?}, or a request is \
             repeated after the API has forgotten its key, and charged twice",
            api.idempotency_key_lifetime.unwrap_or_default()
        );
        ensure!(
            !caller.instance_id.is_empty() || caller.membership == MembershipSetting::Dynamic,
            "the setting caller.instance_id is empty, and caller.membership is \"static\"; give each caller a \
             name of its own, the same after a restart"
        );
        // A limit on sockets and memory, far above what one process can use.
        ensure!(
            (1..=10_000).contains(&caller.calls_in_flight_max),
            "the setting caller.calls_in_flight_max is {}; it must be from 1 to 10000",
            caller.calls_in_flight_max
        );
        ensure!(
            caller.intents_ahead_max <= 10_000,
            "the setting caller.intents_ahead_max is {}; it must be from 0 to 10000",
            caller.intents_ahead_max
        );
        flow_control::check(
            &self.circuit_breaker,
            &self.rate_limit,
            &self.concurrency,
            caller.calls_in_flight_max,
        )?;
        ensure!(
            (1..=Limits::CALLS_OPEN_MAX).contains(&caller.calls_open_max),
            "the setting caller.calls_open_max is {}; it must be from 1 to {}, so that the call notes fit \
             into the metadata of an offset commit",
            caller.calls_open_max,
            Limits::CALLS_OPEN_MAX
        );
        // A lease near the session timeout could outlive the membership it proves. One near the commit
        // interval would expire between two commits, and calls would stall.
        ensure!(
            caller.ownership_lease * 4 <= caller.session_timeout * 3
                && caller.ownership_lease >= caller.commit_interval * 4,
            "the setting caller.ownership_lease is {:?}; it must be at most three quarters of \
             caller.session_timeout and at least four times caller.commit_interval",
            caller.ownership_lease
        );
        ensure!(
            (SESSION_MIN..=REBALANCE_MAX).contains(&caller.session_timeout),
            "the setting caller.session_timeout is {:?}; it must be from {SESSION_MIN:?} to {REBALANCE_MAX:?}",
            caller.session_timeout
        );
        // librdkafka refuses a shorter one for the transactions of deferrals, at each attempt.
        ensure!(
            caller.commit_timeout >= Duration::from_secs(1),
            "the setting caller.commit_timeout is {:?}; it must be at least 1s",
            caller.commit_timeout
        );
        // To librdkafka 0 is no limit at all, and no more than the time that records gather is none to send.
        ensure!(
            caller.publish_timeout >= Duration::from_secs(1),
            "the setting caller.publish_timeout is {:?}; it must be at least 1s",
            caller.publish_timeout
        );
        ensure!(
            caller.drain_timeout > api.request_max(),
            "the setting caller.drain_timeout is {:?}; it must be longer than a request may take by \
             api.timeout (and api.auth.oauth2.timeout), {:?}, or each rolling deployment leaves calls with \
             an unknown outcome",
            caller.drain_timeout,
            api.request_max()
        );
        ensure!(
            caller.drain_timeout + caller.commit_timeout < REBALANCE_MAX,
            "the settings caller.drain_timeout and caller.commit_timeout must add up to less than \
             {REBALANCE_MAX:?}: the group waits no longer for a revoked partition"
        );
        ensure!(
            !api.timeout.is_zero() && !api.connect_timeout.is_zero(),
            "the settings api.timeout and api.connect_timeout must be longer than 0"
        );
        // The kernel takes 0 for its own default, a quarter of an hour, and whole milliseconds otherwise.
        ensure!(
            api.transport_timeout >= Duration::from_millis(1),
            "the setting api.transport_timeout is {:?}; it must be at least 1ms",
            api.transport_timeout
        );
        ensure!(
            api.response_bytes_max <= ByteSize::kib(48),
            "the setting api.response_bytes_max is {}; it must be at most 48KiB, so that a dead letter fits \
             into its topic beside the order",
            api.response_bytes_max
        );
        ensure!(
            api.transaction_id.is_empty() || api.transaction_id.starts_with('/'),
            "the setting api.transaction_id is {:?}; it must be a JSON pointer such as \"/transaction_id\", \
             or empty",
            api.transaction_id
        );
        // Parses templates, reads secrets and certificates: what is wrong with them is reported at the start.
        Api::new(api)?.with_look_ups(&self.verify, api)?;
        Ok(())
    }

    /// Returns these settings with a name for this instance, if they have none.
    pub(crate) fn with_instance_id(&self) -> Self {
        let mut config = self.clone();
        if config.caller.instance_id.is_empty() {
            config.caller.instance_id = instance_id::of_process();
        }
        config
    }

    /// Returns the limits that the pipeline enforces.
    pub(crate) fn limits(&self) -> Limits {
        let caller = &self.caller;
        Limits {
            calls_in_flight_max: caller.calls_in_flight_max,
            intents_ahead_max: caller.intents_ahead_max,
            calls_open_max: caller.calls_open_max,
            bytes_open_max: usize::try_from(caller.bytes_open_max.as_u64()).unwrap_or(usize::MAX),
            ownership_lease: caller.ownership_lease,
            commit_interval: caller.commit_interval,
            commit_max: caller.commit_timeout,
            drain_timeout: caller.drain_timeout,
            ambiguous_attempts_max: self.retry.ambiguous_attempts_max(),
            deferral: self.deferral.limits(),
        }
    }

    /// Returns the flow control that the pipeline applies to the API.
    pub(crate) fn flow_control(&self) -> FlowControlSettings {
        flow_control::settings(&self.circuit_breaker, &self.rate_limit, &self.concurrency)
    }

    /// Returns the membership in the consumer group.
    pub(crate) fn membership(&self) -> Membership {
        let caller = &self.caller;
        Membership {
            instance_id: match caller.membership {
                MembershipSetting::Static => Some(caller.instance_id.clone()),
                MembershipSetting::Dynamic => None,
            },
            session_timeout: caller.session_timeout,
            // A third is usual. Members learn of a rebalance by heartbeat, so shorter ones make it faster.
            heartbeat_interval: (caller.session_timeout / 10).max(Duration::from_millis(100)),
            prefetch_kib_max: PREFETCH_KIB_MAX,
        }
    }
}

/// librdkafka's default of `max.poll.interval.ms`, which is also the time the group waits for a member to
/// release a revoked partition.
const REBALANCE_MAX: Duration = Duration::from_secs(300);

/// Minimum of the session timeout: several heartbeats, which are at least 100 ms apart.
const SESSION_MIN: Duration = Duration::from_secs(1);

/// Maximum size of prefetched records in KiB. Small, since the API is slower than any fetch.
const PREFETCH_KIB_MAX: u32 = 2 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_file_equals_the_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docker/caller.toml"
        ));
        Config::default().check().expect("the defaults are valid");
    }

    fn check(change: impl FnOnce(&mut Config), names: &str) {
        let mut config = Config::default();
        change(&mut config);
        let error = config.check().expect_err(names);
        let text = format!("{error:#}");
        assert!(text.contains(names), "{text}");
    }

    #[test]
    fn instance_without_name_gets_its_own() {
        let mut config = Config::default();
        let name = config.with_instance_id().caller.instance_id;
        assert!(name.contains(&std::process::id().to_string()), "{name}");
        config.caller.instance_id = "caller-7".into();
        assert_eq!(config.with_instance_id(), config);
    }

    #[test]
    fn invalid_setting_is_named() {
        check(
            |config| config.caller.on_ambiguous = OnAmbiguous::Verify,
            "verify.url",
        );
        check(
            |config| config.api.idempotency_key_lifetime = Some(Duration::from_secs(86_400)),
            "api.idempotency_key_lifetime",
        );
        check(
            |config| config.verify.api_processing_max = Duration::ZERO,
            "verify.api_processing_max",
        );
        check(|config| config.verify.lookups_max = 0, "verify.lookups_max");
        check(|config| config.verify.found.push("2xy".into()), "2xy");
        check(|config| config.verify.found.push("404".into()), "404");
        check(|config| config.verify.url = "ftp://host/".into(), "verify.url");
        check(
            |config| config.caller.membership = MembershipSetting::Static,
            "caller.instance_id",
        );
        check(
            |config| config.caller.session_timeout = Duration::from_secs(301),
            "caller.session_timeout",
        );
        check(
            |config| config.caller.commit_timeout = Duration::from_millis(999),
            "caller.commit_timeout",
        );
        check(
            |config| config.caller.publish_timeout = Duration::ZERO,
            "caller.publish_timeout",
        );
        check(
            |config| config.caller.calls_in_flight_max = 0,
            "caller.calls_in_flight_max",
        );
        check(
            |config| config.caller.calls_open_max = 601,
            "caller.calls_open_max",
        );
        check(
            |config| config.circuit_breaker.probe_interval = Duration::ZERO,
            "circuit_breaker.probe_interval",
        );
        check(
            |config| config.circuit_breaker.rejection_threshold = 101,
            "circuit_breaker.rejection_threshold",
        );
        check(
            |config| config.circuit_breaker.rejection_window = 0,
            "circuit_breaker.rejection_window",
        );
        check(|config| config.rate_limit.per = Duration::ZERO, "rate_limit.per");
        check(
            |config| config.concurrency.calls_in_flight_min = 65,
            "concurrency.calls_in_flight_min",
        );
        check(
            |config| config.caller.ownership_lease = Duration::from_secs(8),
            "caller.ownership_lease",
        );
        check(
            |config| config.caller.ownership_lease = Duration::from_millis(30),
            "caller.ownership_lease",
        );
        check(
            |config| config.caller.drain_timeout = Duration::from_secs(30),
            "caller.drain_timeout",
        );
        check(
            |config| config.caller.drain_timeout = Duration::from_secs(300),
            "caller.commit_timeout",
        );
        check(
            |config| config.api.transport_timeout = Duration::ZERO,
            "api.transport_timeout",
        );
        check(
            |config| config.api.response_bytes_max = ByteSize::mib(1),
            "api.response_bytes_max",
        );
        check(
            |config| config.api.transaction_id = "id".into(),
            "api.transaction_id",
        );
        check(|config| config.api.responses.retry.push("5xy".into()), "5xy");
        check(|config| config.api.responses.retry.push("408".into()), "408");
        check(|config| config.api.method = "PO ST".into(), "api.method");
        check(
            |config| config.api.idempotency_header = "a b".into(),
            "api.idempotency_header",
        );
        for url in [
            "",
            "127.0.0.1:8080",
            "ftp://host/",
            "http://user:secret@host/",
            "http://",
        ] {
            check(|config| config.api.url = url.into(), "api.url");
        }
    }
}
