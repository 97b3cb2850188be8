//! Output of the topics commands: tables for people, JSON structures for programs.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table};
use kafka::topics::creation::NewTopic;
use kafka::topics::{ExistingTopics, Finding, Purpose, Severity, TopicDescription, is_refused};
use records::Topics;
use serde::Serialize;

/// JSON output of `topics verify`.
#[derive(Serialize)]
pub(super) struct Verified<'a> {
    sound: bool,
    findings: &'a [Finding],
    topics: &'a ExistingTopics,
}

/// JSON output of `topics create`.
#[derive(Serialize)]
pub(super) struct Created<'a> {
    created: Vec<&'a NewTopic>,
    failed: Vec<Failed<'a>>,
    #[serde(flatten)]
    verified: Verified<'a>,
}

#[derive(Serialize)]
struct Failed<'a> {
    topic: &'a str,
    reason: &'a str,
}

impl<'a> Verified<'a> {
    pub(super) fn new(topics: &'a ExistingTopics, findings: &'a [Finding]) -> Self {
        Self {
            // Warnings do not count: the programs start with them.
            sound: !is_refused(findings),
            findings,
            topics,
        }
    }
}

impl<'a> Created<'a> {
    pub(super) fn new(
        new: &'a [NewTopic],
        failed: &'a [(String, String)],
        topics: &'a ExistingTopics,
        findings: &'a [Finding],
    ) -> Self {
        let has_failed = |topic: &NewTopic| failed.iter().any(|(name, _)| *name == topic.name);
        Self {
            created: new.iter().filter(|topic| !has_failed(topic)).collect(),
            failed: failed
                .iter()
                .map(|(topic, reason)| Failed { topic, reason })
                .collect(),
            verified: Verified::new(topics, findings),
        }
    }
}

/// Returns a table of the existing topics, with the settings that matter.
pub(super) fn existing(topics: &Topics, existing: &ExistingTopics, findings: &[Finding]) -> Table {
    let mut table = table(&[
        "topic",
        "partitions",
        "replicas",
        "in sync min",
        "cleanup",
        "retention",
        "verdict",
    ]);
    for purpose in Purpose::ALL {
        let name = purpose.name(topics);
        let described = existing.get(name);
        let count =
            |of: fn(&TopicDescription) -> usize| described.map_or("-".into(), |topic| of(topic).to_string());
        let config = |key: &str| {
            described
                .and_then(|topic| topic.configs.get(key))
                .map(String::as_str)
        };
        let cleanup = config("cleanup.policy");
        table.add_row([
            name,
            &count(|topic| topic.partitions),
            &count(|topic| topic.replication_factor),
            config("min.insync.replicas").unwrap_or("-"),
            cleanup.unwrap_or("-"),
            &retention(cleanup, config("retention.ms")),
            verdict(name, findings),
        ]);
    }
    table
}

/// Returns a table of the topics to create, with all their settings.
pub(super) fn planned(new: &[NewTopic]) -> Table {
    let mut table = table(&["new topic", "partitions", "replicas", "settings"]);
    for topic in new {
        let settings: Vec<_> = topic
            .configs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        table.add_row([
            topic.name.clone(),
            topic.partitions.to_string(),
            topic.replication_factor.to_string(),
            settings.join("\n"),
        ]);
    }
    table
}

/// Returns the text of all findings and their number. A finding shared by several topics is printed once.
pub(super) fn findings(findings: &[Finding]) -> String {
    let mut shared: Vec<Finding> = Vec::new();
    for finding in findings {
        let is_same = |other: &&mut Finding| {
            (other.severity, &other.what, &other.why, &other.repair)
                == (finding.severity, &finding.what, &finding.why, &finding.repair)
        };
        // Quadratic, for seven topics with a few findings each.
        match shared.iter_mut().find(is_same) {
            Some(other) => other.topic.extend([", ", &finding.topic]),
            None => shared.push(finding.clone()),
        }
    }

    let mut text = String::new();
    for finding in shared {
        let _ = writeln!(text, "\n{finding}");
    }
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    // Writing to a String cannot fail, here and above.
    let _ = match (count(Severity::Refuse), count(Severity::Warn)) {
        (0, 0) => writeln!(text, "\nThe topics meet all requirements."),
        (0, warned) => writeln!(text, "\nThe programs will start. Warnings: {warned}."),
        (refused, warned) => {
            writeln!(
                text,
                "\nThe programs will not start. Refused: {refused}. Warnings: {warned}."
            )
        }
    };
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        // Never wrapped: topic names and settings are copied from the table into commands.
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    table
}

fn verdict(name: &str, findings: &[Finding]) -> &'static str {
    match findings
        .iter()
        .filter(|finding| finding.topic == name)
        .map(|finding| finding.severity)
        // Severities are ordered from the worst to the mildest.
        .min()
    {
        None => "ok",
        Some(Severity::Warn) => "warning",
        Some(Severity::Refuse) => "refused",
    }
}

fn retention(cleanup: Option<&str>, retention_ms: Option<&str>) -> String {
    match (cleanup, retention_ms.and_then(|ms| ms.parse::<i64>().ok())) {
        // With `compact` alone, retention.ms deletes nothing; a negative value means no limit.
        (Some("compact"), _) | (_, Some(..0)) => "unlimited".into(),
        // Up to two days in hours: "1 days" would hide half of 36 hours.
        (_, Some(ms)) if ms < 172_800_000 => format!("{} h", ms / 3_600_000),
        (_, Some(ms)) => format!("{} days", ms / 86_400_000),
        (_, None) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use kafka::topics::creation::missing;

    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding {
            severity,
            topic: "payment-orders".into(),
            what: "is w".into(),
            why: "y".into(),
            repair: "r".into(),
        }
    }

    #[test]
    fn worst_finding_of_a_topic_is_its_verdict() {
        let both = [finding(Severity::Refuse), finding(Severity::Warn)];
        assert_eq!(verdict("payment-orders", &both), "refused");
        assert_eq!(verdict("payment-orders", &both[1..]), "warning");
        assert_eq!(verdict("another", &both), "ok");
        let text = findings(&both);
        assert!(
            text.contains("refused: payment-orders is w\n  why:    y\n  repair: r\n"),
            "{text}"
        );
        assert!(text.ends_with("Refused: 1. Warnings: 1.\n"), "{text}");
    }

    #[test]
    fn shared_finding_is_printed_once() {
        let other = Finding {
            topic: "parked".into(),
            ..finding(Severity::Warn)
        };
        let text = findings(&[finding(Severity::Warn), other]);
        assert_eq!(text.matches("why:").count(), 1, "{text}");
        assert!(text.contains("warning: payment-orders, parked is w\n"), "{text}");
        assert!(text.ends_with("Warnings: 2.\n"), "{text}");
    }

    #[test]
    fn all_settings_of_a_new_topic_are_shown() {
        let new = missing(&Topics::default(), &ExistingTopics::new(), 10, 3);
        let shown = planned(&new).to_string();
        for topic in &new {
            assert!(shown.contains(&topic.name), "{shown}");
            for (name, value) in &topic.configs {
                assert!(
                    shown.contains(&format!("{name}={value}")),
                    "{name} is not in {shown}"
                );
            }
        }
        let shown = existing(&Topics::default(), &ExistingTopics::new(), &[]).to_string();
        assert!(
            shown.contains("payment-orders") && shown.contains(" - "),
            "{shown}"
        );
    }

    #[test]
    fn json_field_names_are_stable() {
        let new = missing(&Topics::default(), &ExistingTopics::new(), 10, 3);
        let failed = [("payment-orders".to_owned(), "no".to_owned())];
        let found = [finding(Severity::Refuse)];
        let json =
            serde_json::to_value(Created::new(&new, &failed, &ExistingTopics::new(), &found)).expect("JSON");
        assert_eq!(json["sound"], false);
        assert_eq!(json["created"].as_array().map(Vec::len), Some(8));
        assert_eq!(json["failed"][0]["topic"], "payment-orders");
        assert_eq!(json["findings"][0]["severity"], "refuse");
    }
}
