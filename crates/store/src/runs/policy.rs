//! Which runs are merged, and when: few runs to look in, and each row written again only a few times.

use std::ops::Range;

/// Number of runs of one level that are merged.
// With more, look-ups ask more filters; with fewer, rows are written again more often.
pub(crate) const FAN: usize = 4;

/// Number of rows from which on a run is of a level above 0.
// Few, so that the small runs of a validator with little to do are not merged into a large one each few seconds.
const LEVEL_1_ROWS: u64 = 1 << 8;

/// Number of rows from which on a run is not merged any more: a merge needs as much space as it writes.
pub(crate) const FINAL_ROWS: u64 = 1 << 21;

/// A run, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mergeable {
    pub(crate) rows: u64,
    /// Number of the period that the run's newest key was recorded in. Runs of two periods are not merged, so that the
    /// keys of one are forgotten together. It does not fall from run to run.
    pub(crate) period: i64,
}

/// Returns the runs to merge next, of all runs from the oldest to the newest.
// Only neighbours are merged, so that of two rows of a key the later one still wins.
pub(crate) fn runs_to_merge(runs: &[Mergeable]) -> Option<Range<usize>> {
    let live = runs.last()?.period;
    let start = runs.partition_point(|run| run.period < live);
    let rows: Vec<u64> = runs[start..].iter().map(|run| run.rows).collect();
    if let Some(Range { start: from, end }) = live_runs_to_merge(&rows) {
        return Some(start + from..start + end);
    }
    // Nothing is added to an earlier period any more: its small runs become one.
    let is_small = |run: &Mergeable| run.rows < FINAL_ROWS;
    let mut from = 0;
    for small in runs[..start].chunk_by(|a, b| a.period == b.period && is_small(a) && is_small(b)) {
        if small.len() > 1 {
            return Some(from..from + small.len());
        }
        from += small.len();
    }
    None
}

/// Returns those to merge of the present period's runs, of which these are the numbers of rows.
fn live_runs_to_merge(rows: &[u64]) -> Option<Range<usize>> {
    let highest = rows.iter().filter_map(|rows| level(*rows)).max()?;
    (0..=highest).find_map(|wanted| {
        // The newest runs up to this level: newer ones of a lower level come along, which costs little.
        let start = rows
            .iter()
            .rposition(|rows| level(*rows).is_none_or(|level| level > wanted))
            .map_or(0, |older| older + 1);
        let of_level = rows[start..].iter().filter(|rows| level(**rows) == Some(wanted));
        (of_level.count() >= FAN).then_some(start..rows.len())
    })
}

/// Returns the level of a run; `None` if it is not merged any more.
fn level(rows: u64) -> Option<u32> {
    (rows < FINAL_ROWS).then(|| (rows * FAN as u64 / LEVEL_1_ROWS).max(1).ilog(FAN as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(rows: &[u64]) -> Option<Range<usize>> {
        let runs = rows.iter().map(|rows| Mergeable {
            rows: *rows,
            period: 0,
        });
        super::runs_to_merge(&runs.collect::<Vec<_>>())
    }

    #[test]
    fn runs_of_one_level_are_merged_together() {
        let runs_to_merge = merged;
        assert_eq!(runs_to_merge(&[]), None);
        assert_eq!(runs_to_merge(&[9, 9, 9]), None);
        assert_eq!(runs_to_merge(&[9, 9, 9, 200]), Some(0..4));
        assert_eq!(
            runs_to_merge(&[5_000, 9, 9, 9, 9]),
            Some(1..5),
            "the older one is larger"
        );
        assert_eq!(
            runs_to_merge(&[5_000, 5_000, 5_000, 5_000, 9]),
            Some(0..5),
            "a small newer one comes along"
        );
        assert_eq!(runs_to_merge(&[FINAL_ROWS; 9]), None, "large enough");
    }

    #[test]
    fn runs_of_two_periods_are_not_merged() {
        let of = |runs: &[(u64, i64)]| {
            let runs = runs.iter().map(|(rows, period)| Mergeable {
                rows: *rows,
                period: *period,
            });
            runs_to_merge(&runs.collect::<Vec<_>>())
        };
        assert_eq!(of(&[(9, 0), (9, 1), (9, 1), (9, 1)]), None, "one too few");
        assert_eq!(of(&[(9, 0), (9, 1), (9, 1), (9, 1), (9, 1)]), Some(1..5));
        assert_eq!(
            of(&[(9, 0), (5_000, 0), (9, 1)]),
            Some(0..2),
            "the period is over"
        );
        assert_eq!(of(&[(9, 0), (9, 1), (9, 1), (9, 2)]), Some(1..3));
        assert_eq!(
            of(&[(9, 0), (FINAL_ROWS, 0), (9, 0), (9, 0), (9, 1)]),
            Some(2..4),
            "beside a large one"
        );
        assert_eq!(of(&[(FINAL_ROWS, 0), (FINAL_ROWS, 0), (9, 0), (9, 1)]), None);
    }

    /// Returns the largest number of runs that are not final, the number of all runs at the end, and how often a row is
    /// written.
    fn grow(batch: u64, batches: u64) -> (usize, usize, f64) {
        let mut runs: Vec<u64> = Vec::new();
        let (mut written, mut unfinished_max) = (0, 0);
        for _ in 0..batches {
            runs.push(batch);
            written += batch;
            while let Some(range) = merged(&runs) {
                let merged: u64 = runs[range.clone()].iter().sum();
                written += merged;
                runs.splice(range, [merged]);
            }
            unfinished_max = unfinished_max.max(runs.iter().filter(|rows| **rows < FINAL_ROWS).count());
        }
        // With what comes along, at most one level more than the limit.
        assert!(
            runs.iter().all(|rows| *rows < (FAN as u64 + 1) * FINAL_ROWS),
            "{runs:?}"
        );
        (
            unfinished_max,
            runs.len(),
            written as f64 / (batch * batches) as f64,
        )
    }

    #[test]
    fn runs_stay_few_and_rows_are_rewritten_seldom() {
        // A validator under backlog, and one with a hundred orders a second.
        let (unfinished, runs, writes) = grow(13_000, 3_000);
        assert!(
            unfinished <= 15 && runs <= 15 + 19 && writes < 6.0,
            "{unfinished}, {runs}, {writes}"
        );
        let (unfinished, runs, writes) = grow(10, 400_000);
        assert!(
            unfinished <= 24 && runs <= 24 + 2 && writes < 15.0,
            "{unfinished}, {runs}, {writes}"
        );
    }
}
