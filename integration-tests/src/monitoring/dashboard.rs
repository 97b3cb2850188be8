//! The Grafana dashboard, made from the table of the metrics: their types say how they are shown, their units the axis, and
//! their meaning and advice the description of the panel.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::panels::{Panel, ROWS};
use super::{Metric, assert_known, docker, metrics, read};

/// Path of the dashboard, in the folder `docker`.
const PATH: &str = "grafana/dashboards/outbox.json";

/// Environment variable with which the test writes the dashboard.
const WRITE: &str = "OUTBOX_WRITE_METRICS";

/// Width of the dashboard in Grafana's grid.
const COLUMNS: usize = 24;
const PANEL_WIDTH: usize = 6;
const PANEL_HEIGHT: usize = 7;

/// Returns the dashboard.
fn dashboard(metrics: &BTreeMap<String, Metric>) -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    for (title, of_row) in ROWS {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        let per_line = COLUMNS / PANEL_WIDTH;
        for (number, panel) in of_row.iter().enumerate() {
            let (x, below) = (number % per_line * PANEL_WIDTH, number / per_line * PANEL_HEIGHT);
            let place = json!({"x": x, "y": y + below, "w": PANEL_WIDTH, "h": PANEL_HEIGHT});
            // Rare events of the money row are shown as numbers, not as rates.
            panels.push(drawn(panels.len() + 1, panel, &place, title == "Money", metrics));
        }
        y += of_row.len().div_ceil(per_line) * PANEL_HEIGHT;
    }
    json!({
        "uid": "outbox",
        "title": "Outbox pipeline",
        "tags": ["outbox"],
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": panels,
    })
}

fn drawn(
    id: usize,
    (title, names): &Panel,
    place: &Value,
    counts_events: bool,
    metrics: &BTreeMap<String, Metric>,
) -> Value {
    let source = json!({"type": "prometheus", "uid": "prometheus"});
    let mut targets = Vec::new();
    let mut descriptions = Vec::new();
    let mut units = Vec::new();
    for name in *names {
        let metric = &metrics[*name];
        descriptions.push(format!("{name}: {}. {}", metric.meaning, metric.advice));
        for query in queries(name, metric, counts_events) {
            let letter = char::from(b'A' + u8::try_from(targets.len()).unwrap_or(25));
            units.push(query.unit);
            targets.push(json!({
                "refId": letter.to_string(), "expr": query.expression, "legendFormat": query.legend,
                "datasource": source.clone(),
            }));
        }
    }
    units.dedup();
    assert_eq!(
        units.len(),
        1,
        "{title:?} shows metrics of several units on one axis"
    );
    json!({
        "id": id, "type": "timeseries", "title": title, "description": descriptions.join("\n\n"), "gridPos": place,
        "datasource": source, "targets": targets,
        "fieldConfig": {"defaults": {"unit": units[0], "min": 0}, "overrides": []},
    })
}

/// A query of a panel.
struct Query {
    expression: String,
    legend: String,
    /// Unit of the axis, by Grafana's name.
    unit: &'static str,
}

/// Returns the queries of a metric.
fn queries(name: &str, metric: &Metric, counts_events: bool) -> Vec<Query> {
    // A value of one process says nothing about another.
    let is_of_instance =
        name.starts_with("process_") || ["bytes", "Unix time, s"].contains(&metric.unit.as_str());
    let instance = is_of_instance.then_some("instance");
    let labels: Vec<&str> = instance
        .into_iter()
        .chain(metric.labels.iter().map(String::as_str))
        .collect();
    let short = name
        .trim_start_matches("outbox_")
        .trim_start_matches("process_")
        .trim_end_matches("_total");
    let values: String = labels.iter().map(|label| format!(" {{{{{label}}}}}")).collect();
    let one = |function, operand: &str, unit| {
        vec![Query {
            expression: aggregated(function, &labels, operand),
            legend: format!("{short}{values}"),
            unit,
        }]
    };
    let per_second = format!("rate({name}[$__rate_interval])");
    match (metric.kind.as_str(), metric.unit.as_str()) {
        // The share of time, as the name ends in seconds.
        ("counter", "s") => one("sum", &per_second, "percentunit"),
        ("counter", _) if counts_events => {
            one("sum", &format!("increase({name}[$__rate_interval])"), "short")
        }
        ("counter", _) => one("sum", &per_second, "ops"),
        ("histogram", unit) => {
            let unit = if unit == "s" { "s" } else { "short" };
            let buckets = format!("sum by (le) (rate({name}_bucket[$__rate_interval]))");
            let quantile = |quantile, label: &str| Query {
                expression: format!("histogram_quantile({quantile}, {buckets})"),
                legend: format!("{short} {label}"),
                unit,
            };
            vec![quantile("0.5", "p50"), quantile("0.99", "p99")]
        }
        // 0 is no time.
        ("gauge", "Unix time, s") => one("time() - max", &format!("{name} > 0"), "s"),
        ("gauge", "bytes") => one("max", name, "bytes"),
        ("info", _) => one("count", name, "short"),
        // An age, or a lag: the worst instance counts.
        ("gauge", "s") => one("max", name, "s"),
        ("gauge", _) if is_of_all(name, metric) => one("max", name, "short"),
        ("gauge", _) => one("sum", name, "short"),
        (kind, unit) => panic!("{name} is a {kind} in {unit:?}, which no panel shows"),
    }
}

/// Whether each instance reports the same about the whole pipeline: a second instance does not double it.
fn is_of_all(name: &str, metric: &Metric) -> bool {
    metric.program == "`outbox metrics`" || name == "outbox_partitions_unassigned"
}

fn aggregated(function: &str, labels: &[&str], operand: &str) -> String {
    match labels {
        [] => format!("{function}({operand})"),
        _ => format!("{function} by ({}) ({operand})", labels.join(", ")),
    }
}

#[test]
fn dashboard_is_made_from_the_metrics() {
    let text = serde_json::to_string_pretty(&dashboard(&metrics())).expect("JSON") + "\n";
    if std::env::var_os(WRITE).is_some() {
        fs::write(docker(PATH), &text).expect("written");
    }
    assert!(
        read(PATH) == text,
        "docker/{PATH} is not what the table of the metrics gives. Write it again, and look at the difference: {WRITE}=1 \
         cargo test -p integration-tests --lib dashboard"
    );
    assert_known(PATH, &text);
}

#[test]
fn each_metric_is_in_one_panel() {
    let mut shown: Vec<&str> = ROWS
        .iter()
        .flat_map(|(_, panels)| panels.iter().flat_map(|(_, names)| names.iter().copied()))
        .collect();
    shown.sort_unstable();
    let metrics = metrics();
    let all: Vec<&str> = metrics.keys().map(String::as_str).collect();
    assert_eq!(shown, all);
}
