//! The settings, each with its default and the reason for it.

mod deferral;
mod flow_control;
mod renamed_settings;
mod retry;

use std::time::Duration;

use anyhow::ensure;
use bytesize::ByteSize;
use kafka::{KafkaSettings, Membership};
use pipeline::delivery::{FlowControlSettings, Limits, Policy};
use records::Topics;
use serde::{Deserialize, Serialize};
use service::admin::AdminSettings;

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
    pub(crate) verify: VerifySettings,
    pub(crate) retry: RetrySettings,
    pub(crate) deferral: DeferralSettings,
    pub(crate) circuit_breaker: CircuitBreakerSettings,
    pub(crate) rate_limit: RateLimitSettings,
    pub(crate) concurrency: ConcurrencySettings,
    pub(crate) admin: AdminSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CallerSettings {
    /// Names this instance in logs and on the brokers, in its transactional id, and under static membership
    /// also in the group. Each running caller needs one of its own.
    pub(crate) instance_id: String,
    /// How this instance belongs to its group.
    pub(crate) membership: MembershipSetting,
    /// Requests under way at once, over all partitions. A call that waits for its next attempt does not
    /// count, so calls that keep failing do not take the others' places.
    pub(crate) calls_in_flight_max: usize,
    /// Under `park` and `verify`, calls whose beginning may be noted before there is a place in flight for them, so
    /// that none of these waits for a commit. No more are than the API has answered in the time of two commits. A
    /// caller that is killed leaves them in ambiguity, like those in flight.
    pub(crate) intents_ahead_max: usize,
    /// What to do when nobody can know whether the API has processed an order.
    pub(crate) on_ambiguous: OnAmbiguous,
    /// The header of a pending call that says so for this one: `retry`, `park` or `verify`; empty: none. A
    /// call without the header follows `on_ambiguous`; one with another value is parked, and so is one that
    /// is to be verified where there are no look-ups: that is the side on which nobody pays twice.
    pub(crate) policy_header: String,
    /// Calls of one partition that are held and not final. While there are so many, the partition is read
    /// no further. Bounded, because the call note must hold them whatever becomes of them.
    pub(crate) calls_open_max: usize,
    /// Bytes of all calls that are held and not final.
    pub(crate) bytes_open_max: ByteSize,
    /// Another caller takes over this long after this one fell silent.
    #[serde(with = "humantime_serde")]
    pub(crate) session_timeout: Duration,
    /// For so long an acknowledged commit proves that the partitions are ours; after that nothing is sent
    /// before the next one. Half of the session time-out leaves room for clocks that run apart.
    #[serde(with = "humantime_serde")]
    pub(crate) ownership_lease: Duration,
    /// The shortest time from one commit to the next. What ended since the last commit is called again
    /// after a `kill -9`, so it is short.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_interval: Duration,
    /// A commit without an answer for so long has an unknown result, and the group is joined anew.
    #[serde(with = "humantime_serde")]
    pub(crate) commit_timeout: Duration,
    /// Outcomes and dead letters that Kafka has not acknowledged after this are sent again.
    #[serde(with = "humantime_serde")]
    pub(crate) publish_timeout: Duration,
    /// How long calls in flight may take to finish when their partition goes or the program ends. Longer
    /// than one request, so that a rolling deployment makes nothing ambiguous; the supervisor's own grace
    /// period must be longer still.
    #[serde(with = "humantime_serde")]
    pub(crate) drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MembershipSetting {
    /// A caller that stops hands its partitions over at once.
    Dynamic,
    /// A caller that stops keeps its partitions until the session time-out, and finds them again if it is
    /// back before.
    Static,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnAmbiguous {
    /// The call is made again: at least once.
    Retry,
    /// The call waits for a person: at most once.
    Park,
    /// The API is asked for the order before the call is made again.
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
            verify: VerifySettings::default(),
            retry: RetrySettings::default(),
            deferral: DeferralSettings::default(),
            circuit_breaker: CircuitBreakerSettings::default(),
            rate_limit: RateLimitSettings::default(),
            concurrency: ConcurrencySettings::default(),
            admin: AdminSettings::on_port(9465),
        }
    }
}

impl Default for CallerSettings {
    fn default() -> Self {
        Self {
            instance_id: "caller-0".into(),
            membership: MembershipSetting::Dynamic,
            calls_in_flight_max: 64,
            intents_ahead_max: 256,
            on_ambiguous: OnAmbiguous::Retry,
            policy_header: String::new(),
            calls_open_max: 500,
            bytes_open_max: ByteSize::mib(8),
            session_timeout: Duration::from_secs(10),
            ownership_lease: Duration::from_secs(5),
            commit_interval: Duration::from_millis(10),
            commit_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(35),
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what it must be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.kafka.check()?;
        let (caller, api) = (&self.caller, &self.api);
        self.verify.check()?;
        self.deferral.check()?;
        ensure!(
            caller.on_ambiguous != OnAmbiguous::Verify || !self.verify.url.is_empty(),
            "the setting caller.on_ambiguous is \"verify\", and verify.url is empty; it must say where the API is \
             asked for an order"
        );
        ensure!(
            !caller.instance_id.is_empty(),
            "the setting caller.instance_id is empty"
        );
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
            "the setting caller.calls_open_max is {}; it must be from 1 to {}, so that the call note fits into \
             the metadata of an offset",
            caller.calls_open_max,
            Limits::CALLS_OPEN_MAX
        );
        ensure!(
            caller.ownership_lease * 4 <= caller.session_timeout * 3
                && caller.ownership_lease >= caller.commit_interval * 4,
            "the setting caller.ownership_lease is {:?}; it must be at most three quarters of \
             caller.session_timeout and at least four times caller.commit_interval",
            caller.ownership_lease
        );
        ensure!(
            caller.drain_timeout > api.request_max(),
            "the setting caller.drain_timeout is {:?}; it must be longer than a request may take by api.timeout (and \
             api.auth.oauth2.timeout), {:?}, or each rolling deployment cuts off requests that nobody can know the \
             result of",
            caller.drain_timeout,
            api.request_max()
        );
        ensure!(
            caller.drain_timeout + caller.commit_timeout < REBALANCE_MAX,
            "the settings caller.drain_timeout and caller.commit_timeout must be less than {REBALANCE_MAX:?} \
             together: the group does not wait longer for a partition"
        );
        ensure!(
            !api.timeout.is_zero() && !api.connect_timeout.is_zero(),
            "the settings api.timeout and api.connect_timeout must be longer than 0"
        );
        ensure!(
            api.response_bytes_max <= ByteSize::kib(48),
            "the setting api.response_bytes_max is {}; it must be at most 48KiB, so that a dead letter fits into \
             its topic beside the order",
            api.response_bytes_max
        );
        ensure!(
            api.transaction_id.is_empty() || api.transaction_id.starts_with('/'),
            "the setting api.transaction_id is {:?}; it must be a JSON pointer such as \"/transaction_id\", or empty",
            api.transaction_id
        );
        Api::new(api)?.with_look_ups(&self.verify, api)?;
        Ok(())
    }

    /// What the delivery may hold and do.
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
            deferral: self.deferral.limits(),
        }
    }

    /// How fast the API may be called.
    pub(crate) fn flow_control(&self) -> FlowControlSettings {
        flow_control::settings(&self.circuit_breaker, &self.rate_limit, &self.concurrency)
    }

    /// The membership in the group.
    pub(crate) fn membership(&self) -> Membership {
        let caller = &self.caller;
        Membership {
            instance_id: match caller.membership {
                MembershipSetting::Static => Some(caller.instance_id.clone()),
                MembershipSetting::Dynamic => None,
            },
            session_timeout: caller.session_timeout,
            // A third is usual; sooner means that a rebalance is heard of sooner.
            heartbeat_interval: (caller.session_timeout / 10).max(Duration::from_millis(100)),
            prefetch_kib_max: PREFETCH_KIB_MAX,
        }
    }
}

/// librdkafka's default of `max.poll.interval.ms`, which is also how long the group waits for a member that
/// has to give up a partition.
const REBALANCE_MAX: Duration = Duration::from_secs(300);

/// What is fetched ahead waits for the API anyway, so little is enough.
const PREFETCH_KIB_MAX: u32 = 2 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_equals_the_defaults() {
        service::config::assert_sample_equals_defaults::<Config>(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docker/caller.toml"
        ));
        Config::default().check().expect("the defaults are sound");
    }

    fn check(change: impl FnOnce(&mut Config), names: &str) {
        let mut config = Config::default();
        change(&mut config);
        let error = config.check().expect_err(names);
        let text = format!("{error:#}");
        assert!(text.contains(names), "{text}");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        check(
            |config| config.caller.on_ambiguous = OnAmbiguous::Verify,
            "verify.url",
        );
        check(
            |config| config.verify.api_processing_max = Duration::ZERO,
            "verify.api_processing_max",
        );
        check(|config| config.verify.lookups_max = 0, "verify.lookups_max");
        check(|config| config.verify.found.push("2xy".into()), "2xy");
        check(|config| config.verify.found.push("404".into()), "404");
        check(|config| config.verify.url = "ftp://host/".into(), "verify.url");
        check(|config| config.caller.instance_id.clear(), "caller.instance_id");
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
