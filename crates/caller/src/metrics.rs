//! The names of all metrics of the caller.

use std::time::Duration;

use pipeline::delivery::{
    Ambiguity, BreakerState, Gauges, LookupResult, Lost, NotSent, Response, ResponseClass,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use records::call_dead_letter::Reason;
use records::parked;

/// The caller's metrics; clones are the same metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<ByAnswer, Counter>,
    ambiguous: Family<ByKind, Counter>,
    repeated: Family<ByReason, Counter>,
    request_seconds: Family<ByAnswer, Histogram>,
    dead_letters: Family<ByReason, Counter>,
    parked: Family<ByReason, Counter>,
    lookups: Family<ByVerdict, Counter>,
    lookup_seconds: Histogram,
    settling: Gauge,
    pub(crate) outcomes: Counter,
    /// Ends that Kafka did not acknowledge at the first time.
    pub(crate) publications_failed: Counter,
    commits: Family<ByResult, Counter>,
    deferrals: Family<ByResult, Counter>,
    calls_deferred: Counter,
    deferral_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    /// Requests held back because the proof of ownership was too old.
    pub(crate) withheld: Counter,
    pub(crate) rejoins: Counter,
    /// Times the circuit breaker opened.
    pub(crate) outages: Counter,
    /// Probes that failed while it was open.
    pub(crate) probes_failed: Counter,
    breaker: Family<ByState, Gauge>,
    in_flight: Gauge,
    in_flight_limit: Gauge,
    pending: Gauge,
    pending_bytes: Gauge,
    partitions: Family<ByState, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    answer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

/// Upper bounds in seconds: OpenTelemetry's for HTTP requests, and two more for slow APIs.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// Commits are quick; these are finer.
const COMMIT_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

impl Metrics {
    /// Registers the metrics. Every label that can come is there from the start, so that the first one of a
    /// kind is an increase.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            ambiguous: Family::default(),
            repeated: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            dead_letters: Family::default(),
            parked: Family::default(),
            lookups: Family::default(),
            lookup_seconds: Histogram::new(SECONDS),
            settling: Gauge::default(),
            outcomes: Counter::default(),
            publications_failed: Counter::default(),
            commits: Family::default(),
            deferrals: Family::default(),
            calls_deferred: Counter::default(),
            deferral_seconds: Histogram::new(COMMIT_SECONDS),
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            withheld: Counter::default(),
            rejoins: Counter::default(),
            outages: Counter::default(),
            probes_failed: Counter::default(),
            breaker: Family::default(),
            in_flight: Gauge::default(),
            in_flight_limit: Gauge::default(),
            pending: Gauge::default(),
            pending_bytes: Gauge::default(),
            partitions: Family::default(),
        };
        for answer in ResponseClass::ALL.map(ResponseClass::as_str) {
            drop(metrics.requests.get_or_create(&ByAnswer { answer }));
            drop(metrics.request_seconds.get_or_create(&ByAnswer { answer }));
        }
        for kind in [Lost::TimedOut, Lost::Closed, Lost::NotHttp, Lost::Other] {
            let kind = kind_of(&Response::Lost(kind));
            drop(metrics.ambiguous.get_or_create(&ByKind { kind }));
        }
        for reason in Ambiguity::ALL.map(Ambiguity::as_str) {
            drop(metrics.repeated.get_or_create(&ByReason { reason }));
        }
        for reason in Reason::ALL.map(Reason::as_str) {
            drop(metrics.dead_letters.get_or_create(&ByReason { reason }));
        }
        for reason in parked::Reason::ALL.map(parked::Reason::as_str) {
            drop(metrics.parked.get_or_create(&ByReason { reason }));
        }
        for verdict in LookupResult::ALL.map(LookupResult::as_str) {
            drop(metrics.lookups.get_or_create(&ByVerdict { verdict }));
        }
        for result in ["committed", "rejected", "fenced", "unknown"] {
            drop(metrics.commits.get_or_create(&ByResult { result }));
            drop(metrics.deferrals.get_or_create(&ByResult { result }));
        }
        // Registered under names without `_total`, which the text format appends to counters.
        registry.register(
            "outbox_calls_requests",
            "Requests by what their answer means",
            metrics.requests.clone(),
        );
        registry.register(
            "outbox_calls_requests_ambiguous",
            "Requests of which nobody can know whether they were processed, by what happened",
            metrics.ambiguous.clone(),
        );
        registry.register(
            "outbox_calls_repeated",
            "Requests made although an earlier one may have been processed, by the reason",
            metrics.repeated.clone(),
        );
        registry.register(
            "outbox_calls_request_seconds",
            "Time from the beginning of a request to its answer, by what it means",
            metrics.request_seconds.clone(),
        );
        registry.register(
            "outbox_calls_outcomes",
            "Outcomes published",
            metrics.outcomes.clone(),
        );
        registry.register(
            "outbox_calls_dead_letters",
            "Dead letters published, by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "outbox_calls_parked",
            "Calls parked for a person, by reason",
            metrics.parked.clone(),
        );
        registry.register(
            "outbox_calls_lookups",
            "Look-ups by what they came to",
            metrics.lookups.clone(),
        );
        registry.register(
            "outbox_calls_lookup_seconds",
            "Time from the beginning of a look-up to its answer",
            metrics.lookup_seconds.clone(),
        );
        registry.register(
            "outbox_calls_awaiting_quiescence",
            "Calls of which nobody knows, and that wait until an earlier request has settled, or are looked up",
            metrics.settling.clone(),
        );
        registry.register(
            "outbox_calls_publications_failed",
            "Outcomes and dead letters that Kafka did not acknowledge, and that are sent again",
            metrics.publications_failed.clone(),
        );
        registry.register(
            "outbox_calls_commits",
            "Commits of call notes, by result",
            metrics.commits.clone(),
        );
        registry.register(
            "outbox_calls_deferrals",
            "Transactions that defer calls to the end of the outbox, by result",
            metrics.deferrals.clone(),
        );
        registry.register(
            "outbox_calls_deferred",
            "Calls deferred to the end of the outbox, because they fail while others succeed",
            metrics.calls_deferred.clone(),
        );
        registry.register(
            "outbox_calls_deferral_seconds",
            "Time to defer calls",
            metrics.deferral_seconds.clone(),
        );
        registry.register(
            "outbox_calls_commit_seconds",
            "Time to commit call notes",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "outbox_calls_requests_withheld",
            "Requests held back at the last moment, because the proof of ownership was too old",
            metrics.withheld.clone(),
        );
        registry.register(
            "outbox_calls_rejoins",
            "Times the group was joined anew",
            metrics.rejoins.clone(),
        );
        registry.register(
            "outbox_calls_in_flight",
            "Requests under way",
            metrics.in_flight.clone(),
        );
        registry.register(
            "outbox_calls_in_flight_limit",
            "Requests that may be under way: the setting, or what the adaptive limit has found out",
            metrics.in_flight_limit.clone(),
        );
        registry.register(
            "outbox_api_outages",
            "Times the API was found to be ill, and calls began to wait",
            metrics.outages.clone(),
        );
        registry.register(
            "outbox_api_probes_failed",
            "Calls that went while the API was ill, and failed",
            metrics.probes_failed.clone(),
        );
        registry.register(
            "outbox_api_breaker",
            "1 for the state of the circuit breaker: closed (calls are made), open (they wait), probing",
            metrics.breaker.clone(),
        );
        registry.register(
            "outbox_calls_open",
            "Calls read from the outbox and not final",
            metrics.pending.clone(),
        );
        registry.register(
            "outbox_calls_open_bytes",
            "Bytes of those calls",
            metrics.pending_bytes.clone(),
        );
        registry.register(
            "outbox_calls_partitions",
            "Partitions by state",
            metrics.partitions.clone(),
        );
        metrics
    }

    /// A request has come to something.
    pub(crate) fn answered(&self, report: &Response, answer: ResponseClass, took: Duration) {
        if *report == Response::NotSent(NotSent::Withheld) {
            self.withheld.inc();
            return;
        }
        let label = ByAnswer {
            answer: answer.as_str(),
        };
        self.requests.get_or_create(&label).inc();
        self.request_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        if answer == ResponseClass::Ambiguous {
            self.ambiguous
                .get_or_create(&ByKind {
                    kind: kind_of(report),
                })
                .inc();
        }
    }

    /// A request left although an earlier one may have been processed.
    pub(crate) fn repeated(&self, ambiguity: Ambiguity) {
        self.repeated
            .get_or_create(&ByReason {
                reason: ambiguity.as_str(),
            })
            .inc();
    }

    /// A dead letter was acknowledged.
    pub(crate) fn dead_letter(&self, reason: Reason) {
        self.dead_letters
            .get_or_create(&ByReason {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// A parked record was acknowledged.
    pub(crate) fn parked(&self, reason: parked::Reason) {
        let reason = reason.as_str();
        self.parked.get_or_create(&ByReason { reason }).inc();
    }

    /// A look-up has come to something.
    pub(crate) fn looked_up(&self, verdict: LookupResult, took: Duration) {
        let verdict = verdict.as_str();
        self.lookups.get_or_create(&ByVerdict { verdict }).inc();
        self.lookup_seconds.observe(took.as_secs_f64());
    }

    /// A commit has come to something.
    pub(crate) fn committed(&self, result: &'static str, took: Duration) {
        self.commits.get_or_create(&ByResult { result }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A deferral of so many calls has come to something.
    pub(crate) fn deferred(&self, result: &'static str, calls: usize, took: Duration) {
        self.deferrals.get_or_create(&ByResult { result }).inc();
        if result == "committed" {
            self.calls_deferred
                .inc_by(u64::try_from(calls).unwrap_or(u64::MAX));
            self.deferral_seconds.observe(took.as_secs_f64());
        }
    }

    /// How much is held now.
    pub(crate) fn set(&self, gauges: &Gauges) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.in_flight.set(number(gauges.calls_in_flight));
        self.in_flight_limit.set(number(gauges.calls_in_flight_limit));
        for state in BreakerState::ALL {
            let label = ByState {
                state: state.as_str(),
            };
            self.breaker
                .get_or_create(&label)
                .set(i64::from(state == gauges.breaker));
        }
        self.settling.set(number(gauges.calls_awaiting_quiescence));
        self.pending.set(number(gauges.calls_open));
        self.pending_bytes.set(number(gauges.bytes_open));
        for (state, count) in [
            ("active", gauges.partitions),
            ("loading", gauges.partitions_loading),
            ("draining", gauges.partitions_draining),
            ("refused", gauges.partitions_halted),
        ] {
            self.partitions
                .get_or_create(&ByState { state })
                .set(number(count));
        }
    }
}

/// The status, or what happened instead. There are 600 statuses at most.
fn kind_of(report: &Response) -> String {
    report
        .status()
        .map_or_else(|| report.kind().to_owned(), |status| status.to_string())
}
