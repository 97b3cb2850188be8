//! `operations list`: who has changed what, when and why.

use std::collections::VecDeque;

use records::Timestamp;
use records::operation::{Event, Operation};
use serde::Serialize;

use crate::cli::{ListOperations, OperationsCommand};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::operations_log::OperationsLog;
use crate::tables::{cell, new_table, printable};
use crate::timestamp::rfc3339;

pub(crate) fn run(command: &OperationsCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    let OperationsCommand::List(options) = command;
    let mut listed = Listed::default();
    OperationsLog::open(config)?.visit(|_, operation| listed.take(options, operation))?;
    if json {
        print_json(&listed)?;
        return Ok(Status::Ok);
    }
    if listed.operations.is_empty() {
        println!("No operator has changed anything.");
        return Ok(Status::Ok);
    }
    let mut table = new_table(["at", "by", "command", "what", "reason"]);
    for of in &listed.operations {
        table.add_row([
            rfc3339(Some(of.at)),
            cell(&of.by),
            of.command.clone(),
            printable(&of.what),
            printable(of.reason.as_deref().unwrap_or_default()),
        ]);
    }
    println!("{table}");
    let older = listed.count - listed.operations.len();
    if older > 0 {
        println!("{older} earlier ones are not listed (--limit).");
    }
    Ok(Status::Ok)
}

/// Field names are those of the JSON output.
#[derive(Debug, Default, Serialize)]
struct Listed {
    /// Number of operations, also of those that are not listed.
    count: usize,
    operations: VecDeque<Shown>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    at: Timestamp,
    by: String,
    command: String,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Plan of the replay, if it is an event of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
}

impl Listed {
    fn take(&mut self, options: &ListOperations, operation: Operation) {
        let is_part = operation
            .replay
            .as_ref()
            .is_some_and(|replay| matches!(replay.event, Event::Calls { .. }));
        let is_listed = !is_part
            && options.from.is_none_or(|from| operation.at >= from)
            && options.to.is_none_or(|to| operation.at < to)
            && options
                .by
                .as_ref()
                .is_none_or(|text| operation.by.contains(text.as_str()));
        if !is_listed {
            return;
        }
        self.count += 1;
        self.operations.push_back(Shown {
            at: operation.at,
            by: operation.by,
            command: operation.command,
            what: operation.what,
            reason: operation.reason,
            plan: operation.replay.map(|replay| replay.plan),
        });
        // The latest are those that one looks for.
        if self.operations.len() > options.limit {
            self.operations.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_operations_are_listed() {
        let options = ListOperations {
            from: Some(Timestamp(2)),
            to: Some(Timestamp(9)),
            by: Some("ann".into()),
            limit: 2,
        };
        let mut listed = Listed::default();
        for (at, by) in [
            (1, "ann@a"),
            (2, "ann@a"),
            (3, "bob@a"),
            (5, "ann@b"),
            (8, "ann@c"),
            (9, "ann@d"),
        ] {
            let operation = Operation::new(Timestamp(at), by.into(), "pause".into(), "the calls of g".into());
            listed.take(&options, operation);
        }
        let json = serde_json::to_value(&listed).expect("JSON");
        let expected = serde_json::json!({"count": 3, "operations": [
            {"at": 5, "by": "ann@b", "command": "pause", "what": "the calls of g"},
            {"at": 8, "by": "ann@c", "command": "pause", "what": "the calls of g"},
        ]});
        assert_eq!(json, expected);
    }
}
