//! `pause` and `resume`: set the switch of a callers' group on the control topic.

use std::convert::Infallible;

use kafka::OutgoingRecord;
use kafka::admin::Admin;
use kafka::changelog::{ChangelogReader, ReadError};
use kafka::producer::transactional::TransactionEnd;
use records::control::{Calls, Switch};
use records::{Partition, Timestamp};
use serde::Serialize;

use crate::brokers::{CLIENT_ID, REQUEST_TIMEOUT, expect_known};
use crate::cli::SwitchCalls;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, operation};
use crate::operator::operator;
use crate::timestamp::rfc3339;
use crate::transaction::open_producer;

/// The only partition of the control topic.
const PARTITION: Partition = Partition(0);

#[derive(Serialize)]
struct Switched<'a> {
    group: &'a str,
    /// Position of the switch before; `None` if the group had none.
    before: Option<&'a Switch>,
    now: &'a Switch,
    changed: bool,
}

/// Pauses or resumes the calls of a group.
pub(crate) fn run(
    calls: Calls,
    options: &SwitchCalls,
    config: &Config,
    json: bool,
) -> anyhow::Result<Status> {
    let (topic, group) = (config.topics.control.as_str(), options.which.group.as_str());
    let settings = config.connection_as(group);
    let admin = Admin::connect(&settings, CLIENT_ID)?;
    let callers = admin.group(group, &config.topics.pending, REQUEST_TIMEOUT)?;
    if calls == Calls::Paused && !options.new_group {
        expect_known(&callers, group, "callers", "--group", "nothing would be paused")?;
    }
    let callers = callers.members.len();
    // Before the switch is read: this fences an operator who changes it at the same time.
    // By the topic: operators of two pipelines on one cluster change different switches.
    let id = format!("outbox-control-{topic}");
    let producer = open_producer(config, &id, &[topic, &config.topics.operations])?;
    let reader = ChangelogReader::open(&settings, topic)?;
    let before = read(&reader, topic, group)?;
    if let Some(same) = before.as_ref().filter(|before| before.calls == calls) {
        return show(group, Some(same), same, false, json);
    }

    let question = question(calls, group, callers);
    if !confirm(&question, options.yes)? {
        eprintln!("Nothing was changed.");
        return Ok(Status::Problem);
    }
    let now = Switch::new(calls, Timestamp::now(), operator(), options.reason.clone());
    producer.begin()?;
    producer.send(OutgoingRecord {
        topic,
        partition: Some(PARTITION),
        key: Some(group.as_bytes()),
        value: Some(&now.to_json()),
        headers: None,
        at: None,
    })?;
    let (command, state) = match calls {
        Calls::Paused => ("pause", "paused"),
        Calls::Running => ("resume", "resumed"),
    };
    let what = format!("the calls of the group {group} {state}");
    operations_log::send(
        &producer,
        config,
        &operation(command, what, options.reason.as_deref()),
    )?;
    match producer.end_without_offsets(|| ()) {
        TransactionEnd::Committed { .. } | TransactionEnd::CommittedRetireProducer { .. } => {}
        TransactionEnd::Aborted(error) | TransactionEnd::Unknown(error) => {
            return Err(anyhow::Error::new(error).context(format!(
                "the switch of the group {group:?} was not set, or that is not known: a second operator may \
                 have set it at the same time. Run the command again, which shows how it is set"
            )));
        }
    }
    show(group, before.as_ref(), &now, true, json)
}

fn question(calls: Calls, group: &str, callers: usize) -> String {
    match calls {
        Calls::Paused => format!(
            "Pause the calls of the group {group}? Its {callers} callers stop sending within a second, finish \
             the requests in flight, and keep everything else."
        ),
        Calls::Running => format!(
            "Resume the calls of the group {group}? Its {callers} callers make all calls that have gathered."
        ),
    }
}

fn show(
    group: &str,
    before: Option<&Switch>,
    now: &Switch,
    changed: bool,
    json: bool,
) -> anyhow::Result<Status> {
    if json {
        print_json(&Switched {
            group,
            before,
            now,
            changed,
        })?;
        return Ok(Status::Ok);
    }
    let state = match now.calls {
        Calls::Paused => "paused",
        Calls::Running => "running",
    };
    let already = if changed { "" } else { " already" };
    let reason = now
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    println!(
        "The calls of the group {group} are{already} {state}, by {} at {}{reason}.",
        now.by,
        rfc3339(Some(now.at))
    );
    Ok(Status::Ok)
}

/// Returns the switch of a group; `None` if it was never set.
pub(crate) fn read(reader: &ChangelogReader, topic: &str, group: &str) -> anyhow::Result<Option<Switch>> {
    let bounds = reader.bounds(PARTITION, REQUEST_TIMEOUT)?;
    let mut latest = None;
    let read = reader.read_other(topic, PARTITION, bounds, |record| {
        if record.key == group.as_bytes() {
            // One that cannot be read is replaced.
            latest = record.value.and_then(|value| Switch::parse(value).ok());
        }
        Ok::<(), Infallible>(())
    });
    match read {
        Ok(()) | Err(ReadError::Cancelled) => Ok(latest),
        Err(ReadError::Client(error)) => Err(error.into()),
        Err(ReadError::Sink(never)) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_field_names_are_stable() {
        let now = Switch::new(Calls::Paused, Timestamp(1), "ann@ops-1".into(), None);
        let json = serde_json::to_value(Switched {
            group: "g",
            before: None,
            now: &now,
            changed: true,
        });
        let expected = serde_json::json!({"group": "g", "before": null, "changed": true,
            "now": {"version": 1, "calls": "paused", "at": 1, "by": "ann@ops-1"}});
        assert_eq!(json.expect("JSON"), expected);
    }

    #[test]
    fn question_names_group_and_callers() {
        assert!(
            question(Calls::Paused, "api-caller", 3)
                .starts_with("Pause the calls of the group api-caller? Its 3")
        );
        assert!(question(Calls::Running, "api-caller", 3).starts_with("Resume"));
    }
}
