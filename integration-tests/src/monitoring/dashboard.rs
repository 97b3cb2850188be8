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
        for (expression, legend, unit) in queries(name, metric, counts_events) {
            let letter = char::from(b'A' + u8::try_from(targets.len()).unwrap_or(25));
            units.push(unit);
            targets.push(json!({
                "refId": letter.to_string(), "expr": expression, "legendFormat": legend, "datasource": source.clone(),
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

/// Returns the queries of a metric: expression, legend, and unit of the axis.
fn queries(name: &str, metric: &Metric, counts_events: bool) -> Vec<(String, String, &'static str)> {
    let labels: Vec<&str> = metric.labels.iter().map(String::as_str).collect();
    let by = labels.join(", ");
    let short = name
        .trim_start_matches("outbox_")
        .trim_start_matches("process_")
        .trim_end_matches("_total");
    let values: Vec<String> = labels.iter().map(|label| format!("{{{{{label}}}}}")).collect();
    let legend = [&[short.to_owned()], values.as_slice()].concat().join(" ");
    let one = |expression: String, unit| vec![(expression, legend.clone(), unit)];
    match (metric.kind.as_str(), metric.unit.as_str()) {
        // The share of time, as the name ends in seconds.
        ("counter", "s") => one(
            format!("sum by ({by}) (rate({name}[$__rate_interval]))"),
            "percentunit",
        ),
        ("counter", _) if counts_events => one(
            format!("sum by ({by}) (increase({name}[$__rate_interval]))"),
            "short",
        ),
        ("counter", _) => one(format!("sum by ({by}) (rate({name}[$__rate_interval]))"), "ops"),
        ("histogram", unit) => {
            let axis = if unit == "s" { "s" } else { "short" };
            ["0.5", "0.99"]
                .map(|quantile| {
                    let buckets = format!("sum by (le) (rate({name}_bucket[$__rate_interval]))");
                    let expression = format!("histogram_quantile({quantile}, {buckets})");
                    (
                        expression,
                        format!("{short} p{}", quantile.trim_start_matches("0.")),
                        axis,
                    )
                })
                .into()
        }
        ("gauge", "Unix time, s") => one(format!("time() - max by (instance) ({name})"), "s"),
        ("info", _) => one(format!("count by ({by}) ({name})"), "short"),
        // An age, or a lag: the worst instance counts.
        ("gauge", "s") => one(format!("max({name})"), "s"),
        ("gauge", "bytes") => one(format!("max by (instance) ({name})"), "bytes"),
        ("gauge", _) => one(format!("sum by ({by}) ({name})"), "short"),
        (kind, unit) => panic!("{name} is a {kind} in {unit:?}, which no panel shows"),
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
