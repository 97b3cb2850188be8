//! Which runs are merged, and when: few runs to look in, and each row written again only a few times.

use std::ops::Range;

/// Number of runs of one level that are merged.
// With more, look-ups ask more filters; with fewer, rows are written again more often.
pub(crate) const FAN: usize = 4;

/// Number of rows up to which a run is of level 0.
const LEVEL_0_ROWS: u64 = 16_384;

/// Number of rows from which on a run is not merged any more: a merge needs as much space as it writes.
pub(crate) const FINAL_ROWS: u64 = 1 << 21;

/// Returns the runs to merge next, of all runs from the oldest to the newest with their numbers of rows.
// Only neighbours are merged, so that of two rows of a key the later one still wins.
pub(crate) fn runs_to_merge(rows: &[u64]) -> Option<Range<usize>> {
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
    (rows < FINAL_ROWS).then(|| (rows / LEVEL_0_ROWS).max(1).ilog(FAN as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_level_are_merged_together() {
        assert_eq!(runs_to_merge(&[]), None);
        assert_eq!(runs_to_merge(&[9, 9, 9]), None);
        assert_eq!(runs_to_merge(&[9, 9, 9, 16_384]), Some(0..4));
        assert_eq!(
            runs_to_merge(&[70_000, 9, 9, 9, 9]),
            Some(1..5),
            "the older one is larger"
        );
        assert_eq!(
            runs_to_merge(&[70_000, 70_000, 70_000, 70_000, 9]),
            Some(0..5),
            "a small newer one comes along"
        );
        assert_eq!(runs_to_merge(&[FINAL_ROWS; 9]), None, "large enough");
    }

    #[test]
    fn runs_stay_few_and_rows_are_rewritten_seldom() {
        let (batch, batches) = (13_000, 3_000);
        let mut runs: Vec<u64> = Vec::new();
        let (mut written, mut runs_max, mut unfinished_max) = (0, 0, 0);
        for _ in 0..batches {
            runs.push(batch);
            while let Some(range) = runs_to_merge(&runs) {
                let merged: u64 = runs[range.clone()].iter().sum();
                written += merged;
                runs.splice(range, [merged]);
            }
            runs_max = runs_max.max(runs.len());
            unfinished_max = unfinished_max.max(runs.iter().filter(|rows| **rows < FINAL_ROWS).count());
        }
        let total = batch * batches;
        let large = usize::try_from(total / FINAL_ROWS).expect("few");
        assert!(unfinished_max <= 15, "{unfinished_max}");
        assert!(runs_max <= large + unfinished_max, "{runs_max}");
        assert!(
            written < 5 * total,
            "each row was written {} times",
            written / total
        );
        assert!(
            runs.iter().all(|rows| *rows < (FAN as u64 + 1) * FINAL_ROWS),
            "{runs:?}"
        );
    }
}
