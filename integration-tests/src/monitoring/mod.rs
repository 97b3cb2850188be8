//! What people watch the pipeline with, checked against each other: the table of the metrics (`docker/METRICS.md`), the
//! alert rules, the runbook and the dashboard.

mod dashboard;
mod panels;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// A metric, as the table has it.
#[derive(Debug)]
struct Metric {
    /// Heading of its table: the program that has it.
    program: String,
    kind: String,
    labels: Vec<String>,
    meaning: String,
    unit: String,
    advice: String,
}

/// Returns a path in the folder `docker`.
fn docker(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docker")
        .join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(docker(path)).unwrap_or_else(|error| panic!("docker/{path}: {error}"))
}

/// Returns the metrics of the table, by the names that queries have.
fn metrics() -> BTreeMap<String, Metric> {
    let mut program = String::new();
    let mut metrics = BTreeMap::new();
    for line in read("METRICS.md").lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut program);
        }
        metrics.extend(row(line, &program));
    }
    // Without metrics nothing would be unknown.
    assert!(metrics.len() > 50, "docker/METRICS.md has only {}", metrics.len());
    metrics
}

fn row(line: &str, program: &str) -> Option<(String, Metric)> {
    let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
    let [name, kind, labels, meaning, unit, advice] = cells.as_slice() else {
        panic!("a row of docker/METRICS.md has {} cells: {line}", cells.len());
    };
    let metric = Metric {
        program: program.to_owned(),
        kind: (*kind).to_owned(),
        labels: labels.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        meaning: (*meaning).to_owned(),
        unit: (*unit).to_owned(),
        advice: advice.trim_end_matches(" |").to_owned(),
    };
    Some((name.trim_end_matches('`').to_owned(), metric))
}

/// Returns the names of metrics that a text has: words that begin as ours do.
fn names_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("outbox_") || word.starts_with("process_"))
        .collect()
}

/// Asserts that each metric that a text names is in the table.
fn assert_known(what: &str, text: &str) {
    let metrics = metrics();
    let is_known = |name: &&str| {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|name| metrics.get(name).is_some_and(|metric| metric.kind == "histogram"));
        metrics.contains_key(*name) || of_histogram
    };
    let names = names_in(text);
    assert!(!names.is_empty(), "{what} names no metric");
    let unknown: Vec<_> = names.into_iter().filter(|name| !is_known(name)).collect();
    assert!(
        unknown.is_empty(),
        "{what} names metrics that no program has (docker/METRICS.md): {unknown:?}"
    );
}

#[test]
fn rules_and_runbook_name_known_metrics() {
    assert_known("docker/prometheus/alerts.yaml", &read("prometheus/alerts.yaml"));
    assert_known(
        "docker/prometheus/alerts_test.yaml",
        &read("prometheus/alerts_test.yaml"),
    );
    assert_known("docker/RUNBOOK.md", &read("RUNBOOK.md"));
}

/// An alert at night leads to what to do, and that to a command.
#[test]
fn each_alert_leads_to_a_paragraph_with_a_command() {
    let (rules, runbook) = (read("prometheus/alerts.yaml"), read("RUNBOOK.md"));
    let alerts: Vec<&str> = rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| rule.split('\n').next().unwrap_or_default())
        .collect();
    let paragraphs: BTreeMap<&str, &str> = runbook
        .split("\n## ")
        .skip(1)
        .filter_map(|paragraph| paragraph.split_once('\n'))
        .collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    assert_eq!(
        alerts,
        runbook
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect::<Vec<_>>(),
        "the runbook has the alerts in their order"
    );
    for (alert, rule) in alerts.iter().zip(rules.split("- alert: ").skip(1)) {
        let paragraph = paragraphs[alert].trim_end();
        let last = paragraph.rsplit("```\n").next().unwrap_or_default();
        // What one program knows alone, as `curl` shows it.
        let is_command = last.starts_with("outbox ") || last.starts_with("curl ");
        assert!(
            is_command && paragraph.ends_with("```"),
            "the paragraph of {alert} in docker/RUNBOOK.md does not end in a command"
        );
        for part in ["        for: ", "          severity: ", "          summary: "] {
            assert!(rule.contains(part), "{alert} has no line {part:?}");
        }
        let link = format!("runbook: docker/RUNBOOK.md#{}\n", alert.to_lowercase());
        assert!(rule.contains(&link), "{alert} does not lead to its paragraph");
    }
}

/// A name of an alert in the advice that no rule has would send its reader to nowhere.
#[test]
fn advice_names_known_alerts() {
    let rules = read("prometheus/alerts.yaml");
    let mut named = 0;
    for (name, metric) in metrics() {
        let Some((_, alerts)) = metric.advice.split_once("Runbook: ") else {
            continue;
        };
        for alert in alerts.trim_end_matches('.').split(", ") {
            named += 1;
            assert!(
                rules.contains(&format!("- alert: {alert}\n")),
                "the advice for {name} names the alert {alert:?}, which does not exist"
            );
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn names_of_metrics_are_words() {
    let text = "sum(rate(outbox_calls_total{state=\"x\"}[5m])) / process_threads, my_outbox_x";
    let expected: BTreeSet<&str> = ["outbox_calls_total", "process_threads"].into();
    assert_eq!(names_in(text), expected);
}
