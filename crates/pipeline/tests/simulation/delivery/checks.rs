//! What must hold, and how it is said that something does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use pipeline::delivery::{Assignment, FinalState, Policy};
use records::{Offset, Partition};

/// A pending call.
pub(crate) type Place = (Partition, Offset);

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Under park and verify the API processed an order twice.
    ProcessedTwice,
    /// A call was made after its end had been committed.
    CalledAfterFinal,
    /// A call was made again, and nothing explains it.
    RepeatUnexplained,
    /// A request left a caller that did not own the partition any more.
    SentByNoOwner,
    /// A request left after its call had been parked.
    SentAfterParked,
    /// A call was made before an earlier one of its key had ended.
    OutOfOrder,
    /// A call was committed as final, and its end is nowhere.
    FinalWithoutEnd,
    /// A committed offset went back.
    WatermarkBack,
    /// A call was parked that nothing made ambiguous, or that a look-up could have settled.
    ParkedWithoutNeed,
    /// An end says what the API did not.
    WrongEnd,
    /// There were two commits in flight, or one of a partition that was given up.
    CommitOutOfTurn,
    /// A partition was refused, paused before it was started, or given up twice.
    Mishandled,
    /// More requests were under way, or calls held, than may be.
    TooMany,
    /// While the API was down, or taken to be, there was more than a probe in each interval.
    Hammered,
    /// The API was taken to be ill, and too few failures were its own.
    OpenedWithoutNeed,
    /// It does not come to an end.
    Stuck,
}

/// A broken promise.
#[derive(Debug)]
pub(crate) struct Violation {
    /// Which.
    #[expect(dead_code, reason = "it is there to be printed")]
    pub(crate) broken: Broken,
    /// What was seen.
    #[expect(dead_code, reason = "it is there to be printed")]
    pub(crate) seen: String,
}

/// How a call ended, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Accepted,
    Found,
    Rejected,
    Abandoned,
    Parked,
}

/// What the world remembers to judge by.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) first: Option<Violation>,
    /// The ends that Kafka has, with their times.
    pub(crate) ends: HashMap<Place, BTreeMap<End, Instant>>,
    /// Calls that a landed commit has told to be final.
    pub(crate) finals: BTreeSet<Place>,
    /// Requests that were answered with a clear end: by whom they were sent, when, and for which call of the order.
    pub(crate) clear: HashMap<Place, Vec<(u64, Instant, Place)>>,
    pub(crate) ambiguous: BTreeSet<Place>,
    /// Who has deferred an order last.
    pub(crate) deferred_by: HashMap<Place, (u64, Assignment)>,
    /// Requests that left and have no report yet.
    pub(crate) under_way: BTreeMap<(u64, Place), Instant>,
    /// What alone is looked for.
    pub(crate) looks_for: Option<Broken>,
    /// When a process was killed, stood still, or lost its membership.
    pub(crate) interruptions: Vec<(u64, Instant)>,
}

impl Checks {
    pub(crate) fn broken(&mut self, broken: Broken, seen: impl FnOnce() -> String) {
        if self.first.is_none() && self.looks_for.is_none_or(|only| only == broken) {
            let seen = seen();
            self.first = Some(Violation { broken, seen });
        }
    }

    pub(crate) fn is_interrupted_since(&self, process: u64, since: Instant) -> bool {
        self.interruptions
            .iter()
            .any(|(who, at)| *who == process && *at >= since)
    }

    /// A request leaves `process` for a call, whose order lay first at `place`.
    pub(crate) fn sent(&mut self, process: u64, call: Place, place: Place, policy: Policy, now: Instant) {
        if self.finals.contains(&call) {
            self.broken(Broken::CalledAfterFinal, || format!("{call:?}"));
        }
        let ends = self.ends.get(&place);
        let parked_at = ends.and_then(|ends| ends.get(&End::Parked)).copied();
        // Under retry only what is given up is parked, and as with any end, it is made again where that was not noted.
        // Who did not live to note that it parked a call leaves it to the next, who may look it up with more success.
        let is_taken_up = |at: Instant| match policy {
            Policy::Park => false,
            Policy::Retry => true,
            Policy::Verify => self
                .interruptions
                .iter()
                .any(|(_, interrupted)| *interrupted >= at),
        };
        if parked_at.is_some_and(|at| !is_taken_up(at)) {
            self.broken(Broken::SentAfterParked, || format!("{place:?} by {process}"));
        }
        if self.under_way.insert((process, place), now).is_some() {
            self.broken(Broken::RepeatUnexplained, || {
                format!("{place:?} is sent again by {process} with its request under way")
            });
        }
        for (who, at, of) in self.clear.get(&place).cloned().unwrap_or_default() {
            // Who lost the partition and looked a rejected order up may send it again.
            // And who has another's copy of it before him.
            let knows_better = who == process && of == call && policy != Policy::Verify;
            if knows_better || !self.is_interrupted_since(who, at) {
                self.broken(Broken::RepeatUnexplained, || {
                    format!("{place:?} is sent by {process}; {who} knew its answer and was not interrupted")
                });
            }
        }
    }

    /// An end is written to Kafka.
    pub(crate) fn ended(
        &mut self,
        place: Place,
        ending: &FinalState,
        policy: Policy,
        gives_up: bool,
        now: Instant,
    ) -> End {
        let end = match ending {
            FinalState::Accepted(_) => End::Accepted,
            FinalState::Found(_) => End::Found,
            FinalState::Rejected(_) => End::Rejected,
            FinalState::Abandoned(_) => End::Abandoned,
            FinalState::Parked(_) => End::Parked,
            FinalState::NotACall => {
                self.broken(Broken::WrongEnd, || format!("{place:?} is a call"));
                End::Rejected
            }
        };
        if let FinalState::Parked(evidence) = ending {
            let is_explained = self.ambiguous.contains(&place) || !self.interruptions.is_empty();
            let is_in_place = match policy {
                // What is given up and may have been processed.
                Policy::Retry => gives_up && is_explained,
                Policy::Park => is_explained,
                Policy::Verify => is_explained && evidence.lookups > 0,
            };
            if !is_in_place {
                self.broken(Broken::ParkedWithoutNeed, || {
                    format!("{place:?} under {policy:?}: {evidence:?}")
                });
            }
        }
        self.ends.entry(place).or_default().entry(end).or_insert(now);
        end
    }

    /// At the end: each call has an end, and what it says is true.
    pub(crate) fn finish(&mut self, place: Place, policy: Policy, processed: u32) {
        let ends: Vec<End> = self
            .ends
            .get(&place)
            .map(|ends| ends.keys().copied().collect())
            .unwrap_or_default();
        let is_true = |end: &End| match end {
            End::Accepted | End::Found => processed > 0,
            End::Rejected => processed == 0 || policy == Policy::Retry,
            // Whoever takes over before it is noted, and learns that it was not processed, makes the call again.
            End::Abandoned => processed == 0 || (policy != Policy::Park && !self.interruptions.is_empty()),
            End::Parked => true,
        };
        // Parked as well as accepted or rejected is a call whose caller was killed before it had noted the end.
        let told = ends.iter().filter(|end| **end != End::Parked).count();
        let is_one = match ends[..] {
            [] => false,
            [_] => true,
            [End::Accepted, End::Found] => policy == Policy::Verify,
            _ => told <= 2 && !self.interruptions.is_empty(),
        };
        if !ends.iter().all(is_true) || !is_one {
            self.broken(Broken::WrongEnd, || {
                format!("{place:?} under {policy:?} ended {ends:?}; it was processed {processed} times")
            });
        }
    }
}
