//! `parked reconcile`: settles parked calls by the provider's own record, a CSV file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use records::Timestamp;
use records::settlement::{Decision, Settlement};
use serde::Serialize;

use super::csv_quotes::CheckedQuotes;
use super::may_settle;
use super::outbox_keys::expect_own;
use super::reading::{Kind, ParkedReader};
use super::settle::{Refused, SHOWN_MAX, print_refused};
use super::show::span;
use super::write::{Chosen, Settler, open_producer};
use crate::cli::{Absent, ReconcileParked};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operator::operator;
use crate::tables::new_table;

/// Field names are those of the JSON output.
#[derive(Debug, Default, Serialize)]
struct Reconciled {
    /// Number of rows of the file.
    rows: u64,
    accepted: usize,
    rejected: usize,
    sent_again: usize,
    /// Calls that were left alone, each with the reason.
    left: Vec<Refused>,
    /// Keys with more than one accepted row: the provider has charged them more than once.
    charged_more_than_once: Vec<String>,
}

/// What the file says of one order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rows {
    accepted: u32,
    rejected: u32,
    /// First state that is neither.
    other: Option<String>,
    /// A row has an order that differs from this one in leading or trailing blanks only.
    has_similar: bool,
}

impl Rows {
    /// Returns whether the file has the order itself.
    const fn has_order(&self) -> bool {
        self.accepted > 0 || self.rejected > 0 || self.other.is_some()
    }
}

pub(super) fn run(options: &ReconcileParked, config: &Config, json: bool) -> anyhow::Result<Status> {
    let path = options.csv.as_path();
    let quiescence = config.quiescence();
    // Before anything is read, for it does not depend on that.
    let covered = covered(options, Timestamp::now(), quiescence)?;
    let reading = ParkedReader::open(config, &options.which.group)?;
    let producer = open_producer(config)?;
    let calls = reading.parked_calls()?;
    let mut orders: BTreeMap<String, Rows> = calls
        .waiting()
        .map(|(_, waiting)| (waiting.record.key_text(), Rows::default()))
        .collect();
    let rows = read_file(options, &mut orders)?;
    check_rows(rows, options, path)?;
    if options.absent != Absent::Leave && !orders.is_empty() && !orders.values().any(Rows::has_order) {
        expect_settled_order(&reading, options)?;
    }

    let mut report = Reconciled {
        rows,
        ..Reconciled::default()
    };
    let mut chosen: BTreeMap<Decision, Chosen> = BTreeMap::new();
    let now = Timestamp::now();
    for (call, waiting) in calls.waiting() {
        let key = waiting.record.key_text();
        let of_order = orders.get(&key).cloned().unwrap_or_default();
        if of_order.accepted > 1 {
            report.charged_more_than_once.push(key.clone());
        }
        let settled = propose(&of_order, options.absent, waiting.parked_at <= covered).and_then(|decision| {
            may_settle(&calls, &call, decision, now, config)
                .map(|_| decision)
                .map_err(|reason| format!("{call}: {reason}"))
        });
        match settled {
            Ok(decision) => {
                let at = &waiting.record.at;
                let chosen = chosen.entry(decision).or_default();
                chosen.entry(at.partition).or_default().insert(at.offset, call);
            }
            Err(reason) => report.left.push(Refused { key, reason }),
        }
    }
    let count = |decision| {
        let chosen = chosen.get(&decision);
        chosen.map_or(0, |chosen| chosen.values().map(BTreeMap::len).sum())
    };
    report.accepted = count(Decision::Accepted);
    report.rejected = count(Decision::Rejected);
    report.sent_again = count(Decision::SendAgain);
    explain(&report);
    if !chosen.is_empty() {
        for chosen in chosen.values() {
            expect_own(&reading, &calls, chosen)?;
        }
        if !confirm(&question(&report, path, &span(quiescence)), options.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(Status::Problem);
        }
        for (decision, chosen) in &chosen {
            let settler = Settler {
                reading: &reading,
                producer: &producer,
                settlement: Settlement::new(*decision, Timestamp::now(), operator(), options.reason.clone()),
                config,
                command: "parked reconcile",
            };
            settler.settle(chosen)?;
        }
    }
    if json {
        print_json(&report)?;
    } else {
        println!(
            "{} parked calls are settled, {} are left alone.",
            report.accepted + report.rejected + report.sent_again,
            report.left.len()
        );
    }
    Ok(
        if report.left.is_empty() && report.charged_more_than_once.is_empty() {
            Status::Ok
        } else {
            Status::Problem
        },
    )
}

/// Returns the time until which a call must have been parked so that the file has it if it was charged.
///
/// # Errors
/// Calls that are not in the file are to be settled, and nobody says when it was made.
fn covered(options: &ReconcileParked, now: Timestamp, quiescence: Duration) -> anyhow::Result<Timestamp> {
    if options.absent == Absent::Leave {
        return Ok(Timestamp(i64::MIN));
    }
    let as_of = options.as_of.context(
        "with --absent other than `leave` an order that is missing in the file counts as never processed, and one that \
         was charged after the file was made is missing, too: say with --as-of up to which time the file has all that \
         the provider has charged. Nothing was changed",
    )?;
    ensure!(
        as_of <= now,
        "--as-of is in the future: no file has what the provider will have charged by then. Nothing was changed"
    );
    // A request may be processed that long after its call was parked.
    let quiescence = i64::try_from(quiescence.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp(as_of.0.saturating_sub(quiescence)))
}

fn read_file(options: &ReconcileParked, orders: &mut BTreeMap<String, Rows>) -> anyhow::Result<u64> {
    let path = options.csv.as_path();
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    read(file, options, orders).with_context(|| format!("reading {}; nothing was changed", path.display()))
}

/// Refuses a file that has no order of a parked call, if orders that it lacks are to be settled: with another column,
/// or other keys, each of them would count as never processed.
fn expect_settled_order(reading: &ParkedReader<'_>, options: &ReconcileParked) -> anyhow::Result<()> {
    // Those of an earlier run with the same file are settled.
    let mut orders = BTreeMap::new();
    reading.visit_all_parked(|_, record, kind| {
        if let Kind::Parked(_) = kind {
            let key = String::from_utf8_lossy(record.key).into_owned();
            orders.insert(key, Rows::default());
        }
        Ok(())
    })?;
    read_file(options, &mut orders)?;
    check_has_order(&orders, options)
}

fn check_has_order(orders: &BTreeMap<String, Rows>, options: &ReconcileParked) -> anyhow::Result<()> {
    ensure!(
        orders.values().any(Rows::has_order),
        "no row of {} has in its column {:?} the order of a parked call, neither of one that waits nor of one that was \
         settled: it may be the wrong column, or keys that are written in another way, and each order would count as \
         never processed. If it is right, settle the calls by name with `outbox parked settle`. Nothing was changed",
        options.csv.display(),
        options.order_column
    );
    Ok(())
}

/// Counts the rows of the orders by their states, and returns the number of all rows.
fn read(
    file: impl Read,
    options: &ReconcileParked,
    orders: &mut BTreeMap<String, Rows>,
) -> anyhow::Result<u64> {
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(options.delimiter)
        // Not the fields: blanks of a key are a part of it.
        .trim(csv::Trim::Headers)
        .from_reader(CheckedQuotes::new(file, options.delimiter));
    let header = csv.headers()?.clone();
    let column = |name: &str| {
        let columns: Vec<_> = header
            .iter()
            .enumerate()
            .filter(|(_, column)| *column == name)
            .collect();
        ensure!(
            columns.len() == 1,
            "it has {} columns with the name {name:?}, expected one; its columns are: {}",
            columns.len(),
            header.iter().collect::<Vec<_>>().join(", ")
        );
        Ok(columns[0].0)
    };
    let (order, state) = (column(&options.order_column)?, column(&options.state_column)?);
    let mut similar: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in orders.keys() {
        similar
            .entry(key.trim().to_owned())
            .or_default()
            .push(key.clone());
    }
    let mut rows = 0;
    // One that is longer or shorter than the header is an error of the library.
    for row in csv.records() {
        let row = row?;
        rows += 1;
        let (Some(order), Some(state)) = (row.get(order), row.get(state)) else {
            continue;
        };
        let state = state.trim();
        for key in similar.get(order.trim()).into_iter().flatten() {
            let Some(of_order) = orders.get_mut(key) else {
                continue;
            };
            if key != order {
                of_order.has_similar = true;
            } else if options.accepted.iter().any(|accepted| accepted == state) {
                of_order.accepted += 1;
            } else if options.rejected.iter().any(|rejected| rejected == state) {
                of_order.rejected += 1;
            } else {
                of_order.other.get_or_insert_with(|| state.to_owned());
            }
        }
    }
    Ok(rows)
}

/// Refuses a file that is not the whole one, if orders that it lacks are to be called again.
fn check_rows(rows: u64, options: &ReconcileParked, path: &Path) -> anyhow::Result<()> {
    if options.absent == Absent::Leave {
        return Ok(());
    }
    ensure!(
        options.rows == Some(rows),
        "{} has {rows} rows, and --rows says {}: with --absent other than `leave` an order that is missing in the \
         file counts as never processed, so give the number of rows that the provider says the file has. Nothing \
         was changed",
        path.display(),
        options.rows.map_or("nothing".to_owned(), |rows| rows.to_string())
    );
    Ok(())
}

/// Returns the decision that the file's rows of an order suggest. `is_covered` says whether the file would have the
/// order if it had been charged.
///
/// # Errors
/// The reason to leave it alone.
fn propose(rows: &Rows, absent: Absent, is_covered: bool) -> Result<Decision, String> {
    match (rows, absent) {
        // One charge is one too many to make another, whatever else the file says.
        (Rows { accepted: 1.., .. }, _) => Ok(Decision::Accepted),
        (
            Rows {
                other: Some(state), ..
            },
            _,
        ) => Err(format!("its state {state:?} is neither accepted nor rejected")),
        (Rows { has_similar: true, .. }, _) => {
            Err("the file has an order that differs from it in leading or trailing blanks only".into())
        }
        (Rows { rejected: 1.., .. }, _) => Ok(Decision::Rejected),
        (_, Absent::Leave) => Err("the file does not have it".into()),
        _ if !is_covered => Err(
            "the file does not have it, but was made (--as-of) before the last request of it was sure to be processed: \
             take a later file"
                .into(),
        ),
        (_, Absent::Rejected) => Ok(Decision::Rejected),
        (_, Absent::SendAgain) => Ok(Decision::SendAgain),
    }
}

/// Shows what will be done, on standard error: the result on standard output may be redirected to a file.
fn explain(report: &Reconciled) {
    let mut table = new_table(["decision", "calls"]);
    for (decision, calls) in [
        ("accepted, an outcome each", report.accepted),
        ("rejected, a dead letter each", report.rejected),
        ("sent again", report.sent_again),
        ("left alone", report.left.len()),
    ] {
        table.add_row([decision.to_owned(), calls.to_string()]);
    }
    eprintln!("{table}");
    print_refused(&report.left);
    let twice = &report.charged_more_than_once;
    if !twice.is_empty() {
        let shown: Vec<_> = twice.iter().take(SHOWN_MAX).map(String::as_str).collect();
        let more = if twice.len() > SHOWN_MAX { ", …" } else { "" };
        eprintln!(
            "The provider has charged {} orders more than once, which is to be refunded: {}{more}",
            twice.len(),
            shown.join(", ")
        );
    }
}

fn question(report: &Reconciled, path: &Path, quiescence: &str) -> String {
    let again = match report.sent_again {
        0 => String::new(),
        calls => format!(
            " {calls} calls that are not in the file are sent again; they were parked more than {quiescence} before the \
             time of the file, and each that the API has processed all the same is charged a second time."
        ),
    };
    format!(
        "Settle {} parked calls by the {} rows of {}?{again}",
        report.accepted + report.rejected + report.sent_again,
        report.rows,
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, ParkedCommand};

    fn options(more: &str) -> ReconcileParked {
        let line = format!(
            "outbox parked reconcile --csv f --order-column order --state-column state --accepted settled,captured \
             --rejected declined --reason r {more}"
        );
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("a command line");
        match cli.command {
            Command::Parked(ParkedCommand::Reconcile(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    fn read_text(text: &str, more: &str) -> anyhow::Result<(u64, Vec<Rows>)> {
        let mut orders = ["a", "b", "c"]
            .map(|key| (key.to_owned(), Rows::default()))
            .into();
        let rows = read(text.as_bytes(), &options(more), &mut orders)?;
        Ok((rows, orders.into_values().collect()))
    }

    #[test]
    fn rows_are_counted_by_state() {
        let text =
            "\u{feff}id,order,state\n1,a, settled\n2,x,settled\n3,\"b\",declined\n4,a,captured\n5,b,held\n";
        let (rows, orders) = read_text(text, "").expect("read");
        let [a, b, c] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        assert_eq!((rows, a.accepted, b.rejected), (5, 2, 1));
        assert_eq!((b.other.as_deref(), c), (Some("held"), &Rows::default()));
        let (rows, orders) = read_text("order;state\na;settled\n", "--delimiter ;").expect("read");
        assert_eq!((rows, orders[0].accepted), (1, 1));
    }

    #[test]
    fn file_that_cannot_be_understood_is_refused() {
        for (text, words) in [
            ("order,status\na,settled\n", "its columns are: order, status"),
            ("order,state,state\na,settled,held\n", "2 columns"),
            ("order,state\na\n", "line: 2"),
            ("", "its columns are"),
        ] {
            let error = read_text(text, "").expect_err(text);
            assert!(format!("{error:#}").contains(words), "{words}: {error:#}");
        }
    }

    #[test]
    fn call_is_settled_only_by_a_clear_state() {
        let rows = |accepted, rejected, other: Option<&str>| Rows {
            accepted,
            rejected,
            other: other.map(str::to_owned),
            has_similar: false,
        };
        for absent in [Absent::Leave, Absent::Rejected, Absent::SendAgain] {
            assert_eq!(
                propose(&rows(1, 2, Some("held")), absent, true),
                Ok(Decision::Accepted)
            );
            assert_eq!(propose(&rows(0, 2, None), absent, true), Ok(Decision::Rejected));
            let held = propose(&rows(0, 1, Some("held")), absent, true).expect_err("not clear");
            assert!(held.contains("\"held\""), "{held}");
        }
        let absent = |absent| propose(&Rows::default(), absent, true).ok();
        assert_eq!(
            [Absent::Leave, Absent::Rejected, Absent::SendAgain].map(absent),
            [None, Some(Decision::Rejected), Some(Decision::SendAgain)]
        );
    }

    #[test]
    fn order_that_may_be_charged_after_the_file_is_left_alone() {
        let (now, quiescence) = (Timestamp(2_000_000_000_000), Duration::from_secs(105));
        let as_of = "--as-of 2026-03-01T09:00:00Z";
        let of = |more: &str| covered(&options(more), now, quiescence).map_err(|error| error.to_string());
        let nine = 1_772_355_600_000;
        for absent in ["rejected", "send-again"] {
            let error = of(&format!("--absent {absent}")).expect_err("no time");
            assert!(error.contains("--as-of"), "{error}");
            let until = of(&format!("--absent {absent} {as_of}"));
            assert_eq!(until, Ok(Timestamp(nine - 105_000)));
            let error = of(&format!("--absent {absent} --as-of 2100-01-01T00:00:00Z")).expect_err("later");
            assert!(error.contains("future"), "{error}");
        }
        assert!(of("").is_ok(), "nothing is absent");
        for absent in [Absent::Leave, Absent::Rejected, Absent::SendAgain] {
            assert!(propose(&Rows::default(), absent, false).is_err());
        }
    }

    #[test]
    fn order_that_differs_in_blanks_is_neither_settled_nor_absent() {
        let (_, orders) =
            read_text("order,state\n a ,settled\n\"b \",declined\nb,declined\n", "").expect("read");
        let [a, b, _] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        assert!(!a.has_order() && b.has_order());
        for of_order in [a, b] {
            let error = propose(of_order, Absent::SendAgain, true).expect_err("not clear");
            assert!(error.contains("blanks"), "{error}");
        }
        // Blanks at the end of a key are a part of it.
        let mut orders = [("a ".to_owned(), Rows::default())].into();
        read("order,state\na ,settled\n".as_bytes(), &options(""), &mut orders).expect("read");
        assert_eq!(
            propose(&orders["a "], Absent::SendAgain, true),
            Ok(Decision::Accepted)
        );
    }

    #[test]
    fn file_without_any_order_of_a_parked_call_is_refused() {
        let check = |text: &str| {
            let mut orders = ["a", "b"].map(|key| (key.to_owned(), Rows::default())).into();
            read(text.as_bytes(), &options(""), &mut orders).expect("read");
            check_has_order(&orders, &options("")).map_err(|error| error.to_string())
        };
        assert_eq!(check("order,state\nx,settled\nb,held\n"), Ok(()));
        let error = check("order,state\nx,settled\n").expect_err("other orders");
        assert!(
            error.contains("\"order\"") && error.contains("Nothing was changed"),
            "{error}"
        );
    }

    #[test]
    fn absent_orders_need_the_number_of_rows() {
        let check =
            |more: &str| check_rows(7, &options(more), Path::new("f")).map_err(|error| error.to_string());
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("--absent send-again --rows 7"), Ok(()));
        for more in ["--absent send-again", "--absent rejected --rows 8"] {
            let error = check(more).expect_err(more);
            assert!(error.contains("has 7 rows"), "{error}");
        }
    }

    mod fuzz {
        use super::*;

        const TOKENS: &[&str] = &[
            "order", "state", ",", ";", "\"", "\"\"", "\n", "\r\n", "\r", "\u{feff}", "settled", "declined",
            "held", "a", " ", "\t", "\0",
        ];

        /// A file of the provider settles no order that it does not name with a state that the operator has named.
        #[test]
        fn reconcile() {
            fuzzing::check!("reconcile", TOKENS, |bytes| {
                let mut orders = ["a", "b", "c"]
                    .map(|key| (key.to_owned(), Rows::default()))
                    .into();
                let Ok(rows) = read(bytes, &options(""), &mut orders) else {
                    return;
                };
                let states = orders
                    .values()
                    .map(|of_order| of_order.accepted + of_order.rejected);
                let counted: u32 = states.sum();
                assert!(u64::from(counted) <= rows, "{counted} states in {rows} rows");
                let text = String::from_utf8_lossy(bytes);
                let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
                for (key, of_order) in &orders {
                    let Ok(decision) = propose(of_order, Absent::Leave, true) else {
                        continue;
                    };
                    assert!(has(&[key]), "{key} is not in the file, and is {decision:?}");
                    let is_named = match decision {
                        Decision::Accepted => has(&["settled", "captured"]),
                        Decision::Rejected => has(&["declined"]),
                        Decision::SendAgain => false,
                    };
                    assert!(is_named, "{key} is {decision:?}");
                }
            });
        }
    }
}
