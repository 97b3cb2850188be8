//! The programs that were asked: a row for each, and a line for each reason.

use std::collections::BTreeMap;

use comfy_table::Table;
use service::status::{Breaker, PartitionState, ProgramStatus, Work};

use super::programs::Asked;
use crate::tables::{cell, line, new_table};

/// Line in place of the table.
pub(super) const NONE_NAMED: &str = "Not shown, because only the running programs know it: readiness, circuit breakers, \
                                     restores. Name their admin addresses with --program http://HOST:9464, or in the \
                                     setting status.programs.";

/// Maximum number of characters of a reason; the JSON output has all of it.
// The repair of a halted partition stands at the end of some 500.
const REASON_MAX: usize = 2000;

/// Returns a row for each program.
pub(super) fn table(programs: &[Asked]) -> Table {
    let mut table = new_table(["program", "url", "ready", "breaker", "partitions"]);
    for asked in programs {
        table.add_row(match &asked.status {
            Some(status) => [
                name(status),
                asked.url.clone(),
                ready(status).into(),
                breaker(status.work.breaker).into(),
                partitions(&status.work),
            ],
            None => ["-", &asked.url, "no answer", "-", "-"].map(str::to_owned),
        });
    }
    table
}

/// Returns why programs are not ready, or did not answer: a line for each reason.
// Not in the table: a command in it could not be copied.
pub(super) fn reasons(programs: &[Asked]) -> Vec<String> {
    let of = |asked: &Asked| match &asked.status {
        Some(status) => reasons_of(status),
        None => vec![line(asked.error.as_deref().unwrap_or_default(), REASON_MAX)],
    };
    programs.iter().flat_map(of).collect()
}

fn name(status: &ProgramStatus) -> String {
    cell(&format!("{} {}", status.program, status.instance_id))
}

const fn ready(status: &ProgramStatus) -> &'static str {
    match (status.alive, status.ready) {
        (false, _) => "hangs",
        (true, true) => "yes",
        (true, false) => "no",
    }
}

const fn breaker(breaker: Option<Breaker>) -> &'static str {
    match breaker {
        None => "-",
        Some(Breaker::Closed) => "closed",
        Some(Breaker::Open) => "open",
        Some(Breaker::Probing) => "open, probing",
    }
}

/// Returns the number of partitions that run, and which do not.
fn partitions(work: &Work) -> String {
    let mut by_state: BTreeMap<PartitionState, Vec<String>> = BTreeMap::new();
    for of in &work.partitions {
        by_state
            .entry(of.state)
            .or_default()
            .push(of.partition.to_string());
    }
    let parts: Vec<String> = by_state
        .into_iter()
        .map(|(state, partitions)| {
            let these = partitions.join(", ");
            match state {
                PartitionState::Running => format!("{} running", partitions.len()),
                PartitionState::AwaitsProducer => format!("waiting for the producer: {these}"),
                PartitionState::Restoring => format!("restoring: {these}"),
                PartitionState::Loading => format!("loading: {these}"),
                PartitionState::Draining => format!("draining: {these}"),
                PartitionState::Halted => format!("halted: {these}"),
                PartitionState::Other => format!("in another state: {these}"),
            }
        })
        .collect();
    match parts.is_empty() {
        true => "none".into(),
        false => cell(&parts.join("; ")),
    }
}

fn reasons_of(status: &ProgramStatus) -> Vec<String> {
    let name = name(status);
    let hangs = (!status.alive).then(|| {
        format!(
            "{name} hangs: its run loop has stopped, so what is shown of its work is old. Look at its log, and restart \
             it if that lasts."
        )
    });
    let unready = status.reasons.iter().map(|of| {
        let text = format!("{name} is not ready ({}): {}", of.condition, of.reason);
        line(&text, REASON_MAX)
    });
    hangs.into_iter().chain(unready).collect()
}

#[cfg(test)]
mod tests {
    use service::status::{PartitionStatus, UnreadyReason};

    use super::*;

    fn caller() -> ProgramStatus {
        let partition = |partition, state| PartitionStatus {
            partition,
            state,
            reason: None,
        };
        ProgramStatus {
            program: "caller".into(),
            version: "1".into(),
            instance_id: "c-1".into(),
            alive: true,
            ready: false,
            reasons: ["api", "partitions"]
                .map(|condition| UnreadyReason {
                    condition: condition.into(),
                    reason: format!("of {condition}\u{1b}[2J"),
                })
                .into(),
            work: Work {
                breaker: Some(Breaker::Probing),
                partitions: vec![
                    partition(0, PartitionState::Running),
                    partition(1, PartitionState::Halted),
                    partition(2, PartitionState::Restoring),
                    partition(3, PartitionState::Running),
                    partition(4, PartitionState::Halted),
                ],
            },
        }
    }

    #[test]
    fn row_has_readiness_breaker_and_partitions() {
        let mut status = caller();
        assert_eq!(partitions(&status.work), "2 running; restoring: 2; halted: 1, 4");
        assert_eq!(
            (ready(&status), breaker(status.work.breaker)),
            ("no", "open, probing")
        );
        status.ready = true;
        assert_eq!(ready(&status), "yes");
        status.alive = false;
        assert_eq!(ready(&status), "hangs");
        status.work = Work::default();
        assert_eq!((partitions(&status.work).as_str(), breaker(None)), ("none", "-"));
    }

    #[test]
    fn each_reason_is_a_line() {
        let mut status = caller();
        status.alive = false;
        let lines = reasons_of(&status);
        assert_eq!(
            lines[1..],
            [
                "caller c-1 is not ready (api): of api\\u{1b}[2J",
                "caller c-1 is not ready (partitions): of partitions\\u{1b}[2J"
            ]
        );
        assert!(lines[0].starts_with("caller c-1 hangs"), "{}", lines[0]);
    }

    #[test]
    fn program_without_an_answer_has_a_row() {
        let asked = [
            Asked {
                url: "http://c:9465".into(),
                status: Some(caller()),
                error: None,
            },
            Asked {
                url: "http://v:9464".into(),
                status: None,
                error: Some("GET http://v:9464/status: cannot connect".into()),
            },
        ];
        let table = table(&asked).to_string();
        for words in ["caller c-1", "halted: 1, 4", "http://v:9464", "no answer"] {
            assert!(table.contains(words), "{words}:\n{table}");
        }
        let lines = reasons(&asked);
        assert_eq!(
            (lines.len(), lines[2].as_str()),
            (3, "GET http://v:9464/status: cannot connect")
        );
    }
}
