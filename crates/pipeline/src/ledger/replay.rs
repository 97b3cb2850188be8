//! A replay while it runs: what its events on the operations topic say, and what comes next.
//!
//! An `Appended` event is in the transaction that appends its copies. So a run that was killed at any point, or whose
//! commit has an unknown outcome, continues where the committed events end, and appends no call twice.

use std::collections::BTreeMap;
use std::time::Duration;

use records::operation::{Event, Planned, Replay};
use records::{Offset, OffsetSet, Partition, Timestamp};

use super::Replayable;

/// Number of offsets from the first call to the last one of a batch, over all partitions. A run reads them within a
/// transaction, which brokers abort after its timeout, and which holds up the readers of the outbox.
const BATCH_SPAN_MAX: i64 = 100_000;

/// Replays of one outbox, by their plans.
#[derive(Debug, Default)]
pub struct Replays {
    replays: BTreeMap<String, RunningReplay>,
}

/// One replay.
#[derive(Clone, Debug, Default)]
pub struct RunningReplay {
    planned: Option<Planned>,
    planned_at: Option<Timestamp>,
    calls: BTreeMap<Partition, OffsetSet>,
    stage: Stage,
    until: BTreeMap<Partition, Offset>,
    /// Number of calls of the canary, and the time of the first run.
    begun: Option<(u64, Timestamp)>,
    canary_passed: bool,
    appended: u64,
    left_out: u64,
}

/// Stage of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It can be run, and continued.
    #[default]
    Open,
    /// An operator has paused it.
    Paused,
    /// A call of its canary was not accepted.
    CanaryFailed,
    /// An operator has cancelled it.
    Cancelled,
    /// Each of its calls is dealt with.
    Finished,
}

/// What comes next in a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append copies of these calls, or leave them out, in one transaction.
    Append(BTreeMap<Partition, Vec<Offset>>),
    /// Wait for the outcomes of the canary, all copies that were appended so far.
    AwaitCanary,
    /// Say that the replay is finished.
    Finish,
}

impl Replays {
    /// Takes in an event and its time, in the order of the topic.
    pub fn take(&mut self, event: Replay, at: Timestamp) {
        let replay = self.replays.entry(event.plan).or_default();
        if matches!(event.event, Event::Planned(_)) {
            replay.planned_at = Some(at);
        }
        replay.take(event.event);
    }

    /// Returns the replay of a plan, if the plan is complete.
    #[must_use]
    pub fn get(&self, plan: &str) -> Option<&RunningReplay> {
        self.replays.get(plan).filter(|replay| replay.planned.is_some())
    }

    /// Returns the replays whose plans are complete.
    pub fn all(&self) -> impl Iterator<Item = (&str, &RunningReplay)> {
        self.replays
            .iter()
            .filter(|(_, replay)| replay.planned.is_some())
            .map(|(plan, replay)| (plan.as_str(), replay))
    }
}

impl RunningReplay {
    /// Takes in an event.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Calls { partition, runs } => {
                let calls = self.calls.entry(partition).or_default();
                for (from, until) in runs {
                    calls.insert_run(from, until);
                }
            }
            Event::Planned(planned) => self.planned = Some(planned),
            Event::Begun { canary, at } => self.begun = Some((canary, at)),
            Event::Appended {
                until,
                appended,
                left_out,
            } => {
                self.until.extend(until);
                self.appended += appended;
                self.left_out += left_out;
            }
            Event::CanaryPassed => self.canary_passed = true,
            Event::CanaryFailed => self.set(Stage::CanaryFailed),
            Event::Paused => self.set(Stage::Paused),
            Event::Resumed => {
                // Whoever resumes after a failed canary has seen which calls were not accepted.
                if self.stage == Stage::CanaryFailed {
                    self.canary_passed = true;
                }
                self.set(Stage::Open);
            }
            Event::Cancelled => self.set(Stage::Cancelled),
            Event::Finished => self.set(Stage::Finished),
        }
    }

    fn set(&mut self, stage: Stage) {
        // Nothing follows the end.
        if !self.has_ended() {
            self.stage = stage;
        }
        // The topic keeps all replays for ever, and memory need not.
        if self.has_ended() {
            self.calls.clear();
        }
    }

    const fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Cancelled | Stage::Finished)
    }

    /// Returns the plan; `None` if it is not complete.
    #[must_use]
    pub const fn planned(&self) -> Option<&Planned> {
        self.planned.as_ref()
    }

    /// Returns the time from which on a plan of calls whose outcome is unknown may be run; `None` for other plans.
    /// `quiescence` is the time after which no request of a call that is final can be sent or processed any more.
    #[must_use]
    pub fn not_before(&self, quiescence: Duration) -> Option<Timestamp> {
        let states = &self.planned.as_ref()?.states;
        if !states.iter().any(|state| state == Replayable::Unknown.as_str()) {
            return None;
        }
        // No record says when such a call became final, or when the group was begun behind it. When it was planned, it
        // was final, so that no caller has begun to send it since; but one may have shortly before.
        let quiescence = i64::try_from(quiescence.as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp(self.planned_at?.0.saturating_add(quiescence)))
    }

    /// Returns the stage.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the time of the first run; `None` if it was not run yet.
    #[must_use]
    pub fn begun_at(&self) -> Option<Timestamp> {
        self.begun.map(|(_, at)| at)
    }

    /// Returns the number of calls of the canary.
    #[must_use]
    pub fn canary(&self) -> u64 {
        self.begun.map_or(0, |(canary, _)| canary)
    }

    /// Returns whether the outcomes of the canary decide on what comes next.
    #[must_use]
    pub fn awaits_canary(&self) -> bool {
        self.canary() > 0 && !self.canary_passed
    }

    /// Returns the number of copies that were appended.
    #[must_use]
    pub const fn appended(&self) -> u64 {
        self.appended
    }

    /// Returns the number of calls that were left out.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Returns the calls of the plan, by the offsets of their last records.
    #[must_use]
    pub const fn calls(&self) -> &BTreeMap<Partition, OffsetSet> {
        &self.calls
    }

    /// Returns the first offset of a partition that was not dealt with.
    #[must_use]
    pub fn next(&self, partition: Partition) -> Option<Offset> {
        let calls = self.calls.get(&partition)?;
        let until = self.until.get(&partition).copied().unwrap_or(Offset(0));
        calls
            .runs()
            .find(|(_, end)| *end > until)
            .map(|(from, _)| from.max(until))
    }

    /// Returns what comes next. A transaction has at most `calls_max` calls.
    #[must_use]
    pub fn step(&self, calls_max: usize) -> Step {
        let awaits_canary = self.awaits_canary();
        let missing = self.canary().saturating_sub(self.appended);
        if awaits_canary && missing == 0 {
            return Step::AwaitCanary;
        }
        let calls_max = match usize::try_from(missing) {
            Ok(missing) if awaits_canary => calls_max.min(missing),
            _ => calls_max,
        };
        let batch = self.batch(calls_max);
        match batch.is_empty() {
            false => Step::Append(batch),
            // The plan has fewer calls than the canary.
            true if awaits_canary && self.appended > 0 => Step::AwaitCanary,
            true => Step::Finish,
        }
    }

    /// Takes calls from all partitions, so that all callers have some.
    fn batch(&self, calls_max: usize) -> BTreeMap<Partition, Vec<Offset>> {
        let mut batch = BTreeMap::new();
        let mut left = calls_max;
        let open: Vec<_> = self
            .calls
            .keys()
            .filter_map(|partition| Some((*partition, self.next(*partition)?)))
            .collect();
        let span = BATCH_SPAN_MAX / i64::try_from(open.len()).unwrap_or(i64::MAX).max(1);
        for (at, (partition, next)) in open.iter().enumerate() {
            let share = left.div_ceil(open.len() - at);
            // At least the first one, so that each batch leads on.
            let until_max = next.0.saturating_add(span.max(1));
            let offsets: Vec<_> = self.calls[partition]
                .runs()
                .flat_map(|(from, until)| (from.max(*next).0..until.0).map(Offset))
                .take_while(|offset| offset.0 < until_max)
                .take(share)
                .collect();
            left -= offsets.len();
            if !offsets.is_empty() {
                batch.insert(*partition, offsets);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(partitions: &[(i32, &[(i64, i64)])], canary: u64) -> RunningReplay {
        let mut replay = RunningReplay::default();
        for (partition, runs) in partitions {
            replay.take(Event::Calls {
                partition: Partition(*partition),
                runs: runs
                    .iter()
                    .map(|(from, until)| (Offset(*from), Offset(*until)))
                    .collect(),
            });
        }
        replay.take(Event::Begun {
            canary,
            at: Timestamp(7),
        });
        replay
    }

    /// Carries out steps until one is no batch, and returns the batches with that step.
    fn run(replay: &mut RunningReplay, calls_max: usize) -> (Vec<Vec<(i32, i64)>>, Step) {
        let mut batches = Vec::new();
        loop {
            let Step::Append(batch) = replay.step(calls_max) else {
                return (batches, replay.step(calls_max));
            };
            let calls: Vec<_> = batch
                .iter()
                .flat_map(|(partition, offsets)| offsets.iter().map(|offset| (partition.0, offset.0)))
                .collect();
            assert!(!calls.is_empty() && calls.len() <= calls_max);
            replay.take(Event::Appended {
                until: batch
                    .iter()
                    .filter_map(|(partition, offsets)| Some((*partition, offsets.last()?.next())))
                    .collect(),
                appended: calls.len() as u64,
                left_out: 0,
            });
            batches.push(calls);
        }
    }

    #[test]
    fn each_call_is_in_one_batch() {
        let parts: [(i32, &[(i64, i64)]); 3] =
            [(0, &[(3, 5), (9, 12)]), (2, &[(0, 1)]), (5, &[(7, 30), (40, 41)])];
        for calls_max in [1, 2, 3, 7, 1000] {
            let mut replay = replay(&parts, 0);
            let (batches, end) = run(&mut replay, calls_max);
            assert_eq!(end, Step::Finish);
            let mut calls: Vec<_> = batches.into_iter().flatten().collect();
            calls.sort_unstable();
            let expected: Vec<_> = parts
                .iter()
                .flat_map(|(partition, runs)| {
                    runs.iter()
                        .flat_map(|(from, until)| (*from..*until).map(|offset| (*partition, offset)))
                })
                .collect();
            assert_eq!(calls, expected, "{calls_max}");
            assert_eq!(replay.appended(), 30);
        }
    }

    #[test]
    fn sparse_calls_are_in_batches_of_a_limited_span() {
        let far: Vec<_> = (0..900).map(|at| (at * 96_000, at * 96_000 + 1)).collect();
        let mut replay = replay(&[(0, &far), (1, &far[..1]), (2, &far)], 0);
        let mut calls = 0;
        while let Step::Append(batch) = replay.step(1_000) {
            let span: i64 = batch
                .values()
                .filter_map(|offsets| Some(offsets.last()?.0 - offsets.first()?.0 + 1))
                .sum();
            assert!(span <= BATCH_SPAN_MAX, "{span}");
            let count: usize = batch.values().map(Vec::len).sum();
            assert!(count > 0, "a batch that leads nowhere");
            calls += count;
            replay.take(Event::Appended {
                until: batch
                    .iter()
                    .filter_map(|(partition, offsets)| Some((*partition, offsets.last()?.next())))
                    .collect(),
                appended: count as u64,
                left_out: 0,
            });
        }
        assert_eq!((replay.step(1_000), calls), (Step::Finish, 1_801));
    }

    #[test]
    fn canary_comes_first_and_is_awaited() {
        let mut replay = replay(&[(0, &[(0, 10)]), (1, &[(0, 10)])], 5);
        let (batches, step) = run(&mut replay, 3);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(step, Step::AwaitCanary);
        replay.take(Event::CanaryPassed);
        assert_eq!(run(&mut replay, 100).1, Step::Finish);
        assert_eq!(replay.appended(), 20);
    }

    #[test]
    fn canary_of_all_calls_is_awaited() {
        let mut few = replay(&[(0, &[(0, 3)])], 5);
        assert_eq!(run(&mut few, 10).1, Step::AwaitCanary);
        // All of them were left out.
        let mut none = replay(&[(0, &[(0, 3)])], 5);
        none.take(Event::Appended {
            until: vec![(Partition(0), Offset(3))],
            appended: 0,
            left_out: 3,
        });
        assert_eq!((none.step(10), none.left_out()), (Step::Finish, 3));
    }

    #[test]
    fn stages_follow_each_other() {
        let mut replay = replay(&[(0, &[(0, 3)])], 1);
        run(&mut replay, 10);
        replay.take(Event::CanaryFailed);
        assert_eq!(replay.stage(), Stage::CanaryFailed);
        replay.take(Event::Resumed);
        assert_eq!(
            (replay.stage(), run(&mut replay, 10).1),
            (Stage::Open, Step::Finish)
        );
        replay.take(Event::Paused);
        assert_eq!(replay.stage(), Stage::Paused);
        replay.take(Event::Cancelled);
        for event in [Event::Resumed, Event::Finished, Event::Paused] {
            replay.take(event);
            assert_eq!(replay.stage(), Stage::Cancelled);
        }
        assert!(
            replay.calls().is_empty(),
            "the calls of a replay that has ended are kept"
        );
    }

    #[test]
    fn incomplete_plan_is_no_replay() {
        let mut replays = Replays::default();
        let mut take = |event| {
            let plan = "a".into();
            replays.take(Replay { plan, event }, Timestamp(3));
            replays.get("a").is_some()
        };
        assert!(!take(Event::Calls {
            partition: Partition(0),
            runs: Vec::new()
        }));
        assert!(take(Event::Planned(Planned {
            group: "g".into(),
            outbox: None,
            calls: 0,
            again: 0,
            looks_up: false,
            states: Vec::new(),
        })));
        assert_eq!(replays.all().count(), 1);
    }
    #[test]
    fn unknown_calls_wait_until_no_request_is_left() {
        let not_before = |states: &[Replayable]| {
            let mut replays = Replays::default();
            let planned = Planned {
                group: "g".into(),
                outbox: None,
                calls: 1,
                again: 1,
                looks_up: false,
                states: states.iter().map(|state| state.as_str().to_owned()).collect(),
            };
            for (event, at) in [(Event::Planned(planned), 1_000), (Event::Paused, 7_000)] {
                let plan = "a".into();
                replays.take(Replay { plan, event }, Timestamp(at));
            }
            let replay = replays.get("a").expect("a plan");
            replay.not_before(Duration::from_secs(5))
        };
        assert_eq!(not_before(&[Replayable::Unknown]), Some(Timestamp(6_000)));
        assert_eq!(not_before(&Replayable::ALL[..4]), None);
    }
}
