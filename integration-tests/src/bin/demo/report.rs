//! Texts of the demo: the introduction, and the tables at the end.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table};
use harness::check::at_most_once::Policy;
use harness::check::findings::{StageOneFindings, StageTwoFindings};
use harness::check::{Anomaly, Guarantee, Violation, listed};

use crate::Arguments;
use crate::setup::Setup;

/// Maximum width of the tables; longer cells are wrapped.
const COLUMNS_MAX: u16 = 100;

/// Result of the demo.
pub(crate) struct Report {
    pub(crate) stage_one: StageOneFindings,
    pub(crate) groups: Vec<GroupReport>,
    /// True if each order had its verdict, and each call its outcome in each group, in time.
    pub(crate) completed: bool,
    pub(crate) took: Duration,
}

/// Result of the callers of one policy.
pub(crate) struct GroupReport {
    pub(crate) policy: Policy,
    pub(crate) findings: StageTwoFindings,
    /// Number of kills of its callers.
    pub(crate) kills: usize,
}

impl GroupReport {
    fn calls_final(&self) -> u64 {
        let two = &self.findings.counts;
        two.accepted + two.rejected + two.abandoned + two.parked
    }

    /// Number of calls that wait for a person, also those that have an outcome besides.
    fn waiting(&self) -> u64 {
        self.findings.counts.parked + self.findings.counts.parked_and_final
    }

    fn repeats(&self, ambiguous: bool) -> u64 {
        let repeats = self.findings.counts.repeats.iter();
        repeats
            .filter(|(cause, _)| cause.is_ambiguous() == ambiguous)
            .map(|(_, count)| count)
            .sum()
    }

    /// Violations with the policy's name, and what the demo promises beyond the guarantees.
    fn violations(&self) -> Vec<Violation> {
        let counts = &self.findings.counts;
        let mut found: Vec<Violation> = self
            .findings
            .violations
            .iter()
            .map(|violation| Violation {
                finding: format!("{}: {}", self.policy.as_str(), violation.finding),
                ..violation.clone()
            })
            .collect();
        let mut broken = |guarantee, count: u64, what: &str| {
            if count > 0 {
                found.push(Violation {
                    guarantee,
                    anomaly: Anomaly::Call,
                    finding: format!("{}: {} {what}", self.policy.as_str(), grouped(count)),
                });
            }
        };
        match self.policy {
            Policy::Retry => broken(
                Guarantee::G5,
                // A parked call may be undecided: its attempts are used up.
                counts.undecided.saturating_sub(counts.parked),
                "calls were neither charged nor rejected",
            ),
            Policy::Park => broken(
                Guarantee::G6,
                counts.charged_again,
                "orders were charged more than once",
            ),
            Policy::Verify => {
                broken(
                    Guarantee::G7,
                    counts.charged_again,
                    "orders were charged more than once",
                );
                broken(
                    Guarantee::G7,
                    counts.undecided,
                    "calls were neither charged nor rejected",
                );
                // The stand-in answers each look-up sooner or later.
                broken(
                    Guarantee::G7,
                    self.waiting(),
                    "calls are parked that a look-up would have resolved",
                );
            }
        }
        found
    }

    /// Column of the table of policies.
    fn column(&self, in_outbox: u64) -> [String; ROWS.len()] {
        let counts = &self.findings.counts;
        [
            grouped(in_outbox),
            grouped(counts.requests),
            grouped(self.repeats(true)),
            grouped(self.repeats(false)),
            grouped(counts.charged),
            grouped(counts.charged_again),
            grouped(counts.undecided),
            grouped(counts.rejected),
            grouped(self.waiting()),
            grouped(self.kills as u64),
            purpose(self.policy).to_owned(),
        ]
    }
}

/// Rows of the table of policies.
const ROWS: [&str; 11] = [
    "calls in the outbox",
    "requests made",
    "  again, outcome of the last one unknown",
    "  again, last one surely not processed",
    "orders that the API charged",
    "  charged twice or more",
    "  charged never, and not rejected",
    "rejected: dead letters",
    "parked: wait for a person",
    "kill -9 of a caller, survived",
    "choose it if the API",
];

/// Returns what a policy is for, as a cell of the table.
const fn purpose(policy: Policy) -> &'static str {
    match policy {
        Policy::Retry => "honours the header Idempotency-Key",
        Policy::Park => "cannot be asked about an order",
        Policy::Verify => "can be asked about an order",
    }
}

impl Report {
    /// Returns true if every guarantee held.
    pub(crate) fn held(&self) -> bool {
        self.completed && self.violations().is_empty()
    }

    fn violations(&self) -> Vec<Violation> {
        let groups = self.groups.iter().flat_map(GroupReport::violations);
        self.stage_one.violations.iter().cloned().chain(groups).collect()
    }

    fn orders(&self) -> Table {
        let one = &self.stage_one;
        let mut table = table(&["stage one: what became of the orders", "count"]);
        let mut row = |name: &str, value: u64| {
            table.add_row(vec![Cell::new(name), right(grouped(value))]);
        };
        row("orders sent", one.sent);
        row("  in the outbox exactly once", one.counts.exactly_once);
        row("  duplicates, dropped", one.duplicates);
        row("  dead letters", self.order_dead_letters());
        for (reason, count) in &one.counts.dead_letters {
            row(&format!("    {reason}"), *count);
        }
        table
    }

    fn guarantees(&self) -> Table {
        let mut table = table(&["", "guarantee, and what was observed", "verdict"]);
        let violations = self.violations();
        for guarantee in Guarantee::ALL {
            let count = violations
                .iter()
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
        let one = &self.stage_one;
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
            Guarantee::G4 => {
                let calls_final = |group: &GroupReport| {
                    format!("{} {}", group.policy.as_str(), grouped(group.calls_final()))
                };
                let texts: Vec<String> = self.groups.iter().map(calls_final).collect();
                format!(
                    "of {} calls are final: {}",
                    grouped(one.counts.exactly_once),
                    texts.join(", ")
                )
            }
            Guarantee::G5 => self.observed_under(Policy::Retry, |group| {
                format!(
                    "{} requests, {} of them repeats with a cause",
                    grouped(group.findings.counts.requests),
                    grouped(group.repeats(true) + group.repeats(false))
                )
            }),
            Guarantee::G6 => self.observed_under(Policy::Park, charged_and_waiting),
            Guarantee::G7 => self.observed_under(Policy::Verify, charged_and_waiting),
        }
    }

    fn observed_under(&self, policy: Policy, text: impl Fn(&GroupReport) -> String) -> String {
        let group = self.groups.iter().find(|group| group.policy == policy);
        group.map_or_else(|| "not checked".into(), text)
    }

    /// Returns the policies side by side.
    fn policies(&self) -> Table {
        let mut header = vec!["on_ambiguous"];
        header.extend(self.groups.iter().map(|group| match group.policy {
            Policy::Retry => "retry (default)",
            Policy::Park | Policy::Verify => group.policy.as_str(),
        }));
        let mut table = table(&header);
        let columns: Vec<_> = self
            .groups
            .iter()
            .map(|group| group.column(self.stage_one.counts.exactly_once))
            .collect();
        for (index, name) in ROWS.iter().enumerate() {
            let cells = columns.iter().map(|column| right(column[index].clone()));
            table.add_row([Cell::new(name)].into_iter().chain(cells));
        }
        if let Some(names) = table.column_mut(0) {
            names.set_constraint(ColumnConstraint::ContentWidth);
        }
        table
    }

    fn order_dead_letters(&self) -> u64 {
        self.stage_one.counts.dead_letters.values().sum()
    }
}

fn charged_and_waiting(group: &GroupReport) -> String {
    format!(
        "{} orders charged, {} of them twice; {} calls wait for a person",
        grouped(group.findings.counts.charged),
        grouped(group.findings.counts.charged_again),
        grouped(group.waiting())
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.orders(), self.guarantees())?;
        let violations = self.violations();
        if !violations.is_empty() {
            writeln!(f, "{}", listed(&violations))?;
        }
        if !self.completed {
            writeln!(
                f,
                "Not every order had its verdict, or not every call its outcome, within the time limit."
            )?;
        }
        writeln!(
            f,
            "\nThe same calls under each policy, against an API that charges twice when it is called twice:\n{}",
            self.policies()
        )?;
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
        "Kafka {} | logs in {}\n\
         {orders} on {} partitions.\n\
         Three groups of callers make the same calls, each under its own policy for calls whose outcome is unknown\n\
         (retry, park, verify) and to its own API. Each program is killed once with kill -9, and each API loses\n\
         responses, throttles, fails and goes down.",
        setup.pipeline.kafka,
        setup.pipeline.folder().display(),
        arguments.partitions
    )
}

/// Returns a cell aligned to the right.
fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

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
    use harness::check::{stage_one, stage_two};
    use records::dead_letter::Reason;

    use super::*;

    fn group(policy: Policy) -> GroupReport {
        let counts = stage_two::Counts {
            requests: 17_700,
            accepted: 17_340,
            rejected: 172,
            repeats: [(Explanation::NotProcessed(429), 88)].into(),
            charged: 17_340,
            ..stage_two::Counts::default()
        };
        let counts = match policy {
            Policy::Retry => stage_two::Counts {
                repeats: [
                    (Explanation::NotProcessed(429), 88),
                    (Explanation::Interrupted, 100),
                ]
                .into(),
                charged_again: 61,
                ..counts
            },
            Policy::Park => stage_two::Counts {
                accepted: 16_940,
                parked: 400,
                parked_and_final: 3,
                undecided: 150,
                ..counts
            },
            Policy::Verify => counts,
        };
        GroupReport {
            policy,
            findings: StageTwoFindings {
                counts,
                violations: Vec::new(),
            },
            kills: 2,
        }
    }

    fn report() -> Report {
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
                violations: Vec::new(),
            },
            groups: [Policy::Retry, Policy::Park, Policy::Verify].map(group).into(),
            completed: true,
            took: Duration::from_secs(48),
        }
    }

    /// Counts in the row with this name of the table of policies.
    fn counts(text: &str, name: &str) -> Vec<String> {
        let row = text.lines().rfind(|line| line.contains(name)).unwrap_or_default();
        let (_, counts) = row.split_once(name).unwrap_or_default();
        let counts = counts.split([' ', '│']).filter(|count| !count.is_empty());
        counts.map(str::to_owned).collect()
    }

    #[test]
    fn report_fits_into_100_columns() {
        let text = report().to_string();
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(
            longest <= Some(usize::from(COLUMNS_MAX)),
            "{longest:?} columns:\n{text}"
        );
    }

    #[test]
    fn policies_stand_side_by_side() {
        let report = report();
        assert!(report.held());
        let text = report.to_string();
        for (name, cells) in [
            ("charged twice or more", ["61", "0", "0"]),
            ("parked: wait for a person", ["0", "403", "0"]),
            ("charged never, and not rejected", ["0", "150", "0"]),
            ("kill -9 of a caller, survived", ["2", "2", "2"]),
        ] {
            assert_eq!(counts(&text, name), cells, "{name} in:\n{text}");
        }
    }

    #[test]
    fn violation_is_reported_with_guarantee_and_policy() {
        let mut report = report();
        report.groups[1].findings.violations.push(Violation {
            guarantee: Guarantee::G4,
            anomaly: Anomaly::Call,
            finding: "\"order-7\" has no final state".into(),
        });
        let text = report.to_string();
        assert!(!report.held(), "{text}");
        for part in [
            "BROKEN, 1 times",
            "G4: park: \"order-7\"",
            "NOT every guarantee held",
        ] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }

    #[test]
    fn broken_promise_of_each_policy_is_found() {
        fn breaks(policy: usize, guarantee: Guarantee, change: impl Fn(&mut stage_two::Counts)) {
            let mut report = report();
            change(&mut report.groups[policy].findings.counts);
            assert!(!report.held(), "{report}");
            assert_eq!(report.violations()[0].guarantee, guarantee);
        }
        breaks(0, Guarantee::G5, |counts| counts.undecided = 1);
        breaks(1, Guarantee::G6, |counts| counts.charged_again = 1);
        breaks(2, Guarantee::G7, |counts| counts.charged_again = 1);
        breaks(2, Guarantee::G7, |counts| counts.undecided = 1);
        breaks(2, Guarantee::G7, |counts| counts.parked = 1);
        breaks(2, Guarantee::G7, |counts| counts.parked_and_final = 1);
    }

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
