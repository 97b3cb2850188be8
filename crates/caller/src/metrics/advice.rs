//! What to do when a metric is odd: the last column of `docker/METRICS.md`.

use service::metrics::Advice;

/// What to do when a metric is odd, for the document of the metrics.
pub(super) const ADVICE: &Advice = &[
    (
        "outbox_calls_requests",
        "Much other than `accepted`: see the classes of `api.responses`, and the API. Runbook: ApiRejections.",
    ),
    (
        "outbox_calls_requests_ambiguous",
        "Each may have been charged. The kind says why: time-outs, resets, a status. Runbook: CallsAmbiguous.",
    ),
    (
        "outbox_calls_repeated",
        "Each may have been charged twice (only under `retry`): compare with the API's records. Runbook: CallsRepeated.",
    ),
    (
        "outbox_calls_request_seconds",
        "Near `api.timeout`: calls become ambiguous. Ask the API's team.",
    ),
    (
        "outbox_calls_outcomes",
        "Stands still while calls are pending: see `outbox_calls_bound_seconds_total`.",
    ),
    (
        "outbox_calls_dead_letters",
        "`outbox dead-letters groups` shows causes and amounts. Runbook: CallDeadLetters.",
    ),
    (
        "outbox_calls_parked",
        "Each waits for a person: `outbox parked groups`. Runbook: CallsParked.",
    ),
    (
        "outbox_calls_lookups",
        "`unknown` again and again: the look-up endpoint does not work.",
    ),
    ("outbox_calls_lookup_seconds", "As of requests."),
    (
        "outbox_calls_awaiting_quiescence",
        "Falls by itself after `verify.api_processing_max`. If not: the look-up endpoint does not work.",
    ),
    (
        "outbox_calls_publications_failed",
        "The brokers do not acknowledge: see them and the log.",
    ),
    (
        "outbox_calls_producers_replaced",
        "A missing permission, or a topic that is gone: see the log.",
    ),
    (
        "outbox_calls_commits",
        "`fenced` or `unknown` without a deployment or a broker's restart: sessions expire, or the network fails.",
    ),
    ("outbox_calls_deferrals", "As of commits."),
    (
        "outbox_calls_deferred",
        "These orders fail while others succeed: `outbox order KEY`.",
    ),
    ("outbox_calls_deferral_seconds", "As of commits."),
    (
        "outbox_calls_of_other_groups",
        "Normal where a second group of callers reads the outbox.",
    ),
    (
        "outbox_calls_commit_seconds",
        "About 7 ms on Kafka 4. Under `park` and `verify` each call waits for one.",
    ),
    (
        "outbox_calls_last_commit_timestamp_seconds",
        "In the future: the clock is wrong. Runbook: ClockWrong.",
    ),
    (
        "outbox_calls_note_bytes",
        "Near 4,096: a call blocks its partition while many behind it end; `outbox notes`. Runbook: NotesNearlyFull.",
    ),
    (
        "outbox_calls_bound_seconds",
        "`rate` of it is the share of time. `api` while calls are pending: a faster API or more calls in flight; \
         `commits`: the brokers; `none` with pending calls: their orders back off, or wait for an earlier one of their key.",
    ),
    (
        "outbox_calls_requests_withheld",
        "Commits take longer than `caller.ownership_lease`, or the process stalls: more processor, faster brokers.",
    ),
    (
        "outbox_calls_requests_panicked",
        "A defect: report it. Runbook: RequestsPanicked.",
    ),
    (
        "outbox_calls_rejoins",
        "As `fenced` and `unknown` of `outbox_calls_commits_total`.",
    ),
    (
        "outbox_calls_in_flight",
        "At the limit for long: see `outbox_calls_bound_seconds_total`.",
    ),
    (
        "outbox_calls_in_flight_limit",
        "Below the setting: the adaptive limit spares the API.",
    ),
    ("outbox_api_outages", "Runbook: BreakerOpen."),
    (
        "outbox_api_mass_rejections",
        "A wrong route, an expired account. Runbook: ApiRejections.",
    ),
    (
        "outbox_api_probes_failed",
        "Rises during an outage, one per `circuit_breaker.probe_interval`.",
    ),
    (
        "outbox_calls_paused",
        "`outbox resume` ends a pause. Runbook: CallsPaused.",
    ),
    (
        "outbox_api_breaker",
        "`closed` is 0: the API is down, or rejects most calls. Runbook: BreakerOpen.",
    ),
    (
        "outbox_calls_open",
        "At `caller.calls_open_max` for long: the API is too slow for the orders.",
    ),
    (
        "outbox_calls_open_bytes",
        "At `caller.bytes_open_max`: large orders; partitions are paused.",
    ),
    (
        "outbox_calls_partitions",
        "`halted` above 0: a person has to judge; `outbox status` has the reason. Runbook: PartitionHalted.",
    ),
];
