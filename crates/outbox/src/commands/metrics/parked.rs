//! Reading of the parked calls: how many wait, since when, and how much money they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iso_currency::Currency;
use records::{Offset, Timestamp};

use crate::commands::parked::reading::{ParkedReader, ParkedRecord};
use crate::config::Config;
use crate::metrics::Metrics;

/// Interval at which parked calls are compared with the outcomes again, although nothing was parked or settled. An outcome
/// ends a parked call only if two callers have finished it, and once its retention has passed the call waits again.
const COMPARE_INTERVAL: Duration = Duration::from_secs(300);

/// Reader of the parked calls.
pub(super) struct ParkedReading<'a> {
    group: &'a str,
    config: &'a Config,
    last: Option<Last>,
}

/// What was read last.
struct Last {
    /// Ends of the partitions of the parked topic.
    ends: Vec<Offset>,
    at: Instant,
    /// Number of calls without a settlement, also of those that have an outcome.
    unsettled: usize,
    summary: Summary,
}

/// Parked calls that wait for an operator.
#[derive(Clone, Debug, Default, PartialEq)]
struct Summary {
    calls: u64,
    oldest: Option<Timestamp>,
    /// Amounts by currency, in its own unit.
    amounts: BTreeMap<&'static str, f64>,
}

impl<'a> ParkedReading<'a> {
    pub(super) fn new(group: &'a str, config: &'a Config) -> Self {
        Self {
            group,
            config,
            last: None,
        }
    }

    pub(super) fn read(&mut self, metrics: &Metrics) -> anyhow::Result<()> {
        let reading = ParkedReader::open(self.config, self.group)?;
        let ends = reading.parked_ends()?;
        let is_current = self
            .last
            .as_ref()
            .is_some_and(|last| last.is_current(&ends, last.at.elapsed()));
        let before = self.last.as_ref().map(|last| last.summary.amounts.clone());
        if !is_current {
            let at = Instant::now();
            let calls = reading.parked_calls()?;
            let waiting = calls
                .waiting()
                .map(|(_, waiting)| (waiting.parked_at, &waiting.record));
            let summary = Summary::of(waiting);
            self.last = Some(Last {
                ends,
                at,
                unsettled: calls.unsettled(),
                summary,
            });
        }
        let summary = self.last.as_ref().map(|last| &last.summary);
        let Summary {
            calls,
            oldest,
            amounts,
        } = summary.cloned().unwrap_or_default();
        // Each time, because the age grows.
        metrics.set_parked(calls, oldest, Timestamp::now());
        metrics.set_parked_amounts(&before.unwrap_or_default(), &amounts);
        Ok(())
    }
}

impl Last {
    /// Returns whether what was read this long ago still holds. A parked call and a settlement move an end.
    fn is_current(&self, ends: &[Offset], age: Duration) -> bool {
        self.ends == ends && (self.unsettled == 0 || age < COMPARE_INTERVAL)
    }
}

impl Summary {
    fn of<'r>(waiting: impl Iterator<Item = (Timestamp, &'r ParkedRecord)>) -> Self {
        let mut sums: BTreeMap<&'static str, (Currency, u128)> = BTreeMap::new();
        let mut summary = Self::default();
        for (parked_at, record) in waiting {
            summary.calls += 1;
            summary.oldest = summary.oldest.into_iter().chain([parked_at]).min();
            if let Some((currency, units)) = record.money {
                sums.entry(currency.code()).or_insert((currency, 0)).1 += u128::from(units);
            }
        }
        summary.amounts = sums
            .into_iter()
            .map(|(code, (currency, units))| (code, in_own_unit(currency, units)))
            .collect();
        summary
    }
}

/// Returns an amount in the currency's own unit, such as euros.
#[expect(
    clippy::cast_precision_loss,
    reason = "a metric is a floating-point number; what is settled is exact"
)]
fn in_own_unit(currency: Currency, minor_units: u128) -> f64 {
    let digits = currency.exponent().map_or(0, i32::from);
    minor_units as f64 / 10_f64.powi(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(money: Option<(Currency, u64)>) -> ParkedRecord {
        ParkedRecord {
            key: b"k".as_slice().into(),
            at: "parked/0@1".parse().expect("a position"),
            cause: "ambiguous".into(),
            attempts: 1,
            money,
            admitted_at: None,
        }
    }

    #[test]
    fn summary_has_the_oldest_and_the_sums() {
        let records = [
            Some((Currency::EUR, 1250)),
            Some((Currency::JPY, 7)),
            None,
            Some((Currency::EUR, 5)),
        ]
        .map(record);
        let summary = Summary::of([30, 20, 40, 50].map(Timestamp).into_iter().zip(&records));
        assert_eq!((summary.calls, summary.oldest), (4, Some(Timestamp(20))));
        let amounts: Vec<String> = summary
            .amounts
            .iter()
            .map(|(code, amount)| format!("{code} {amount:.2}"))
            .collect();
        assert_eq!(amounts, ["EUR 12.55", "JPY 7.00"]);
        assert_eq!(Summary::of(std::iter::empty()), Summary::default());
    }

    #[test]
    fn topics_are_read_again_when_an_end_has_moved() {
        let last = |unsettled| Last {
            ends: vec![Offset(3), Offset(0)],
            at: Instant::now(),
            unsettled,
            // Whether they wait is what may have changed.
            summary: Summary::default(),
        };
        let (same, moved) = ([Offset(3), Offset(0)], [Offset(3), Offset(1)]);
        let soon = Duration::from_secs(1);
        assert!(last(2).is_current(&same, soon));
        assert!(!last(2).is_current(&moved, soon));
        assert!(!last(0).is_current(&moved, soon));
        // An outcome that came after all ends a call that waits, and one that was deleted ends it no longer.
        assert!(!last(2).is_current(&same, COMPARE_INTERVAL));
        assert!(last(0).is_current(&same, COMPARE_INTERVAL));
    }
}
