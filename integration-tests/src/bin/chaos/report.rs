//! The tables at the end: what happened, what came of the orders, and what was found.

use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use harness::check::findings::StageOneFindings;
use harness::check::{Anomaly, Violation, listed};

use crate::tally::{ClientError, Tally};

/// All that was found.
pub(crate) struct Report<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) found: &'a StageOneFindings,
    pub(crate) violations: Vec<Violation>,
    /// At how many snapshots outbox, changelog and offsets were compared.
    pub(crate) snapshots: usize,
    /// Orders whose own transaction was aborted.
    pub(crate) aborted_orders: usize,
    /// Each order had its verdict within the time that it may take.
    pub(crate) settled: bool,
    pub(crate) took: Duration,
    pub(crate) seed: u64,
}

impl Report<'_> {
    /// Whether every guarantee was held.
    pub(crate) fn held(&self) -> bool {
        self.settled && self.violations.is_empty()
    }

    fn faults(&self) -> Table {
        let mut table = table(&["what happened", "count"]);
        for fault in ClientError::ALL {
            add(&mut table, fault.phrase(), self.tally.of(fault));
        }
        add(&mut table, "kill -9 of a validator, in all", self.tally.kills());
        table
    }

    fn orders(&self) -> Table {
        let found = self.found;
        let mut table = table(&["what came of the orders", "count"]);
        add(&mut table, "records sent", found.sent);
        add(&mut table, "  valid and distinct", found.distinct);
        add(
            &mut table,
            "in the outbox exactly once",
            found.counts.exactly_once,
        );
        add(&mut table, "duplicates dropped", found.duplicates);
        for (reason, count) in &found.counts.dead_letters {
            add(&mut table, &format!("dead letters: {reason}"), *count);
        }
        add(
            &mut table,
            "orders aborted by their producer",
            self.aborted_orders as u64,
        );
        add(&mut table, "snapshots compared", self.snapshots as u64);
        table
    }

    fn anomalies(&self) -> Table {
        let mut table = table(&["violation", "count"]);
        for anomaly in Anomaly::STAGE_ONE {
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
        writeln!(f, "{}\n{}\n{}", self.faults(), self.orders(), self.anomalies())?;
        for words in self.tally.last_words().iter().take(10) {
            writeln!(f, "ended by itself: {words}")?;
        }
        if !self.violations.is_empty() {
            writeln!(f, "{}", listed(&self.violations))?;
        }
        if !self.settled {
            writeln!(f, "Not each order had its verdict in time.")?;
        }
        let verdict = if self.held() {
            "No guarantee was broken"
        } else {
            "PROMISES WERE BROKEN"
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
