//! The status as tables and text.

use std::time::Duration;

use comfy_table::Table;
use records::Timestamp;
use records::control::Calls;

use super::report::Report;
use crate::tables::new_table;
use crate::timestamp::rfc3339;

/// Returns the backlog of each partition of the outbox.
pub(super) fn table(report: &Report) -> Table {
    let mut table = new_table([
        "partition",
        "pending",
        "perhaps sent",
        "oldest pending",
        "commit",
        "end",
        "halts",
    ]);
    for of in &report.partitions {
        table.add_row([
            of.partition.to_string(),
            of.pending.to_string(),
            of.perhaps_sent.to_string(),
            age(of.oldest_pending_at, report.at),
            of.committed.map_or("-".into(), |offset| offset.to_string()),
            of.end.to_string(),
            of.halts.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Returns what an operator does about each partition that callers halt, a line each.
pub(super) fn repairs(report: &Report) -> impl Iterator<Item = String> + '_ {
    report.partitions.iter().filter_map(|of| {
        let repair = of.repair.as_ref()?;
        Some(format!("partition {}: {repair}", of.partition))
    })
}

/// Returns all that has no row of its own, as sentences.
pub(super) fn text(report: &Report) -> String {
    let Report {
        validators,
        orders_waiting,
        callers,
        pending,
        perhaps_sent,
        parked,
        call_dead_letters,
        order_dead_letters,
        ..
    } = report;
    let paused = report
        .switch
        .as_ref()
        .filter(|switch| switch.calls == Calls::Paused)
        .map(|switch| {
            let reason = switch.reason.as_deref().unwrap_or("no reason given");
            format!(
                "\nThe calls are paused, by {} at {}: {reason}. `outbox resume` resumes them.",
                switch.by,
                rfc3339(Some(switch.at))
            )
        });
    let settle = if *parked > 0 {
        " (`outbox parked groups`)"
    } else {
        ""
    };
    format!(
        "{}: {validators} validators, {orders_waiting} orders wait; {callers} callers, {pending} calls pending, \
         {perhaps_sent} of them perhaps sent{}; {parked} parked calls wait for an operator{settle}; dead \
         letters: {order_dead_letters} orders, {call_dead_letters} calls.{}",
        rfc3339(Some(report.at)),
        report.oldest_pending_at.map_or(String::new(), |at| format!(
            ", the oldest for {}",
            age(Some(at), report.at)
        )),
        paused.unwrap_or_default()
    )
}

/// Returns for how long a call has been waiting.
fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or("-".into(), |since| {
        let seconds = u64::try_from((now.0 - since.0) / 1000).unwrap_or_default();
        humantime::format_duration(Duration::from_secs(seconds)).to_string()
    })
}

#[cfg(test)]
mod tests {
    use kafka::offsets::Committed;
    use records::control::Switch;
    use records::{Bounds, Offset, Partition};

    use super::*;
    use crate::commands::status::report::without_calls;

    #[test]
    fn report_is_one_sentence() {
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(0),
        };
        let committed = Committed {
            partition: Partition(2),
            offset: None,
            metadata: String::new(),
            leader_epoch: None,
        };
        let report = Report {
            at: Timestamp(3_700_000),
            validators: 3,
            orders_waiting: 0,
            callers: 2,
            switch: Some(Switch::new(Calls::Paused, Timestamp(1), "ann@ops".into(), None)),
            pending: 7,
            perhaps_sent: 4,
            oldest_pending_at: Some(Timestamp(40_000)),
            parked: 1,
            call_dead_letters: 0,
            order_dead_letters: 2,
            partitions: vec![without_calls(committed, bounds, None, ("callers", "outbox")).0],
        };
        let text = text(&report);
        for words in [
            "3 validators",
            "7 calls pending, 4 of them perhaps sent, the oldest for 1h 1m",
            "outbox parked groups",
            "paused, by ann@ops",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(table(&report).to_string().contains("perhaps sent"));
    }
}
