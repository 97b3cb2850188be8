//! Which metric is in which panel of the dashboard: money first, then the flow, then the machine.

/// Rows of the dashboard, each with its panels.
pub(super) const ROWS: [(&str, &[Panel]); 3] = [("Money", MONEY), ("Flow", FLOW), ("Machine", MACHINE)];

/// Title of a panel, and the metrics that it shows.
pub(super) type Panel = (&'static str, &'static [&'static str]);

const MONEY: &[Panel] = &[
    ("Parked calls", &["outbox_parked_calls"]),
    ("Money of the parked calls", &["outbox_parked_amount"]),
    (
        "Age of the oldest parked call",
        &["outbox_parked_oldest_age_seconds"],
    ),
    (
        "Age of the oldest pending call",
        &["outbox_pending_oldest_age_seconds"],
    ),
    (
        "Requests that may have charged twice",
        &[
            "outbox_calls_repeated_total",
            "outbox_calls_requests_panicked_total",
        ],
    ),
    ("Ambiguous requests", &["outbox_calls_requests_ambiguous_total"]),
    ("Calls parked", &["outbox_calls_parked_total"]),
    ("Dead letters of calls", &["outbox_calls_dead_letters_total"]),
    ("Dead letters of orders", &["outbox_order_dead_letters_total"]),
    (
        "Partitions by state",
        &["outbox_partitions", "outbox_calls_partitions"],
    ),
    (
        "Mass rejections and refusals",
        &["outbox_api_mass_rejections_total", "outbox_mass_refusals_total"],
    ),
];

const FLOW: &[Panel] = &[
    ("Pending calls", &["outbox_pending_calls"]),
    ("Orders that wait", &["outbox_orders_waiting"]),
    (
        "Lag of the orders",
        &[
            "outbox_orders_lag_seconds",
            "outbox_orders_waiting_oldest_age_seconds",
        ],
    ),
    ("Orders by verdict", &["outbox_orders_total"]),
    (
        "Partitions that wait for a schema",
        &["outbox_partitions_awaiting_schemas"],
    ),
    ("Requests for schemas", &["outbox_schema_requests_total"]),
    ("Requests by class", &["outbox_calls_requests_total"]),
    ("Outcomes", &["outbox_calls_outcomes_total"]),
    ("Time of a request", &["outbox_calls_request_seconds"]),
    ("What bounds the callers", &["outbox_calls_bound_seconds_total"]),
    (
        "Requests in flight",
        &["outbox_calls_in_flight", "outbox_calls_in_flight_limit"],
    ),
    ("Circuit breaker", &["outbox_api_breaker"]),
    (
        "Outages and probes",
        &["outbox_api_outages_total", "outbox_api_probes_failed_total"],
    ),
    ("Pause", &["outbox_calls_paused"]),
    (
        "Calls that wait for a look-up",
        &["outbox_calls_awaiting_quiescence"],
    ),
    ("Look-ups of orders", &["outbox_calls_lookups_total"]),
    ("Time of a look-up of an order", &["outbox_calls_lookup_seconds"]),
    ("Deferred calls", &["outbox_calls_deferred_total"]),
    ("Open calls", &["outbox_calls_open"]),
    ("Bytes of the open calls", &["outbox_calls_open_bytes"]),
    ("Copies of other groups", &["outbox_calls_of_other_groups_total"]),
];

const MACHINE: &[Panel] = &[
    ("Members of the groups", &["outbox_group_members"]),
    ("Versions", &["outbox_build_info"]),
    ("Time since the start", &["process_start_time_seconds"]),
    ("Processor", &["process_cpu_seconds_total"]),
    (
        "Memory",
        &[
            "process_resident_memory_bytes",
            "process_resident_memory_max_bytes",
        ],
    ),
    ("Threads and files", &["process_threads", "process_open_fds"]),
    ("Transactions", &["outbox_transactions_total"]),
    ("Time to end a transaction", &["outbox_transaction_end_seconds"]),
    ("Orders per transaction", &["outbox_transaction_orders"]),
    (
        "Commits and deferrals",
        &["outbox_calls_commits_total", "outbox_calls_deferrals_total"],
    ),
    (
        "Time of a commit",
        &["outbox_calls_commit_seconds", "outbox_calls_deferral_seconds"],
    ),
    (
        "Time since the last commit",
        &["outbox_calls_last_commit_timestamp_seconds"],
    ),
    ("Size of the call notes", &["outbox_calls_note_bytes"]),
    (
        "Failures of the callers",
        &[
            "outbox_calls_publications_failed_total",
            "outbox_calls_producers_replaced_total",
            "outbox_calls_requests_withheld_total",
            "outbox_calls_rejoins_total",
        ],
    ),
    ("Unassigned partitions", &["outbox_partitions_unassigned"]),
    (
        "Rebalances and fencing",
        &[
            "outbox_rebalances_triggered_total",
            "outbox_rejoins_after_fencing_total",
        ],
    ),
    ("Keys in the stores", &["outbox_store_keys"]),
    ("Size of the stores", &["outbox_store_bytes"]),
    ("Alarm of the size", &["outbox_store_size_alarm"]),
    ("Age of the oldest key", &["outbox_store_oldest_key_seconds"]),
    (
        "Blocks read by look-ups of keys",
        &["outbox_store_block_reads_total"],
    ),
    ("Time of a look-up of a key", &["outbox_store_lookup_seconds"]),
    (
        "Restores",
        &[
            "outbox_restores_total",
            "outbox_stores_rebuilt_total",
            "outbox_forgettings_total",
        ],
    ),
    ("Time of a restore", &["outbox_restore_seconds"]),
    (
        "Changelog records read",
        &["outbox_restore_records_total", "outbox_standby_records_total"],
    ),
    (
        "Standby stores",
        &["outbox_standby_stores", "outbox_standby_lag_records"],
    ),
    (
        "Spans of traces",
        &[
            "outbox_trace_spans_exported_total",
            "outbox_trace_spans_dropped_total",
        ],
    ),
    ("Time since Kafka was read", &["outbox_read_timestamp_seconds"]),
    ("Failed readings", &["outbox_read_failures_total"]),
];
