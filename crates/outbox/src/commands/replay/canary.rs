//! Canary of a replay: the first calls, whose outcomes are awaited before the others follow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka::group_offsets::TopicRecord;
use records::operation::REPLAY;
use records::outcome::Outcome;
use records::{Bounds, Offset, Partition, Position, Timestamp, call_dead_letter};

use super::reading::ReplayReader;
use crate::brokers::REQUEST_TIMEOUT;
use crate::call_records::{continuation_of, position, text};
use crate::progress::Progress;

/// Interval at which the topics are read.
const INTERVAL: Duration = Duration::from_millis(500);
/// Difference of clocks that is allowed for between this machine and the callers'.
const CLOCK_SKEW_MS: i64 = 10 * 60 * 1000;

/// Outcome of the canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CanaryResult {
    /// Each call was accepted.
    Passed,
    /// These calls were not accepted: their keys, and where their dead letters or parked records are.
    Failed(Vec<(String, Position)>),
    /// The wait has ended before each call had an outcome; with the number of those that have none.
    Undecided(usize),
}

/// Calls of a canary, by their first records.
pub(super) struct Canary<'a> {
    reading: &'a ReplayReader<'a>,
    plan: &'a str,
    calls: BTreeSet<(Partition, Offset)>,
    accepted: BTreeSet<(Partition, Offset)>,
    failed: Vec<(String, Position)>,
    /// Offset up to which each partition of each topic was read.
    positions: BTreeMap<(String, Partition), Offset>,
}

impl<'a> Canary<'a> {
    /// `calls` were appended by earlier runs; those of this run are behind `ends`. `begun_at` is the time of the first
    /// run.
    pub(super) fn new(
        reading: &'a ReplayReader<'a>,
        plan: &'a str,
        calls: &[(Partition, Offset)],
        ends: &BTreeMap<Partition, Offset>,
        begun_at: Timestamp,
    ) -> anyhow::Result<Self> {
        let mut canary = Self {
            reading,
            plan,
            calls: calls.iter().copied().collect(),
            accepted: BTreeSet::new(),
            failed: Vec::new(),
            positions: BTreeMap::new(),
        };
        canary.add_appended(ends)?;
        canary.start_at(Timestamp(begun_at.0 - CLOCK_SKEW_MS))?;
        Ok(canary)
    }

    /// Adds the calls of which the plan has appended copies from these offsets on.
    fn add_appended(&mut self, ends: &BTreeMap<Partition, Offset>) -> anyhow::Result<()> {
        let topic = &self.reading.config.topics.pending;
        for (partition, from) in ends {
            let settled = self
                .reading
                .reader
                .settled_bounds(topic, *partition, &Progress::new())?;
            let bounds = Bounds {
                start: *from,
                end: settled.end,
            };
            let (plan, calls) = (self.plan, &mut self.calls);
            self.reading
                .reader
                .offsets
                .read::<anyhow::Error>(topic, *partition, bounds, |record| {
                    if is_of(plan, record) {
                        calls.insert((*partition, first_of(record, *partition)));
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }

    fn start_at(&mut self, at: Timestamp) -> anyhow::Result<()> {
        let topics = &self.reading.config.topics;
        for topic in [&topics.processed, &topics.call_dead_letters, &topics.parked] {
            for partition in self.reading.reader.partitions(topic)? {
                let offsets = &self.reading.reader.offsets;
                let found = offsets.offset_at(topic, partition, at, REQUEST_TIMEOUT)?;
                let from = match found {
                    Some(offset) => offset,
                    None => offsets.bounds(topic, partition, REQUEST_TIMEOUT)?.end,
                };
                self.positions.insert((topic.clone(), partition), from);
            }
        }
        Ok(())
    }

    /// Waits until each call has an outcome, or one is not accepted.
    pub(super) fn wait(&mut self, timeout: Duration) -> anyhow::Result<CanaryResult> {
        let deadline = Instant::now() + timeout;
        let progress = Progress::new();
        loop {
            self.read()?;
            if !self.failed.is_empty() {
                progress.finish();
                return Ok(CanaryResult::Failed(std::mem::take(&mut self.failed)));
            }
            let open = self.calls.len() - self.accepted.len();
            if open == 0 {
                progress.finish();
                return Ok(CanaryResult::Passed);
            }
            if Instant::now() > deadline {
                progress.finish();
                return Ok(CanaryResult::Undecided(open));
            }
            progress.wait(format!("waiting for the outcomes of {open} calls of the canary"));
            std::thread::sleep(INTERVAL);
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let topics = &self.reading.config.topics;
        let offsets = &self.reading.reader.offsets;
        for ((topic, partition), from) in &mut self.positions {
            let end = offsets.bounds(topic, *partition, REQUEST_TIMEOUT)?.end;
            let bounds = Bounds { start: *from, end };
            offsets.read::<anyhow::Error>(topic, *partition, bounds, |record| {
                if *topic == topics.processed {
                    let outcome = Outcome::parse(record.value)?;
                    let first: Position = outcome.continues.unwrap_or(outcome.call).parse()?;
                    let first = (first.partition, first.offset);
                    if self.calls.contains(&first) {
                        self.accepted.insert(first);
                    }
                } else if is_of(self.plan, record)
                    && let Some(call) = position(&record.headers, call_dead_letter::CALL)
                {
                    // Of a copy of this plan, and not of an earlier record of the call, or of another plan.
                    let first =
                        continuation_of(record).map_or(call.offset, |before| before.first(&call).offset);
                    if self.calls.contains(&(call.partition, first)) {
                        let at = Position {
                            topic: topic.clone(),
                            partition: *partition,
                            offset: record.offset,
                        };
                        self.failed
                            .push((String::from_utf8_lossy(record.key).into_owned(), at));
                    }
                }
                Ok(())
            })?;
            *from = end.max(*from);
        }
        Ok(())
    }
}

/// Returns whether a record is a copy of the plan, or what became of one: dead letters and parked records keep the
/// headers.
fn is_of(plan: &str, record: &TopicRecord<'_>) -> bool {
    text(&record.headers, REPLAY) == Some(plan)
}

/// Returns the first record of the call of a copy.
fn first_of(record: &TopicRecord<'_>, partition: Partition) -> Offset {
    match continuation_of(record) {
        Some(before) if !before.repeats && before.call.partition == partition => before.call.offset,
        _ => record.offset,
    }
}
