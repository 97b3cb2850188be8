//! Texts of the demo: the introduction, the tables at the end, and what to try next.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use harness::check::findings::{StageOneFindings, StageTwoFindings};
use harness::check::{Guarantee, Violation, listed};
use harness::cluster;

use crate::Arguments;
use crate::setup::Setup;

/// Maximum width of the tables; longer cells are wrapped.
const COLUMNS_MAX: u16 = 100;

/// Result of the demo.
pub(crate) struct Report {
    pub(crate) stage_one: StageOneFindings,
    pub(crate) stage_two: StageTwoFindings,
    /// True if each order had its verdict and each call its outcome in time.
    pub(crate) settled: bool,
    pub(crate) took: Duration,
}

impl Report {
    /// Returns true if every guarantee held.
    pub(crate) fn held(&self) -> bool {
        self.settled && self.violations().next().is_none()
    }

    fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.stage_one.violations.iter().chain(&self.stage_two.violations)
    }

    fn counts(&self) -> Table {
        let (one, two) = (&self.stage_one, &self.stage_two.counts);
        let mut table = table(&["what happened", "count"]);
        let mut row = |name: &str, value: u64| {
            table.add_row(vec![
                Cell::new(name),
                Cell::new(grouped(value)).set_alignment(CellAlignment::Right),
            ]);
        };
        row("orders sent", one.sent);
        row("  in the outbox exactly once", one.counts.exactly_once);
        row("  duplicates, dropped", one.duplicates);
        row("  dead letters", self.order_dead_letters());
        for (reason, count) in &one.counts.dead_letters {
            row(&format!("    {reason}"), *count);
        }
        row("requests that the API received", two.requests);
        row("  repeated, outcome of the last one unknown", self.repeats(true));
        for (cause, count) in &two.repeats {
            if cause.is_ambiguous() {
                row(&format!("    {cause}"), *count);
            }
        }
        row("  repeated, last one surely not processed", self.repeats(false));
        for (cause, count) in &two.repeats {
            if !cause.is_ambiguous() {
                row(&format!("    {cause}"), *count);
            }
        }
        row("calls with a final state", self.calls_final());
        row("  accepted", two.accepted);
        row("  rejected, dead letters", two.rejected);
        // Only a setting that the demo leaves off abandons calls.
        if two.abandoned > 0 {
            row("  abandoned, dead letters", two.abandoned);
        }
        row("  parked", two.parked);
        row(
            "outcome records written again after a kill",
            two.outcomes_repeated,
        );
        row("orders that the API charged more than once", two.charged_again);
        table
    }

    fn guarantees(&self) -> Table {
        let mut table = table(&["", "guarantee, and what was observed", "verdict"]);
        for guarantee in Guarantee::ALL {
            let count = self
                .violations()
                .filter(|found| found.guarantee == guarantee)
                .count();
            let verdict = match count {
                0 => Cell::new("✔ held"),
                count => Cell::new(format!("✘ BROKEN, {} times", grouped(count as u64))),
            };
            // On a line of its own, or the table would be too wide for most terminals.
            let text = format!("{}\n  {}", guarantee.sentence(), self.observed(guarantee, count));
            table.add_row(vec![Cell::new(guarantee), Cell::new(text), verdict]);
        }
        table
    }

    /// Returns the figures behind the verdict on a guarantee.
    fn observed(&self, guarantee: Guarantee, violations: usize) -> String {
        let (one, two) = (&self.stage_one, &self.stage_two.counts);
        match guarantee {
            Guarantee::G1 => format!(
                "{} of {} distinct valid orders are in the outbox once",
                grouped(one.counts.exactly_once),
                grouped(one.distinct)
            ),
            Guarantee::G2 => format!(
                "{} sent: {} pending calls, {} duplicates, {} dead letters",
                grouped(one.sent),
                grouped(one.counts.exactly_once),
                grouped(one.duplicates),
                grouped(self.order_dead_letters())
            ),
            Guarantee::G3 => match violations {
                0 => "changelog and outbox hold the same orders".into(),
                count => format!("{} differences found", grouped(count as u64)),
            },
            Guarantee::G4 => format!(
                "{} calls are final: {} accepted, {} rejected, {} parked",
                grouped(self.calls_final()),
                grouped(two.accepted),
                grouped(two.rejected + two.abandoned),
                grouped(two.parked)
            ),
            Guarantee::G5 => format!(
                "{} requests, {} of them repeats with a cause",
                grouped(two.requests),
                grouped(self.repeats(true) + self.repeats(false))
            ),
            // Checked only under the policies `park` and `verify`, which the demo does not use.
            Guarantee::G6 | Guarantee::G7 => "not checked under the policy of the demo".into(),
        }
    }

    fn order_dead_letters(&self) -> u64 {
        self.stage_one.counts.dead_letters.values().sum()
    }

    fn calls_final(&self) -> u64 {
        let two = &self.stage_two.counts;
        two.accepted + two.rejected + two.abandoned + two.parked
    }

    fn repeats(&self, ambiguous: bool) -> u64 {
        let repeats = self.stage_two.counts.repeats.iter();
        repeats
            .filter(|(cause, _)| cause.is_ambiguous() == ambiguous)
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.counts(), self.guarantees())?;
        let violations: Vec<Violation> = self.violations().cloned().collect();
        if !violations.is_empty() {
            writeln!(f, "{}", listed(&violations))?;
        }
        if !self.settled {
            writeln!(
                f,
                "Not every order had its verdict, or not every call its outcome, within the time limit."
            )?;
        }
        if self.stage_two.counts.charged_again > 0 {
            writeln!(
                f,
                "{} orders were charged more than once. The stand-in API is not idempotent, and under\n\
                 on_ambiguous = \"retry\" a call with an unknown outcome is sent again (at least once).\n\
                 The policies \"park\" and \"verify\" avoid that; an API that honours Idempotency-Key \
                 does too.",
                grouped(self.stage_two.counts.charged_again)
            )?;
        }
        write!(
            f,
            "{} after {:.0} s.",
            if self.held() {
                "Every guarantee held,"
            } else {
                "NOT every guarantee held,"
            },
            self.took.as_secs_f64()
        )
    }
}

/// Returns the introduction: where everything runs, and what is about to happen.
pub(crate) fn opening(arguments: &Arguments, setup: &Setup, count: u64) -> String {
    let orders = match &arguments.input {
        Some(file) => format!("{} orders from {}", grouped(count), file.display()),
        None => format!(
            "{} orders from seed {} (with duplicates, conflicts and invalid records)",
            grouped(count),
            arguments.seed
        ),
    };
    format!(
        "Kafka {} | API {} | logs in {}\n\
         {orders} on {} partitions.\n\
         Meanwhile each program is killed once with kill -9, and the API loses responses, throttles, fails\n\
         and goes down.",
        setup.pipeline.kafka,
        setup.api.url,
        setup.pipeline.folder().display(),
        arguments.partitions
    )
}

/// Returns what to try after the demo.
pub(crate) fn try_next(arguments: &Arguments) -> String {
    format!(
        "Try next:\n\
         \x20 ./scripts/demo --keep           leave everything running, and try orders of your own\n\
         \x20 ./scripts/demo --seed {:<9} other orders and other faults\n\
         \x20 ./scripts/demo --input FILE     your own orders, one JSON object per line\n\
         \x20 ./scripts/chaos --minutes 5     kill validators and brokers at random, lose and damage disks",
        arguments.seed.wrapping_add(1)
    )
}

/// Returns where everything runs, and what to try with it.
pub(crate) fn try_next_while_running(setup: &Setup) -> String {
    let (pipeline, api) = (&setup.pipeline, &setup.api);
    let topics = &pipeline.topics;
    let mut lines = vec![
        "Everything is still running:".to_owned(),
        format!("  Kafka        {}", pipeline.kafka),
        format!(
            "  API          {} (its requests: {}/requests)",
            api.url, api.control
        ),
    ];
    for service in setup.validators.iter().chain(&setup.callers) {
        lines.push(format!(
            "  {:<12} {}/metrics (process {})",
            service.process.name(),
            service.admin,
            service.process.id().unwrap_or_default()
        ));
    }
    lines.push("  topics".to_owned());
    for topic in pipeline.topic_names() {
        lines.push(format!("    {topic}"));
    }
    lines.push(format!("  logs, stores {}", pipeline.folder().display()));
    lines.push(String::new());
    lines.push("Try next:".to_owned());
    lines.push("  send the same order twice; the second one is dropped as a duplicate:".to_owned());
    let kafka = format!("{}={}", cluster::ADDRESS_VARIABLE, pipeline.kafka);
    let order = r#"{"order_id":"my-order-1","amount":1250,"currency":"EUR","customer_id":"me"}"#;
    lines.push(format!(
        "    echo 'my-order-1|{order}' |\n      \
         {kafka} ./scripts/kafka tool console-producer --topic {} \\\n        \
         --property parse.key=true --property key.separator='|'",
        topics.orders
    ));
    lines.push("  see the requests that the API received for it:".to_owned());
    lines.push(format!("    curl '{}/requests?order_id=my-order-1'", api.control));
    lines.push("  ask the validators for it; the one that owns its partition knows it:".to_owned());
    for validator in &setup.validators {
        lines.push(format!("    curl '{}/orders/my-order-1'", validator.admin));
    }
    lines.push("  read its outcome:".to_owned());
    lines.push(format!(
        "    {kafka} ./scripts/kafka tool console-consumer --topic {} \\\n      \
         --isolation-level read_committed --from-beginning --timeout-ms 10000 | grep my-order-1",
        topics.processed
    ));
    lines.push("  take the API down for ten seconds, and see the calls wait:".to_owned());
    lines.push(format!("    curl -X POST '{}/control/down?for=10s'", api.control));
    for caller in &setup.callers {
        lines.push(format!("    curl '{}/calls'", caller.admin));
    }
    lines.push(String::new());
    lines.push("Ctrl-C stops all of it.".to_owned());
    lines.join("\n")
}

/// Returns an empty table with this header.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        // Without lines between the rows, so that the tables stay short.
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS_MAX)
        .set_header(header.to_vec());
    table
}

/// Returns a number with its thousands separated: 12345 as 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use harness::check::explain::Explanation;
    use harness::check::{Anomaly, stage_one, stage_two};
    use records::dead_letter::Reason;

    use super::*;

    fn report(violations: Vec<Violation>) -> Report {
        Report {
            stage_one: StageOneFindings {
                sent: 20_000,
                distinct: 17_512,
                duplicates: 1_988,
                refused: [(Reason::Conflict, 500)].into(),
                counts: stage_one::Counts {
                    exactly_once: 17_512,
                    dead_letters: [(Reason::Conflict, 500)].into(),
                },
                violations,
            },
            stage_two: StageTwoFindings {
                counts: stage_two::Counts {
                    requests: 17_700,
                    accepted: 17_340,
                    rejected: 172,
                    repeats: [
                        (Explanation::NotProcessed(429), 88),
                        (Explanation::Interrupted, 100),
                    ]
                    .into(),
                    charged_again: 60,
                    ..stage_two::Counts::default()
                },
                violations: Vec::new(),
            },
            settled: true,
            took: Duration::from_secs(48),
        }
    }

    #[test]
    fn report_fits_into_100_columns() {
        let text = report(Vec::new()).to_string();
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(
            longest <= Some(usize::from(COLUMNS_MAX)),
            "{longest:?} columns:\n{text}"
        );
    }

    #[test]
    fn violation_is_reported_with_its_guarantee() {
        let report = report(vec![Violation {
            guarantee: Guarantee::G1,
            anomaly: Anomaly::Duplicated,
            finding: "\"order-7\" is in the outbox 2 times".into(),
        }]);
        let text = report.to_string();
        assert!(!report.held(), "{text}");
        for part in ["BROKEN, 1 times", "order-7", "NOT every guarantee held"] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
