//! Plan of a replay: which calls of a selection may be appended to the outbox again, and why the others may not.
//!
//! The records of the outbox come in the order of their offsets, each after the ledger has taken it in. A call is
//! selected if one of its records is. Of the selected calls that were accepted only those are kept that were asked for
//! by name; so what is kept grows with the selected calls that were not accepted.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use records::{Offset, OffsetSet, Partition};

use super::{LeftOut, NotedState, Replayable, Terminal};

/// Record of the outbox that is taken into a plan.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// Offset of the record.
    pub offset: Offset,
    /// First record of its call: its own offset, unless it is a copy that continues a call.
    pub first: Offset,
    /// First record of the accepted call that it repeats, if it does.
    pub repeats: Option<Offset>,
    /// State of the record.
    pub state: NotedState,
    /// The group has noted that it is final. An outcome makes a call accepted before that; until then the next owner
    /// of its partition may still make it.
    pub is_noted_final: bool,
    /// Whether the selection has the record.
    pub is_selected: bool,
    /// An earlier request of the call may still be processed.
    pub is_early: bool,
    /// The API may have forgotten the idempotency key of the call.
    pub is_expired: bool,
    /// Currency and amount in minor units, if the order has them.
    pub money: Option<(&'a str, u64)>,
}

/// Plans a replay.
#[derive(Debug)]
pub struct Planner {
    asked_for: Vec<Replayable>,
    partitions: BTreeMap<Partition, BTreeMap<Offset, PlannedCall>>,
    currencies: Vec<String>,
    /// Number of calls in `partitions`.
    kept: usize,
    /// Selected calls that were accepted and not asked for: too many to be kept.
    accepted: u64,
}

/// Selected call, as of its last record.
#[derive(Clone, Copy, Debug)]
struct PlannedCall {
    last: Offset,
    /// Its state, or the reason against it.
    decision: Result<Replayable, LeftOut>,
    /// Index of the currency, if the order has an amount. Apart from the amount, since a plan can have millions.
    currency: Option<NonZeroU16>,
    minor_units: u64,
}

/// What a plan has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Number of calls by state.
    pub calls: BTreeMap<Replayable, u64>,
    /// Number of calls that are left out, by the reason.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// Amount by currency, in minor units, of the calls whose orders have one.
    pub money: BTreeMap<String, u128>,
    /// Number of calls whose orders have no amount.
    pub without_amount: u64,
    /// Last record of each call.
    pub offsets: BTreeMap<Partition, OffsetSet>,
}

impl Planner {
    /// Creates a plan of the calls in these states.
    #[must_use]
    pub const fn new(asked_for: Vec<Replayable>) -> Self {
        Self {
            asked_for,
            partitions: BTreeMap::new(),
            currencies: Vec::new(),
            kept: 0,
            accepted: 0,
        }
    }

    /// Takes in a record of the outbox.
    pub fn take(&mut self, partition: Partition, record: &Selected<'_>) {
        let calls = self.partitions.entry(partition).or_default();
        let before = calls.remove(&record.first);
        // The call that it repeats is no longer the last that was made of the order.
        let repeated = record.repeats.and_then(|first| calls.remove(&first));
        self.kept -= usize::from(before.is_some()) + usize::from(repeated.is_some());
        if !record.is_selected && before.is_none() && repeated.is_none() {
            return;
        }
        let decision = self.decide(record);
        if decision == Err(LeftOut::NotAskedFor(Replayable::Accepted)) {
            // A copy of a call that was accepted tells of no other call.
            self.accepted += u64::from(record.first == record.offset);
            return;
        }
        let call = PlannedCall {
            last: record.offset,
            decision,
            currency: record.money.map(|(currency, _)| self.currency(currency)),
            minor_units: record.money.map_or(0, |(_, amount)| amount),
        };
        self.partitions
            .entry(partition)
            .or_default()
            .insert(record.first, call);
        self.kept += 1;
    }

    /// Returns the number of calls that are kept, so that a caller can limit it: some 50 bytes each.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    fn decide(&self, record: &Selected<'_>) -> Result<Replayable, LeftOut> {
        let replayable = match record.state {
            NotedState::Pending => return Err(LeftOut::Pending),
            NotedState::PerhapsSent => return Err(LeftOut::InFlight),
            // By its key alone: the position says nothing of what became of it.
            NotedState::Unknown => return Err(LeftOut::NotAskedFor(Replayable::Unknown)),
            NotedState::Final(Terminal::Parked) => return Err(LeftOut::Parked),
            NotedState::Final(Terminal::DeadLetter(rejection)) => {
                Replayable::of(rejection).ok_or(LeftOut::NotACall)?
            }
            NotedState::Final(Terminal::Accepted) => Replayable::Accepted,
        };
        if !self.asked_for.contains(&replayable) {
            Err(LeftOut::NotAskedFor(replayable))
        } else if !record.is_noted_final {
            Err(LeftOut::InFlight)
        } else if record.is_early {
            Err(LeftOut::TooEarly)
        } else if record.is_expired {
            Err(LeftOut::KeyExpired)
        } else {
            Ok(replayable)
        }
    }

    /// Returns the number of a currency, from 1 on.
    fn currency(&mut self, code: &str) -> NonZeroU16 {
        let known = self.currencies.iter().position(|known| known == code);
        let at = known.unwrap_or_else(|| {
            self.currencies.push(code.to_owned());
            self.currencies.len() - 1
        });
        // ISO 4217 has some three hundred.
        u16::try_from(at + 1)
            .ok()
            .and_then(NonZeroU16::new)
            .unwrap_or(NonZeroU16::MAX)
    }

    /// Returns the last records of the calls that may be replayed, by their states.
    #[must_use]
    pub fn replayable(&self, partition: Partition) -> BTreeMap<Replayable, OffsetSet> {
        let mut replayable = BTreeMap::<_, OffsetSet>::new();
        for call in self
            .partitions
            .get(&partition)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            if let Ok(state) = call.decision {
                replayable.entry(state).or_default().insert(call.last);
            }
        }
        replayable
    }

    /// Returns what the plan has.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        if self.accepted > 0 {
            let accepted = LeftOut::NotAskedFor(Replayable::Accepted);
            contents.left_out.insert(accepted, self.accepted);
        }
        for (partition, calls) in &self.partitions {
            for call in calls.values() {
                match call.decision {
                    Ok(state) => {
                        *contents.calls.entry(state).or_default() += 1;
                        match call.currency {
                            Some(currency) => {
                                let code = self.currencies[usize::from(currency.get()) - 1].clone();
                                *contents.money.entry(code).or_default() += u128::from(call.minor_units);
                            }
                            None => contents.without_amount += 1,
                        }
                        contents.offsets.entry(*partition).or_default().insert(call.last);
                    }
                    Err(why) => *contents.left_out.entry(why).or_default() += 1,
                }
            }
        }
        contents
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rejection;
    use super::*;

    const P: Partition = Partition(0);
    const DEFINITE: NotedState = NotedState::Final(Terminal::DeadLetter(Rejection::Definite));
    const ACCEPTED: NotedState = NotedState::Final(Terminal::Accepted);

    fn record(offset: i64, first: i64, state: NotedState) -> Selected<'static> {
        Selected {
            offset: Offset(offset),
            first: Offset(first),
            repeats: None,
            state,
            is_noted_final: true,
            is_selected: true,
            is_early: false,
            is_expired: false,
            money: Some(("EUR", 250)),
        }
    }

    fn plan(asked_for: &[Replayable], records: &[Selected<'_>]) -> Contents {
        let mut planner = Planner::new(asked_for.to_vec());
        for record in records {
            planner.take(P, record);
        }
        let contents = planner.contents();
        let counted: u64 = contents.calls.values().chain(contents.left_out.values()).sum();
        assert_eq!(planner.kept() as u64 + planner.accepted, counted);
        let replayable = planner.replayable(P);
        for (state, offsets) in &replayable {
            assert_eq!(offsets.count(), contents.calls[state]);
        }
        assert_eq!(replayable.len(), contents.calls.len());
        contents
    }

    fn offsets(contents: &Contents) -> Vec<i64> {
        let runs = contents.offsets.get(&P).map(OffsetSet::runs);
        runs.into_iter()
            .flatten()
            .flat_map(|(from, until)| from.0..until.0)
            .collect()
    }

    #[test]
    fn each_state_is_replayed_only_if_asked_for() {
        let rejections = Rejection::ALL.map(|of| NotedState::Final(Terminal::DeadLetter(of)));
        let others = [
            ACCEPTED,
            NotedState::Pending,
            NotedState::PerhapsSent,
            NotedState::Unknown,
            NotedState::Final(Terminal::Parked),
        ];
        let records: Vec<_> = (0..)
            .zip(rejections.into_iter().chain(others))
            .map(|(offset, state)| record(offset, offset, state))
            .collect();
        for (asked_for, expected) in [
            (vec![Replayable::Rejected], vec![0]),
            (vec![Replayable::Ambiguous, Replayable::Settled], vec![1, 2]),
            // Never one that a caller makes, that waits for a settlement, or of which nothing is known.
            (Replayable::ALL.to_vec(), vec![0, 1, 2, 4]),
            // Of which nothing is known: by its key alone.
            (vec![Replayable::Unknown], vec![]),
        ] {
            let contents = plan(&asked_for, &records);
            assert_eq!(offsets(&contents), expected, "{asked_for:?}");
            let counted: u64 = contents.calls.values().chain(contents.left_out.values()).sum();
            assert_eq!(counted, records.len() as u64);
        }
    }

    #[test]
    fn last_record_of_a_call_decides() {
        let only = &[Replayable::Rejected];
        // Deferred once, and then rejected.
        let contents = plan(only, &[record(0, 0, NotedState::Unknown), record(7, 0, DEFINITE)]);
        assert_eq!((offsets(&contents), contents.left_out.len()), (vec![7], 0));
        // Rejected, and replayed before: its copy is pending.
        let contents = plan(only, &[record(0, 0, DEFINITE), record(7, 0, NotedState::Pending)]);
        assert!(offsets(&contents).is_empty());
        assert_eq!(contents.left_out, [(LeftOut::Pending, 1)].into());
        // Rejected, replayed, and accepted: counted once.
        let contents = plan(only, &[record(0, 0, ACCEPTED), record(7, 0, ACCEPTED)]);
        let accepted = LeftOut::NotAskedFor(Replayable::Accepted);
        assert_eq!(contents.left_out, [(accepted, 1)].into());
    }

    #[test]
    fn accepted_call_is_repeated_once_by_one_plan() {
        let repeat = |state| Selected {
            repeats: Some(Offset(0)),
            ..record(7, 7, state)
        };
        let all = Replayable::ALL;
        let pending = plan(&all, &[record(0, 0, ACCEPTED), repeat(NotedState::Pending)]);
        assert_eq!((offsets(&pending), pending.left_out.len()), (vec![], 1));
        let accepted = plan(&all, &[record(0, 0, ACCEPTED), repeat(ACCEPTED)]);
        assert_eq!(offsets(&accepted), [7]);
        let open = Selected {
            is_noted_final: false,
            ..record(0, 0, ACCEPTED)
        };
        assert_eq!(plan(&all, &[open]).left_out, [(LeftOut::InFlight, 1)].into());
    }

    #[test]
    fn call_is_selected_by_any_of_its_records() {
        let unselected = |offset, first, state| Selected {
            is_selected: false,
            ..record(offset, first, state)
        };
        let only = &[Replayable::Rejected];
        let by_first = [record(0, 0, NotedState::Unknown), unselected(7, 0, DEFINITE)];
        assert_eq!(offsets(&plan(only, &by_first)), [7]);
        let by_copy = [unselected(0, 0, NotedState::Unknown), record(7, 0, DEFINITE)];
        assert_eq!(offsets(&plan(only, &by_copy)), [7]);
        let neither = [unselected(0, 0, DEFINITE), unselected(3, 3, ACCEPTED)];
        assert_eq!(plan(only, &neither), Contents::default());
    }

    #[test]
    fn early_and_expired_calls_are_left_out() {
        let early = Selected {
            is_early: true,
            ..record(0, 0, DEFINITE)
        };
        let expired = Selected {
            is_expired: true,
            ..record(1, 1, DEFINITE)
        };
        let contents = plan(&[Replayable::Rejected], &[early, expired]);
        assert!(contents.calls.is_empty());
        assert_eq!(
            contents.left_out,
            [(LeftOut::TooEarly, 1), (LeftOut::KeyExpired, 1)].into()
        );
    }

    #[test]
    fn money_is_summed_by_currency() {
        let of = |offset, money| Selected {
            money,
            ..record(offset, offset, DEFINITE)
        };
        let records = [
            of(0, Some(("EUR", u64::MAX))),
            of(1, Some(("EUR", 1))),
            of(2, Some(("JPY", 5))),
            of(3, None),
        ];
        let contents = plan(&[Replayable::Rejected], &records);
        let expected = [("EUR".to_owned(), 1 << 64), ("JPY".to_owned(), 5)].into();
        assert_eq!((contents.money, contents.without_amount), (expected, 1));
    }
}
