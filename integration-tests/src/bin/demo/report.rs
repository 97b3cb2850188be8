//! The words before and after: what is about to happen, the table at the end, and what to try next.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use harness::check::findings::{StageOneFindings, StageTwoFindings};
use harness::check::{Guarantee, Violation, listed};
use harness::cluster;

use crate::Arguments;
use crate::setup::Stage;

/// All that was found.
pub(crate) struct Report {
    pub(crate) stage_one: StageOneFindings,
    pub(crate) stage_two: StageTwoFindings,
    /// Everything was final within the time that it may take.
    pub(crate) settled: bool,
    pub(crate) took: Duration,
}

impl Report {
    /// Whether every guarantee was held.
    pub(crate) fn held(&self) -> bool {
        self.settled && self.violations().next().is_none()
    }

    fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.stage_one.violations.iter().chain(&self.stage_two.violations)
    }

    fn numbers(&self) -> Table {
        let (one, two) = (&self.stage_one, &self.stage_two.counts);
        let mut table = table(&["what happened", "count"]);
        let mut row = |name: String, value: u64| {
            table.add_row(vec![
                Cell::new(name),
                Cell::new(grouped(value)).set_alignment(CellAlignment::Right),
            ]);
        };
        row("orders sent".into(), one.sent);
        row("  valid and distinct".into(), one.distinct);
        row("in the outbox exactly once".into(), one.counts.exactly_once);
        row("duplicates dropped".into(), one.duplicates);
        row(
            "dead letters of orders".into(),
            one.counts.dead_letters.values().sum(),
        );
        for (reason, count) in &one.counts.dead_letters {
            row(format!("  {reason}"), *count);
        }
        row("calls made (requests the API had)".into(), two.requests);
        let (lost, refused): (Vec<_>, Vec<_>) = two.repeats.iter().partition(|(why, _)| why.is_ambiguous());
        row(
            "calls repeated because the answer was lost".into(),
            lost.iter().map(|(_, count)| **count).sum(),
        );
        for (why, count) in lost {
            row(format!("  {why}"), *count);
        }
        row(
            "calls repeated because they were turned away".into(),
            refused.iter().map(|(_, count)| **count).sum(),
        );
        for (why, count) in refused {
            row(format!("  {why}"), *count);
        }
        row("outcomes: accepted".into(), two.accepted);
        row("outcomes: rejected (dead letters of calls)".into(), two.rejected);
        row("outcomes: parked".into(), two.parked);
        row(
            "outcome records told again after a kill".into(),
            two.outcomes_repeated,
        );
        row(
            "customers charged more than once by this API".into(),
            two.charged_again,
        );
        table
    }

    fn guarantees(&self) -> Table {
        let mut table = table(&["", "guarantee", "verdict"]);
        for guarantee in Guarantee::ALL {
            let count = self
                .violations()
                .filter(|found| found.guarantee == guarantee)
                .count();
            let verdict = match count {
                0 => Cell::new("✔ held"),
                count => Cell::new(format!("✘ VIOLATED {} times", grouped(count as u64))),
            };
            table.add_row(vec![
                Cell::new(guarantee),
                Cell::new(guarantee.sentence()),
                verdict,
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.numbers(), self.guarantees())?;
        let violations: Vec<Violation> = self.violations().cloned().collect();
        if !violations.is_empty() {
            writeln!(f, "{}", listed(&violations))?;
        }
        if !self.settled {
            writeln!(f, "Not everything was final in time.")?;
        }
        if self.stage_two.counts.charged_again > 0 {
            writeln!(
                f,
                "An API that is not idempotent charges twice when its answer is lost and the call is sent again:\n\
                 on_ambiguous = \"retry\" calls at least once, and this is its price."
            )?;
        }
        write!(
            f,
            "{} after {:.0} s.",
            if self.held() {
                "Every guarantee was held,"
            } else {
                "NOT every guarantee was held,"
            },
            self.took.as_secs_f64()
        )
    }
}

/// What is about to happen.
pub(crate) fn opening(arguments: &Arguments, stage: &Stage, count: u64) -> String {
    let orders = match &arguments.input {
        Some(file) => format!("{} orders from {}", grouped(count), file.display()),
        None => format!(
            "{} orders from seed {} (a tenth duplicates, some conflicts, some that are no orders)",
            grouped(count),
            arguments.seed
        ),
    };
    format!(
        "Kafka {} | API {} | logs in {}\n{orders}, over {} partitions; on the way each program is killed once\nwith kill -9, and the API loses answers, turns calls away and goes down.",
        stage.pipeline.kafka,
        stage.api.url,
        stage.pipeline.folder().display(),
        arguments.partitions
    )
}

/// Where everything is, and what to do with it.
pub(crate) fn try_next(stage: &Stage) -> String {
    let (pipeline, api) = (&stage.pipeline, &stage.api);
    let topics = &pipeline.topics;
    let mut lines = vec![
        "Everything is still running:".to_owned(),
        format!("  Kafka        {}", pipeline.kafka),
    ];
    lines.push(format!(
        "  API          {} (its records: {}/requests)",
        api.url, api.control
    ));
    for service in stage.validators.iter().chain(&stage.callers) {
        lines.push(format!(
            "  {:<12} {}/metrics (process {})",
            service.process.name(),
            service.admin,
            service.process.id().unwrap_or_default()
        ));
    }
    lines.push(format!("  folder       {}", pipeline.folder().display()));
    lines.push(String::new());
    lines.push("Try next:".to_owned());
    lines.push("  send an order of your own, twice:".to_owned());
    lines.push(format!(
        "    echo 'my-order-1|{{\"order_id\":\"my-order-1\",\"amount\":1250,\"currency\":\"EUR\",\"customer_id\":\"me\"}}' |\n      {}={} \\\n      ./scripts/kafka tool console-producer --topic {} \\\n        --property parse.key=true --property key.separator='|'",
        cluster::ADDRESS_VARIABLE,
        pipeline.kafka, topics.orders
    ));
    lines.push("  see what the API had of it, and what the validator knows:".to_owned());
    lines.push(format!("    curl '{}/requests?order_id=my-order-1'", api.control));
    for validator in &stage.validators {
        lines.push(format!("    curl '{}/orders/my-order-1'", validator.admin));
    }
    lines.push("  take the API down for ten seconds, and watch the callers wait:".to_owned());
    lines.push(format!("    curl -X POST '{}/control/down?for=10s'", api.control));
    for caller in &stage.callers {
        lines.push(format!("    curl '{}/calls'", caller.admin));
    }
    lines.push(String::new());
    lines.push("Ctrl-C ends all of it.".to_owned());
    lines.join("\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.to_vec());
    table
}

/// 12345 as 12,345.
fn grouped(number: u64) -> String {
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
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
