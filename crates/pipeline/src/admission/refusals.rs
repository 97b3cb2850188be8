//! Refusals in mass: a partition most of whose records are refused is paused after each further one.
//!
//! A bad record is one producer's mistake. When most are refused or in conflict, it is a setting, such as the
//! pointer to the idempotency key, or a new schema, and each further record would become a dead letter for
//! nothing.
//!
//! The verdict on a record does not change by itself, so trying the same one again would tell nothing. So
//! while the refusals among the last records are at their limit, each further one is still final, as a dead
//! letter, and pauses its partition: one bad record per interval. An admitted record pauses nothing. Behind a
//! batch of bad records a partition is at full speed again with the first good ones, and no number of bad
//! records holds up a quiet partition for ever.
//!
//! Duplicates do not count: a producer that sends its orders again says nothing of what is new. The record of an
//! admitted order that is read again counts as admitted: after the loss of the group all of them are, and the
//! refused ones between them must not look like all there is. Each partition is counted for itself, so that one
//! bad producer does not hold up the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use records::dead_letter::Reason;
use records::{Offset, Partition};

use super::verdict::Verdict;
use crate::sliding_count::{ShareLimit, SlidingCount};

/// Settings for refusals in mass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalSettings {
    /// Refusals, conflicts included, among a partition's last records that are not duplicates.
    pub limit: ShareLimit,
    /// Time for which the partition is paused after each refusal at the limit.
    pub pause: Duration,
}

impl RefusalSettings {
    /// Pauses nothing.
    pub const OFF: Self = Self {
        limit: ShareLimit::OFF,
        pause: Duration::ZERO,
    };
}

/// State of a partition most of whose records are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MassRefusal {
    /// Number of refused records.
    pub refused: usize,
    /// Number of records that are no duplicates of another record.
    pub of: usize,
    /// Reason of the last refusal.
    pub reason: Reason,
    /// Offset of the last refused record.
    pub offset: Offset,
}

/// Counts of refusals, and the pauses that follow from them.
#[derive(Debug)]
pub(super) struct Refusals {
    settings: RefusalSettings,
    partitions: BTreeMap<Partition, Refused>,
    /// Partitions that are paused. Apart from the counts, because it is looked at for each record.
    pauses: BTreeMap<Partition, Pause>,
}

#[derive(Debug)]
struct Refused {
    count: SlidingCount,
    /// Last refusal.
    last: Option<(Reason, Offset)>,
}

/// Pause of a partition.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// Offset to continue at.
    next: Offset,
    since: Instant,
    until: Instant,
    /// The consumer knows of it.
    is_announced: bool,
}

/// Step of a pause that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Stop reading the partition.
    Pause(Partition),
    /// Read the partition from this offset on.
    Continue(Partition, Offset),
}

impl Refusals {
    pub(super) fn new(settings: RefusalSettings) -> Self {
        Self {
            settings,
            partitions: BTreeMap::new(),
            pauses: BTreeMap::new(),
        }
    }

    /// Counts the verdict on a record, and pauses its partition if it is one refusal too many.
    pub(super) fn decided(&mut self, partition: Partition, offset: Offset, verdict: &Verdict, now: Instant) {
        let refused = self.partitions.entry(partition).or_insert_with(|| Refused {
            count: SlidingCount::new(self.settings.limit),
            last: None,
        });
        match verdict {
            // The very record that was admitted.
            Verdict::Duplicate { first, .. } if first.source == offset => refused.count.push(false, now),
            Verdict::Duplicate { .. } => {}
            Verdict::Admit { .. } => refused.count.push(false, now),
            Verdict::Refuse(refusal) => {
                refused.count.push(true, now);
                refused.last = Some((refusal.reason, offset));
                if refused.count.is_at_limit() {
                    let pause = Pause {
                        next: offset.next(),
                        since: now,
                        until: now + self.settings.pause,
                        is_announced: false,
                    };
                    self.pauses.insert(partition, pause);
                }
            }
        }
    }

    /// Returns `true` while no record of the partition may be decided.
    pub(super) fn is_paused(&self, partition: Partition) -> bool {
        self.pauses.contains_key(&partition)
    }

    /// Time at which [`Self::step`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pauses.values().copied().map(Pause::due).min()
    }

    /// Takes one step that is due.
    pub(super) fn step(&mut self, now: Instant) -> Option<Step> {
        let (partition, pause) = self.pauses.iter_mut().find(|(_, pause)| pause.due() <= now)?;
        let (partition, next) = (*partition, pause.next);
        if !pause.is_announced {
            pause.is_announced = true;
            return Some(Step::Pause(partition));
        }
        self.pauses.remove(&partition);
        Some(Step::Continue(partition, next))
    }

    /// Ends all pauses: each partition starts again at its committed offset, or not at all. The counts stay,
    /// so that a failure does not let more refusals through.
    pub(super) fn end_pauses(&mut self) {
        self.pauses.clear();
    }

    /// Ends the pause of a partition that does not continue.
    pub(super) fn end_pause(&mut self, partition: Partition) {
        self.pauses.remove(&partition);
    }

    /// Forgets partitions that are no longer ours.
    pub(super) fn forget(&mut self, partitions: &[Partition]) {
        self.partitions
            .retain(|partition, _| !partitions.contains(partition));
        self.pauses.retain(|partition, _| !partitions.contains(partition));
    }

    pub(super) fn forget_all(&mut self) {
        self.partitions.clear();
        self.pauses.clear();
    }

    /// Partitions most of whose records are refused.
    pub(super) fn in_mass(&self) -> impl Iterator<Item = (Partition, MassRefusal)> + '_ {
        self.partitions.iter().filter_map(|(partition, refused)| {
            let (count, of) = refused.count.counts();
            let (reason, offset) = refused.last.filter(|_| refused.count.is_at_limit())?;
            let state = MassRefusal {
                refused: count,
                of,
                reason,
                offset,
            };
            Some((*partition, state))
        })
    }
}

impl Pause {
    fn due(self) -> Instant {
        match self.is_announced {
            true => self.until,
            false => self.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use records::entry::Status;
    use records::fingerprint::SelectionId;
    use records::{Entry, Fingerprint, IdempotencyKey, Timestamp};

    use super::super::rules::Refusal;
    use super::*;

    const P: Partition = Partition(3);
    const PAUSE: Duration = Duration::from_secs(30);

    struct Scenario {
        refusals: Refusals,
        now: Instant,
        offset: i64,
    }

    impl Scenario {
        fn new() -> Self {
            Self {
                refusals: Refusals::new(RefusalSettings {
                    limit: ShareLimit {
                        threshold: 3,
                        window: 5,
                    },
                    pause: PAUSE,
                }),
                now: Instant::now(),
                offset: 0,
            }
        }

        /// Decides on the next record. Returns `true` if it pauses the partition.
        fn decide(&mut self, verdict: &Verdict) -> bool {
            assert!(!self.refusals.is_paused(P));
            self.refusals.decided(P, Offset(self.offset), verdict, self.now);
            self.offset += 1;
            self.refusals.is_paused(P)
        }

        fn pass(&mut self) {
            assert_eq!(self.refusals.step(self.now), Some(Step::Pause(P)));
            assert_eq!(self.refusals.step(self.now), None);
            assert_eq!(self.refusals.due(), Some(self.now + PAUSE));
            self.now += PAUSE;
            let next = Offset(self.offset);
            assert_eq!(self.refusals.step(self.now), Some(Step::Continue(P, next)));
            assert_eq!(self.refusals.due(), None);
        }
    }

    fn verdicts() -> (Verdict, Verdict, Verdict) {
        let entry = Entry {
            status: Status::Pending,
            selection: SelectionId::Order,
            fingerprint: Fingerprint::of(b""),
            admitted_at: Timestamp(1),
            // Of another record than those of the scenario.
            source: Offset(1_000_000),
        };
        let key = IdempotencyKey::new("k").expect("a key");
        let refused = Verdict::Refuse(Refusal {
            reason: Reason::KeyMissing,
            detail: String::new(),
        });
        let admitted = Verdict::Admit {
            recorded: Timestamp(1),
            key: key.clone(),
            entry,
        };
        (refused, admitted, Verdict::Duplicate { key, first: entry })
    }

    #[test]
    fn mass_refusal_lets_one_record_through_per_pause() {
        let (refused, admitted, duplicate) = verdicts();
        let mut scenario = Scenario::new();
        for verdict in [&refused, &duplicate, &admitted, &refused, &duplicate, &admitted] {
            assert!(!scenario.decide(verdict));
        }
        assert_eq!(scenario.refusals.in_mass().count(), 0);
        assert!(scenario.decide(&refused));
        for refusals in [3, 3, 4, 4] {
            let (partition, state) = scenario.refusals.in_mass().next().expect("one");
            assert_eq!((partition, state.reason), (P, Reason::KeyMissing));
            assert_eq!(state.offset.0, scenario.offset - 1);
            assert_eq!(state.refused, refusals);
            scenario.pass();
            assert!(!scenario.decide(&duplicate));
            assert!(scenario.decide(&refused));
        }
        scenario.pass();
        // Good records follow: they are not held up, and the share falls.
        for _ in 0..3 {
            assert!(!scenario.decide(&admitted));
        }
        assert_eq!(scenario.refusals.in_mass().count(), 0);
        assert!(!scenario.decide(&refused));
    }

    #[test]
    fn orders_that_are_read_again_count_as_admitted() {
        let (refused, _, duplicate) = verdicts();
        let Verdict::Duplicate { key, mut first } = duplicate else {
            unreachable!("a duplicate");
        };
        let mut scenario = Scenario::new();
        for _ in 0..20 {
            for _ in 0..2 {
                first.source = Offset(scenario.offset);
                let again = Verdict::Duplicate {
                    key: key.clone(),
                    first,
                };
                assert!(!scenario.decide(&again));
            }
            assert!(!scenario.decide(&refused));
        }
    }

    #[test]
    fn partitions_are_counted_apart() {
        let (refused, ..) = verdicts();
        let mut scenario = Scenario::new();
        for partition in 0..10 {
            for offset in 0..2 {
                scenario
                    .refusals
                    .decided(Partition(partition), Offset(offset), &refused, scenario.now);
            }
        }
        assert_eq!(scenario.refusals.due(), None);
        scenario
            .refusals
            .decided(Partition(4), Offset(2), &refused, scenario.now);
        assert_eq!(
            scenario.refusals.step(scenario.now),
            Some(Step::Pause(Partition(4)))
        );
        assert!(!scenario.refusals.is_paused(Partition(5)));
    }

    #[test]
    fn failure_ends_the_pause_and_keeps_the_count() {
        let (refused, ..) = verdicts();
        let mut scenario = Scenario::new();
        (0..2).for_each(|_| assert!(!scenario.decide(&refused)));
        assert!(scenario.decide(&refused));
        scenario.refusals.end_pauses();
        assert_eq!(scenario.refusals.due(), None);
        assert!(scenario.decide(&refused));
        scenario.refusals.forget(&[P]);
        assert!(!scenario.decide(&refused));
    }

    #[test]
    fn off_pauses_nothing() {
        let (refused, ..) = verdicts();
        let mut scenario = Scenario::new();
        scenario.refusals = Refusals::new(RefusalSettings::OFF);
        (0..1_000).for_each(|_| assert!(!scenario.decide(&refused)));
    }
}
