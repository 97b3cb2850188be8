//! Number of calls of a replay that may be charged again: what an operator has seen holds when the replay runs.

use std::collections::BTreeMap;

use records::{Offset, OffsetSet, Partition};

use super::{Replayable, RunningReplay};

/// Reason for which a plan is not run: more of its calls may be charged again than the operator was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsPlanned {
    /// The plan counts on look-ups that the settings of the run do not have.
    #[error(
        "it was planned with caller.on_ambiguous = \"verify\", by which callers look up a call that may have been \
         processed before they send it, and the settings of this run do not have that: give the file of the callers, or \
         make a new plan, which counts the calls that may be charged again"
    )]
    NoLookUps,
    /// The number has grown.
    #[error(
        "{now} of its calls may be charged a second time by now, and the plan says {planned}: the settings or the \
         dead letters are others than those of the plan. Make a new plan"
    )]
    More {
        /// Number that the plan says.
        planned: u64,
        /// Number of the calls that are left.
        now: u64,
    },
}

impl RunningReplay {
    /// Checks that callers look up the calls of the plan if it counts on that. `looks_up`: those of the run do.
    ///
    /// # Errors
    /// They do not.
    pub fn expect_look_ups(&self, looks_up: bool) -> Result<(), NotAsPlanned> {
        match self.planned() {
            Some(planned) if planned.looks_up && !looks_up => Err(NotAsPlanned::NoLookUps),
            _ => Ok(()),
        }
    }

    /// Checks that no more calls may be charged again than the plan says. `eligible` are the calls that may be made
    /// again now, by their states.
    ///
    /// # Errors
    /// More may be, or the calls are not looked up as the plan says.
    pub fn expect_charged_again(
        &self,
        eligible: &BTreeMap<Partition, BTreeMap<Replayable, OffsetSet>>,
        looks_up: bool,
    ) -> Result<(), NotAsPlanned> {
        self.expect_look_ups(looks_up)?;
        let planned = self.planned().map_or(0, |planned| planned.again);
        let mut now = 0;
        for (partition, states) in eligible {
            let (Some(calls), Some(next)) = (self.calls().get(partition), self.next(*partition)) else {
                continue;
            };
            let again = states
                .iter()
                .filter(|(state, _)| state.is_charged_again(looks_up))
                .flat_map(|(_, offsets)| offsets.runs());
            // A later copy of a planned call is none of the plan.
            now += again
                .flat_map(|(from, until)| (from.max(next).0..until.0).map(Offset))
                .filter(|offset| calls.contains(*offset))
                .count() as u64;
        }
        match now > planned {
            true => Err(NotAsPlanned::More { planned, now }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use records::Timestamp;
    use records::operation::{Event, Planned};

    use super::*;

    const P: Partition = Partition(2);

    fn replay(again: u64, looks_up: bool) -> RunningReplay {
        let mut replay = RunningReplay::default();
        replay.take(Event::Calls {
            partition: P,
            runs: vec![(Offset(3), Offset(6)), (Offset(9), Offset(10))],
        });
        replay.take(Event::Planned(Planned {
            group: "g".into(),
            outbox: None,
            calls: 4,
            again,
            looks_up,
            states: Vec::new(),
        }));
        replay
    }

    fn eligible(of: &[(Replayable, &[i64])]) -> BTreeMap<Partition, BTreeMap<Replayable, OffsetSet>> {
        let set = |offsets: &[i64]| offsets.iter().copied().map(Offset).collect();
        let states = of.iter().map(|(state, offsets)| (*state, set(offsets)));
        [(P, states.collect())].into()
    }

    #[test]
    fn plan_that_counts_on_look_ups_is_not_run_without() {
        let ambiguous = eligible(&[(Replayable::Ambiguous, &[3, 4, 5, 9])]);
        let verified = replay(0, true);
        assert_eq!(verified.expect_charged_again(&ambiguous, true), Ok(()));
        assert_eq!(verified.expect_look_ups(false), Err(NotAsPlanned::NoLookUps));
        assert_eq!(
            verified.expect_charged_again(&ambiguous, false),
            Err(NotAsPlanned::NoLookUps)
        );
        // The other way round fewer are charged than the operator has agreed to.
        assert_eq!(replay(4, false).expect_charged_again(&ambiguous, true), Ok(()));
    }

    #[test]
    fn no_more_calls_are_charged_again_than_planned() {
        // Of a version that did not note the look-ups.
        let ambiguous = eligible(&[(Replayable::Ambiguous, &[3, 4, 5, 9])]);
        let more = |planned, now| Err(NotAsPlanned::More { planned, now });
        assert_eq!(
            replay(0, false).expect_charged_again(&ambiguous, false),
            more(0, 4)
        );
        assert_eq!(
            replay(3, false).expect_charged_again(&ambiguous, false),
            more(3, 4)
        );
        assert_eq!(replay(4, false).expect_charged_again(&ambiguous, false), Ok(()));
        // An accepted call is charged again even if callers look up; a rejected one never is.
        let mixed = eligible(&[(Replayable::Rejected, &[3, 4]), (Replayable::Accepted, &[5, 9])]);
        assert_eq!(replay(1, true).expect_charged_again(&mixed, true), more(1, 2));
        assert_eq!(replay(2, true).expect_charged_again(&mixed, true), Ok(()));
    }

    #[test]
    fn calls_that_are_dealt_with_are_not_counted() {
        let mut begun = replay(1, false);
        begun.take(Event::Begun {
            canary: 0,
            at: Timestamp(1),
        });
        begun.take(Event::Appended {
            until: vec![(P, Offset(6))],
            appended: 3,
            left_out: 0,
        });
        // 20 is a copy of one of them, which was rejected again.
        let again = eligible(&[(Replayable::Ambiguous, &[5, 9, 20])]);
        assert_eq!(begun.expect_charged_again(&again, false), Ok(()));
    }
}
