//! The document of all metrics, `docker/METRICS.md`: a table per program, made from the registered metrics by the tests
//! of the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use prometheus_client::registry::Registry;

use super::encode;

/// Path of the document, from the folder of this crate.
const PATH: &str = "../../docker/METRICS.md";

/// Environment variable with which the test writes the document.
const WRITE: &str = "OUTBOX_WRITE_METRICS";

/// What to do when a metric is odd, by its name as it was registered.
pub type Advice = [(&'static str, &'static str)];

/// Asserts that a section of the document has the table of the metrics of a registry. With `OUTBOX_WRITE_METRICS=1` it
/// writes the table instead.
///
/// # Panics
/// A metric has no advice, or an advice no metric; or the document has another table.
pub fn assert_documented(registry: &Registry, section: &str, advice: &Advice) {
    let table = table(&encode(registry), advice);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    let document = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let written = with_section(&document, section, &table)
        .unwrap_or_else(|| panic!("docker/METRICS.md has no lines {:?}", marks(section)));
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, written).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    assert!(
        written == document,
        "docker/METRICS.md does not show the metrics of {section:?} as they are registered. Write it again, and look at \
         the difference: {WRITE}=1 cargo test --workspace metrics_are_documented"
    );
}

fn marks(section: &str) -> [String; 2] {
    [
        format!("<!-- {section} -->"),
        format!("<!-- end of {section} -->"),
    ]
}

/// Returns the document with this table between the marks of its section.
fn with_section(document: &str, section: &str, table: &str) -> Option<String> {
    let [start, end] = marks(section);
    let (before, rest) = document.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n\n{table}\n{end}{after}"))
}

/// A metric, as the text format shows it.
#[derive(Debug, Default)]
struct Described {
    kind: String,
    help: String,
    /// Names of the labels, each with the values that the registry has.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Returns the metrics as a Markdown table, in the order in which they were registered.
fn table(text: &str, advice: &Advice) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut metrics: BTreeMap<String, Described> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut parts = rest.splitn(3, ' ');
            let (Some(what), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let metric = metrics.entry(name.to_owned()).or_insert_with(|| {
                names.push(name.to_owned());
                Described::default()
            });
            match what {
                "TYPE" => value.clone_into(&mut metric.kind),
                // The registry ends each help with a full stop.
                "HELP" => value.trim_end_matches('.').clone_into(&mut metric.help),
                _ => {}
            }
        } else if let (Some(name), Some((series, _))) = (names.last(), line.split_once('}'))
            && let Some(metric) = metrics.get_mut(name)
        {
            for (label, value) in labels(series) {
                if label != "le" {
                    metric.labels.entry(label).or_default().insert(value);
                }
            }
        }
    }
    let without: Vec<_> = names
        .iter()
        .filter(|name| !advice.iter().any(|(of, _)| of == name))
        .collect();
    assert!(
        without.is_empty(),
        "no advice says what to do when these metrics are odd: {without:?}"
    );
    let unknown: Vec<_> = advice
        .iter()
        .filter(|(of, _)| !metrics.contains_key(*of))
        .collect();
    assert!(
        unknown.is_empty(),
        "advice for metrics that are not registered: {unknown:?}"
    );
    let rows = names.iter().map(|name| {
        let advice = advice.iter().find(|(of, _)| of == name);
        row(name, &metrics[name], advice.map_or("", |(_, advice)| *advice))
    });
    let header = "| metric | type | labels | meaning | unit | when it is odd |\n| --- | --- | --- | --- | --- | --- |\n";
    header.to_owned() + &rows.collect::<String>()
}

/// Returns the labels of a series such as `name{a="b",c="d"`.
fn labels(series: &str) -> Vec<(String, String)> {
    let Some((_, labels)) = series.split_once('{') else {
        return Vec::new();
    };
    // No value of ours has a quotation mark or a comma.
    labels
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

fn row(name: &str, metric: &Described, advice: &str) -> String {
    let name = match metric.kind.as_str() {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|(label, values)| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            format!("`{label}`: {}", values.join(", "))
        })
        .collect();
    let unit = unit(&name);
    let (kind, help) = (&metric.kind, &metric.help);
    format!(
        "| `{name}` | {kind} | {} | {help} | {unit} | {advice} |\n",
        labels.join("; ")
    )
}

/// Returns the unit, which the name ends in.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_timestamp_seconds") || name.ends_with("_start_time_seconds") {
        "Unix time, s"
    } else if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "bytes"
    } else if name.ends_with("_amount") {
        "the currency's own, such as euros"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::super::{counters, gauge, histogram};
    use super::*;

    #[test]
    fn table_has_what_is_registered() {
        let mut registry = Registry::default();
        let _calls = counters(&mut registry, "x_calls", "Calls, by end", "end", ["good", "bad"]);
        let _waits = histogram(&mut registry, "x_wait_seconds", "Waits", &[1.0]);
        let _keys = gauge(&mut registry, "x_keys", "Keys");
        let advice = [
            ("x_calls", "Look."),
            ("x_wait_seconds", "Wait."),
            ("x_keys", "Count."),
        ];
        let table = table(&encode(&registry), &advice);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `x_calls_total` | counter | `end`: bad, good | Calls, by end |  | Look. |",
                "| `x_wait_seconds` | histogram |  | Waits | s | Wait. |",
                "| `x_keys` | gauge |  | Keys |  | Count. |",
            ]
        );
    }

    #[test]
    #[should_panic(expected = "no advice")]
    fn metric_without_advice_is_refused() {
        let mut registry = Registry::default();
        let _keys = gauge(&mut registry, "x_keys", "Keys");
        table(&encode(&registry), &[]);
    }

    #[test]
    #[should_panic(expected = "not registered")]
    fn advice_without_metric_is_refused() {
        table("", &[("x_keys", "Count.")]);
    }

    #[test]
    fn section_is_replaced_between_its_marks() {
        let document = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n";
        let written = with_section(document, "x", "new\n").expect("a section");
        assert_eq!(written, "a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb\n");
        assert_eq!(with_section(&written, "x", "new\n").as_ref(), Some(&written));
        assert_eq!(with_section(document, "y", ""), None);
    }

    #[test]
    fn metrics_are_documented() {
        let registry = super::super::registry("validator", "1.2.3");
        assert_documented(&registry, "every program", super::super::ADVICE);
    }
}
