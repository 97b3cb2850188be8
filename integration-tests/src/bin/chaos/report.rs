//! Tables at the end: the incidents, the orders, and the violations by kind.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use harness::check::findings::{StageOneFindings, StageTwoFindings};
use harness::check::{Anomaly, Violation, listed};

use crate::tally::{Incident, Tally};

/// Maximum number of programs that exited by themselves to list.
const EXITS_LISTED_MAX: usize = 10;

/// Result of a run.
pub(crate) struct Report<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) found: &'a StageOneFindings,
    pub(crate) calls: &'a StageTwoFindings,
    pub(crate) violations: Vec<Violation>,
    /// Number of snapshots of outbox, changelog and committed offsets that were compared.
    pub(crate) snapshots: usize,
    /// Orders whose own transaction was aborted.
    pub(crate) aborted_orders: usize,
    /// True if each order had its verdict, and each call its outcome, in time.
    pub(crate) completed: bool,
    /// True if the run was long enough for each incident to happen.
    pub(crate) is_long: bool,
    pub(crate) took: Duration,
    pub(crate) seed: u64,
}

impl Report<'_> {
    /// Returns true if every guarantee held.
    pub(crate) fn held(&self) -> bool {
        self.completed && self.violations.is_empty() && self.missing().is_empty()
    }

    /// Returns the incidents that a long run must have and this one lacks.
    fn missing(&self) -> Vec<Incident> {
        if self.is_long {
            self.tally.missing()
        } else {
            Vec::new()
        }
    }

    fn incidents(&self) -> Table {
        let mut table = table(&["what happened", "count"]);
        for incident in Incident::ALL {
            add(&mut table, incident.label(), self.tally.of(incident));
        }
        add(&mut table, "kill -9 of a validator, total", self.tally.kills());
        table
    }

    fn orders(&self) -> Table {
        let found = self.found;
        let mut table = table(&["orders", "count"]);
        add(&mut table, "records sent", found.sent);
        add(&mut table, "  distinct valid orders", found.distinct);
        add(
            &mut table,
            "in the outbox exactly once",
            found.counts.exactly_once,
        );
        add(&mut table, "duplicates, dropped", found.duplicates);
        for (reason, count) in &found.counts.dead_letters {
            add(&mut table, &format!("dead letters: {reason}"), *count);
        }
        add(
            &mut table,
            "orders aborted by their producer, never read",
            self.aborted_orders as u64,
        );
        add(
            &mut table,
            "snapshots of outbox, changelog and offsets compared",
            self.snapshots as u64,
        );
        table
    }

    fn calls(&self) -> Table {
        let counts = &self.calls.counts;
        let mut table = table(&["calls, under park", "count"]);
        add(&mut table, "requests to the API", counts.requests);
        add(&mut table, "accepted", counts.accepted);
        add(&mut table, "rejected", counts.rejected);
        add(&mut table, "parked", counts.parked);
        add(
            &mut table,
            "  for an intent of a killed caller",
            counts.parked_with_intent,
        );
        add(&mut table, "abandoned", counts.abandoned);
        add(&mut table, "deferred", counts.deferred);
        add(
            &mut table,
            "outcomes repeated after an interruption",
            counts.outcomes_repeated,
        );
        add(&mut table, "charged twice", counts.charged_again);
        table
    }

    fn violations(&self) -> Table {
        let mut table = table(&["violation", "count"]);
        for anomaly in Anomaly::STAGE_ONE.into_iter().chain([Anomaly::Call]) {
            let count = self
                .violations
                .iter()
                .filter(|found| found.anomaly == anomaly)
                .count();
            add(&mut table, anomaly.phrase(), count as u64);
        }
        table
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\n{}\n{}\n{}",
            self.incidents(),
            self.orders(),
            self.calls(),
            self.violations()
        )?;
        for exit in self.tally.exits().iter().take(EXITS_LISTED_MAX) {
            writeln!(f, "exited by itself: {exit}")?;
        }
        if !self.violations.is_empty() {
            writeln!(f, "{}", listed(&self.violations))?;
        }
        if !self.completed {
            writeln!(
                f,
                "Not every order had its verdict and its outcome within the time limit."
            )?;
        }
        for missing in self.missing() {
            writeln!(f, "Never happened in this long run: {}", missing.label())?;
        }
        let verdict = if self.held() {
            "Every guarantee held"
        } else {
            "NOT every guarantee held"
        };
        write!(
            f,
            "{verdict}: seed {}, {:.0} s.",
            self.seed,
            self.took.as_secs_f64()
        )
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.to_vec());
    table
}

fn add(table: &mut Table, name: &str, count: u64) {
    table.add_row(vec![
        Cell::new(name),
        Cell::new(count).set_alignment(CellAlignment::Right),
    ]);
}
