//! The caller's metrics: name, help and labels of each, and the functions that count.

#[cfg(test)]
mod advice;

use std::borrow::Cow;
use std::time::Duration;

use pipeline::delivery::{
    Ambiguity, Bound, BreakerState, Gauges, LookupResult, Lost, NotSent, Response, ResponseClass,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use records::call_dead_letter::Reason;
use records::{Timestamp, parked};
use service::metrics::{
    Labelled, LabelledHistogram, RealCounter, counter, counters, gauge, gauges, histogram, histograms,
    real_counters,
};

/// Metrics of a caller. Clones share the metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Labelled<Counter>,
    requests_ambiguous: Labelled<Counter>,
    repeated: Labelled<Counter>,
    request_seconds: LabelledHistogram,
    pub(crate) outcomes: Counter,
    dead_letters: Labelled<Counter>,
    parked: Labelled<Counter>,
    lookups: Labelled<Counter>,
    lookup_seconds: Histogram,
    awaiting_quiescence: Gauge,
    pub(crate) publications_failed: Counter,
    pub(crate) producers_replaced: Counter,
    commits: Labelled<Counter>,
    deferrals: Labelled<Counter>,
    deferred: Counter,
    deferral_seconds: Histogram,
    pub(crate) of_other_groups: Counter,
    commit_seconds: Histogram,
    last_commit: Gauge,
    note_bytes: Gauge,
    bound_seconds: Labelled<RealCounter>,
    requests_withheld: Counter,
    pub(crate) requests_panicked: Counter,
    pub(crate) rejoins: Counter,
    in_flight: Gauge,
    in_flight_limit: Gauge,
    pub(crate) outages: Counter,
    pub(crate) mass_rejections: Counter,
    pub(crate) probes_failed: Counter,
    breaker: Labelled<Gauge>,
    paused: Gauge,
    open: Gauge,
    open_bytes: Gauge,
    partitions: Labelled<Gauge>,
}

/// Bucket bounds for requests to the API, in seconds.
// OpenTelemetry's for `http.client.request.duration`, and 30 and 60 for slow APIs: `api.timeout` is 30 s by
// default.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// Bucket bounds for commits and transactions, in seconds.
// Finer below 10 ms than those of requests: a commit takes some 7 ms on a healthy cluster. The last one is
// the default of `caller.commit_timeout`, after which the result is unknown.
const COMMIT_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// Results of commits and deferral transactions.
const COMMIT_RESULTS: [&str; 4] = ["committed", "rejected", "fenced", "unknown"];

impl Metrics {
    /// Creates the metrics and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            requests: counters(
                registry,
                "outbox_calls_requests",
                "Requests to the API, by response class",
                "class",
                ResponseClass::ALL.map(ResponseClass::as_str),
            ),
            requests_ambiguous: counters(
                registry,
                "outbox_calls_requests_ambiguous",
                "Requests whose outcome is unknown, by HTTP status or kind of failure",
                "kind",
                // Statuses follow as they come. There are 600 at most, and an API uses a few.
                [Lost::TimedOut, Lost::Closed, Lost::NotHttp, Lost::Other]
                    .map(|lost| Response::Lost(lost).kind()),
            ),
            // Upper bound of the payments that an API without idempotency has made twice: alert on it.
            repeated: counters(
                registry,
                "outbox_calls_repeated",
                "Requests sent although an earlier one may have been processed, by reason",
                "reason",
                Ambiguity::ALL.map(Ambiguity::as_str),
            ),
            request_seconds: histograms(
                registry,
                "outbox_calls_request_seconds",
                "Time from sending a request to its response, by response class",
                REQUEST_SECONDS,
                "class",
                ResponseClass::ALL.map(ResponseClass::as_str),
            ),
            outcomes: counter(registry, "outbox_calls_outcomes", "Outcomes published"),
            dead_letters: counters(
                registry,
                "outbox_calls_dead_letters",
                "Dead letters published, by reason",
                "reason",
                Reason::ALL.map(Reason::as_str),
            ),
            parked: counters(
                registry,
                "outbox_calls_parked",
                "Calls parked for an operator, by reason",
                "reason",
                parked::Reason::ALL.map(parked::Reason::as_str),
            ),
            lookups: counters(
                registry,
                "outbox_calls_lookups",
                "Look-ups of orders whose outcome is unknown, by result",
                "result",
                LookupResult::ALL.map(LookupResult::as_str),
            ),
            lookup_seconds: histogram(
                registry,
                "outbox_calls_lookup_seconds",
                "Time from sending a look-up to its response",
                REQUEST_SECONDS,
            ),
            awaiting_quiescence: gauge(
                registry,
                "outbox_calls_awaiting_quiescence",
                "Ambiguous calls that wait until no earlier request can be processed any more, or are looked up",
            ),
            publications_failed: counter(
                registry,
                "outbox_calls_publications_failed",
                "Outcomes, dead letters and parked calls that Kafka did not acknowledge; they are sent again",
            ),
            producers_replaced: counter(
                registry,
                "outbox_calls_producers_replaced",
                "Times the producer of outcomes, dead letters and parked calls failed for good and was replaced",
            ),
            commits: counters(
                registry,
                "outbox_calls_commits",
                "Commits of call notes, by result",
                "result",
                COMMIT_RESULTS,
            ),
            deferrals: counters(
                registry,
                "outbox_calls_deferrals",
                "Transactions that defer calls to the tail of the outbox, by result",
                "result",
                COMMIT_RESULTS,
            ),
            deferred: counter(
                registry,
                "outbox_calls_deferred",
                "Calls deferred to the tail of the outbox, because they fail while others succeed",
            ),
            deferral_seconds: histogram(
                registry,
                "outbox_calls_deferral_seconds",
                "Time to commit a deferral transaction",
                COMMIT_SECONDS,
            ),
            of_other_groups: counter(
                registry,
                "outbox_calls_of_other_groups",
                "Copies skipped because another group of callers has appended them for itself",
            ),
            commit_seconds: histogram(
                registry,
                "outbox_calls_commit_seconds",
                "Time to commit call notes",
                COMMIT_SECONDS,
            ),
            // Brokers delete the group's offsets some days after its last member has left; then its partitions
            // halt. An idle caller commits nothing and keeps its offsets.
            last_commit: gauge(
                registry,
                "outbox_calls_last_commit_timestamp_seconds",
                "Unix time at which Kafka acknowledged the last commit of call notes; 0 before the first",
            ),
            // A partition takes no more calls in when its note could grow beyond what brokers accept: 4,096 bytes.
            note_bytes: gauge(
                registry,
                "outbox_calls_note_bytes",
                "Size of the longest call note of the last commit; at most 4,096",
            ),
            bound_seconds: real_counters(
                registry,
                "outbox_calls_bound_seconds",
                "Time by what bounded the number of calls per second: the API (requests in flight, or its circuit \
                 breaker), the rate limit, commits to Kafka, a pause, missing partitions, or none",
                "by",
                Bound::ALL.map(Bound::as_str),
            ),
            // A rising count means that commits take longer than the ownership lease, or that the process
            // stalls.
            requests_withheld: counter(
                registry,
                "outbox_calls_requests_withheld",
                "Requests not sent because the ownership lease had expired",
            ),
            requests_panicked: counter(
                registry,
                "outbox_calls_requests_panicked",
                "Requests and look-ups that ended in a panic of this program; their outcome is unknown",
            ),
            rejoins: counter(
                registry,
                "outbox_calls_rejoins",
                "Times this caller rejoined its consumer group",
            ),
            in_flight: gauge(registry, "outbox_calls_in_flight", "Requests in flight"),
            // A metric of its own, because the adaptive limit is in no settings file.
            in_flight_limit: gauge(
                registry,
                "outbox_calls_in_flight_limit",
                "Concurrency limit: the setting, or what the adaptive limit has found",
            ),
            outages: counter(
                registry,
                "outbox_api_outages",
                "Times the circuit breaker opened because the API was unhealthy",
            ),
            mass_rejections: counter(
                registry,
                "outbox_api_mass_rejections",
                "Times the circuit breaker opened because the API rejected most calls",
            ),
            probes_failed: counter(
                registry,
                "outbox_api_probes_failed",
                "Probes of the API that failed while the circuit breaker was open",
            ),
            paused: gauge(
                registry,
                "outbox_calls_paused",
                "1 while an operator has paused the calls, or the control topic is not read yet",
            ),
            breaker: gauges(
                registry,
                "outbox_api_breaker",
                "1 for the state of the circuit breaker: closed (calls are made), open (calls wait), probing",
                "state",
            ),
            // At their limits, `caller.calls_open_max` and `bytes_open_max`, partitions are paused.
            open: gauge(
                registry,
                "outbox_calls_open",
                "Calls taken from the outbox and not final",
            ),
            open_bytes: gauge(registry, "outbox_calls_open_bytes", "Bytes of the open calls"),
            partitions: gauges(
                registry,
                "outbox_calls_partitions",
                "Assigned partitions, by state",
                "state",
            ),
        }
    }

    /// Counts a request that has ended, by the class of its response.
    pub(crate) fn request_finished(&self, response: &Response, class: ResponseClass, took: Duration) {
        // Nothing was sent, so it is neither a request nor a time that the API took.
        if *response == Response::NotSent(NotSent::Withheld) {
            self.requests_withheld.inc();
            return;
        }
        self.requests.with(class.as_str()).inc();
        self.request_seconds
            .with(class.as_str())
            .observe(took.as_secs_f64());
        if class == ResponseClass::Ambiguous {
            self.requests_ambiguous.with(kind_of(response)).inc();
        }
    }

    /// Counts a request sent although an earlier one may have been processed.
    pub(crate) fn request_repeated(&self, ambiguity: Ambiguity) {
        self.repeated.with(ambiguity.as_str()).inc();
    }

    /// Counts a dead letter that Kafka acknowledged.
    pub(crate) fn dead_letter(&self, reason: Reason) {
        self.dead_letters.with(reason.as_str()).inc();
    }

    /// Counts a parked call that Kafka acknowledged.
    pub(crate) fn parked(&self, reason: parked::Reason) {
        self.parked.with(reason.as_str()).inc();
    }

    /// Counts a look-up that has ended.
    pub(crate) fn lookup_finished(&self, result: LookupResult, took: Duration) {
        self.lookups.with(result.as_str()).inc();
        self.lookup_seconds.observe(took.as_secs_f64());
    }

    /// Counts a commit that has ended; `result` is one of [`COMMIT_RESULTS`].
    pub(crate) fn commit_finished(&self, result: &'static str, took: Duration) {
        self.commits.with(result).inc();
        self.commit_seconds.observe(took.as_secs_f64());
        if result == "committed" {
            self.last_commit.set(Timestamp::now().0 / 1_000);
        }
    }

    /// Counts a deferral transaction that has ended; `result` is one of [`COMMIT_RESULTS`].
    pub(crate) fn deferral_finished(&self, result: &'static str, calls: usize, took: Duration) {
        self.deferrals.with(result).inc();
        // Only a committed transaction has deferred its calls. The time of a failed one is a timeout of ours
        // and would hide how fast Kafka is.
        if result == "committed" {
            self.deferred.inc_by(u64::try_from(calls).unwrap_or(u64::MAX));
            self.deferral_seconds.observe(took.as_secs_f64());
            // The transaction commits the notes of its partitions, too.
            self.last_commit.set(Timestamp::now().0 / 1_000);
        }
    }

    /// Sets the size of the call notes of a commit that is sent.
    pub(crate) fn notes_committed<'a>(&self, notes: impl Iterator<Item = &'a str>) {
        let longest = notes.map(str::len).max().unwrap_or_default();
        self.note_bytes.set(i64::try_from(longest).unwrap_or(i64::MAX));
    }

    /// Counts time in which this bounded the number of calls per second.
    pub(crate) fn bounded_by(&self, bound: Bound, time: Duration) {
        self.bound_seconds.with(bound.as_str()).inc_by(time.as_secs_f64());
    }

    /// Sets the gauges.
    pub(crate) fn set_gauges(&self, gauges: &Gauges) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.in_flight.set(number(gauges.calls_in_flight));
        self.in_flight_limit.set(number(gauges.calls_in_flight_limit));
        self.paused.set(i64::from(gauges.is_paused));
        // Each state is written each time: a state that is over must fall back to 0.
        for state in BreakerState::ALL {
            self.breaker
                .with(state.as_str())
                .set(i64::from(state == gauges.breaker));
        }
        self.awaiting_quiescence
            .set(number(gauges.calls_awaiting_quiescence));
        self.open.set(number(gauges.calls_open));
        self.open_bytes.set(number(gauges.bytes_open));
        for (state, count) in [
            ("active", gauges.partitions),
            ("loading", gauges.partitions_loading),
            ("draining", gauges.partitions_draining),
            ("halted", gauges.partitions_halted),
        ] {
            self.partitions.with(state).set(number(count));
        }
    }
}

/// Returns the HTTP status, or the kind of failure where there was none.
fn kind_of(response: &Response) -> Cow<'static, str> {
    match response.status() {
        Some(status) => status.to_string().into(),
        None => response.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_documented() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        // So that each state has its series.
        metrics.set_gauges(&Gauges::default());
        service::metrics::assert_documented(&registry, "caller", advice::ADVICE);
    }

    /// Dashboards and alerts depend on these names: a change here is a change for the users.
    #[test]
    fn metric_names_are_pinned() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.set_gauges(&Gauges::default());
        assert_eq!(
            service::metrics::names(&registry),
            [
                "outbox_calls_requests counter",
                "outbox_calls_requests_ambiguous counter",
                "outbox_calls_repeated counter",
                "outbox_calls_request_seconds histogram",
                "outbox_calls_outcomes counter",
                "outbox_calls_dead_letters counter",
                "outbox_calls_parked counter",
                "outbox_calls_lookups counter",
                "outbox_calls_lookup_seconds histogram",
                "outbox_calls_awaiting_quiescence gauge",
                "outbox_calls_publications_failed counter",
                "outbox_calls_producers_replaced counter",
                "outbox_calls_commits counter",
                "outbox_calls_deferrals counter",
                "outbox_calls_deferred counter",
                "outbox_calls_deferral_seconds histogram",
                "outbox_calls_of_other_groups counter",
                "outbox_calls_commit_seconds histogram",
                "outbox_calls_last_commit_timestamp_seconds gauge",
                "outbox_calls_note_bytes gauge",
                "outbox_calls_bound_seconds counter",
                "outbox_calls_requests_withheld counter",
                "outbox_calls_requests_panicked counter",
                "outbox_calls_rejoins counter",
                "outbox_calls_in_flight gauge",
                "outbox_calls_in_flight_limit gauge",
                "outbox_api_outages counter",
                "outbox_api_mass_rejections counter",
                "outbox_api_probes_failed counter",
                "outbox_calls_paused gauge",
                "outbox_api_breaker gauge",
                "outbox_calls_open gauge",
                "outbox_calls_open_bytes gauge",
                "outbox_calls_partitions gauge",
            ]
        );
    }

    #[test]
    fn only_an_acknowledged_commit_sets_its_time() {
        let metrics = Metrics::register(&mut Registry::default());
        metrics.commit_finished("unknown", Duration::ZERO);
        metrics.deferral_finished("fenced", 1, Duration::ZERO);
        assert_eq!(metrics.last_commit.get(), 0);
        metrics.commit_finished("committed", Duration::ZERO);
        let set = metrics.last_commit.get();
        let now = Timestamp::now().0 / 1_000;
        assert!((now - 60..=now).contains(&set), "{set}");
    }

    #[test]
    fn longest_note_of_a_commit_is_shown() {
        let metrics = Metrics::register(&mut Registry::default());
        metrics.notes_committed(["2:a:", "2:a:0-9"].into_iter());
        assert_eq!(metrics.note_bytes.get(), 7);
        metrics.notes_committed(["2:"].into_iter());
        assert_eq!(metrics.note_bytes.get(), 2);
    }

    #[test]
    fn withheld_request_is_no_request() {
        let metrics = Metrics::register(&mut Registry::default());
        let withheld = Response::NotSent(NotSent::Withheld);
        metrics.request_finished(&withheld, ResponseClass::Retryable, Duration::ZERO);
        assert_eq!(metrics.requests_withheld.get(), 1);
        assert_eq!(metrics.requests.with("retryable").get(), 0);
    }
}
