//! What a replay can ask for: the states of calls that may be made again, and the reasons against the others.

use std::collections::BTreeSet;

use super::Rejection;

/// State of a call that may be replayed, if it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replayable {
    /// It has a dead letter, and no request of it was processed, as far as its caller knows.
    Rejected,
    /// It has a dead letter, and a request of it had an unknown outcome, or it repeats a call that was accepted, or an outcome
    /// of it may have been deleted.
    Ambiguous,
    /// An operator has settled it as rejected.
    Settled,
    /// It was accepted.
    Accepted,
    /// It is final, and the topics do not say how. Planned by the keys of the orders alone, see
    /// [`NamedOrders`](super::NamedOrders).
    Unknown,
}

/// What a plan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedFor {
    /// Calls in these states, as the records say that name them.
    States(Vec<Replayable>),
    /// Calls of named orders whose outcome is unknown.
    Unknown,
}

/// Reason for which calls whose outcome is unknown cannot be planned like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotPlanUnknown {
    /// No key is named.
    #[error(
        "--state unknown needs the keys of the orders (KEY… or --keys-from FILE): in a group that was begun behind its \
         calls, or whose outcomes have left their topic, the outcome of every earlier call is unknown, so that the plan \
         would charge all of them again. Ask the provider, and name the orders that it has not charged"
    )]
    NoKeys,
    /// Another state is asked for, too.
    #[error("--state unknown cannot be combined with another state: make a plan of each")]
    NotAlone,
    /// Dead letters are selected.
    #[error(
        "--state unknown is of calls without a dead letter: --dead-letter-reason and --status select none of them"
    )]
    ByDeadLetter,
}

/// State that this version does not know, by its name in a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it asks for calls in the state {0:?}, which this version of outbox does not know: run the version that has planned \
     it"
)]
pub struct UnknownState(pub String);

/// Reason for which a selected call is left out of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    /// It may be replayed, but its state was not asked for.
    NotAskedFor(Replayable),
    /// A caller will make it.
    Pending,
    /// A caller makes it now.
    InFlight,
    /// It is parked; settling it is what sends it again.
    Parked,
    /// Its record is no pending call.
    NotACall,
    /// The outbox has several calls of the order, or a record with its key names another call.
    Unclear,
    /// An earlier request of it may still be processed.
    TooEarly,
    /// The API may have forgotten its idempotency key.
    KeyExpired,
}

impl AskedFor {
    /// Returns what these states of an operator's selection ask for. `has_keys`: it names keys. `is_by_dead_letter`: it
    /// selects calls by their dead letters.
    ///
    /// # Errors
    /// Calls whose outcome is unknown cannot be selected like this.
    pub fn of(
        states: impl IntoIterator<Item = Replayable>,
        has_keys: bool,
        is_by_dead_letter: bool,
    ) -> Result<Self, CannotPlanUnknown> {
        let states: BTreeSet<_> = states.into_iter().collect();
        if !states.contains(&Replayable::Unknown) {
            Ok(Self::States(states.into_iter().collect()))
        } else if !has_keys {
            Err(CannotPlanUnknown::NoKeys)
        } else if states.len() > 1 {
            Err(CannotPlanUnknown::NotAlone)
        } else if is_by_dead_letter {
            Err(CannotPlanUnknown::ByDeadLetter)
        } else {
            Ok(Self::Unknown)
        }
    }

    /// Returns what a plan asks for whose states have these names.
    ///
    /// # Errors
    /// A later version has planned it.
    pub fn planned(names: &[String]) -> Result<Self, UnknownState> {
        let states = names
            .iter()
            .map(|name| Replayable::named(name).ok_or_else(|| UnknownState(name.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        match states.as_slice() {
            [Replayable::Unknown] => Ok(Self::Unknown),
            // No plan of this version has it beside others.
            states if states.contains(&Replayable::Unknown) => Err(UnknownState(names.join(", "))),
            _ => Ok(Self::States(states)),
        }
    }

    /// Returns the states.
    #[must_use]
    pub fn states(&self) -> &[Replayable] {
        match self {
            Self::States(states) => states,
            Self::Unknown => &[Replayable::Unknown],
        }
    }
}

impl Replayable {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Rejected,
        Self::Ambiguous,
        Self::Settled,
        Self::Accepted,
        Self::Unknown,
    ];

    /// Returns the state of a call with this dead letter; `None` if it is no call.
    pub(super) const fn of(rejection: Rejection) -> Option<Self> {
        match rejection {
            Rejection::Definite => Some(Self::Rejected),
            Rejection::Ambiguous => Some(Self::Ambiguous),
            Rejection::Settled => Some(Self::Settled),
            Rejection::NotACall => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Returns the name of the state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Ambiguous => "ambiguous",
            Self::Settled => "settled",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the state in words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Ambiguous => {
                "ambiguous: rejected after a request with an unknown outcome, which may have been processed, or after it was \
                 accepted, or admitted before the outcomes that their topic still has"
            }
            Self::Settled => "settled as rejected by an operator",
            Self::Accepted => "accepted: made again, they are charged a second time",
            Self::Unknown => {
                "unknown: final, and the topics do not say how; only the provider knows if they were charged"
            }
        }
    }

    /// Returns whether a call in this state is charged a second time if it was processed. `looks_up`: callers look up a
    /// call that may be processed before they send it.
    #[must_use]
    pub const fn is_charged_again(self, looks_up: bool) -> bool {
        // One that was accepted is charged again whatever callers do.
        matches!(self, Self::Accepted) || (self.may_charge_again() && !looks_up)
    }

    /// Returns whether such a call may be charged a second time. A copy of it remains ambiguous, whatever the API responds to
    /// the copy's own requests.
    #[must_use]
    pub const fn may_charge_again(self) -> bool {
        !matches!(self, Self::Rejected)
    }
}

impl LeftOut {
    /// Returns the reason in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAskedFor(state) => state.in_words(),
            Self::Pending => "pending: a caller will make them",
            Self::InFlight => "in flight: a caller makes them now",
            Self::Parked => "parked: `outbox parked settle --send-again` makes them again",
            Self::NotACall => "no pending calls: callers cannot read their records",
            Self::Unclear => {
                "unclear: the outbox has several calls with their key, or a record with their key names another call, as \
                 in topics that were copied"
            }
            Self::TooEarly => "too early: an earlier request of them may still be processed",
            Self::KeyExpired => "older than api.idempotency_key_lifetime: the API may have forgotten them",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_calls_are_planned_by_keys_alone() {
        use CannotPlanUnknown::{ByDeadLetter, NoKeys, NotAlone};
        use Replayable::{Rejected, Unknown};
        let asked = |states: &[Replayable], has_keys, is_by_dead_letter| {
            AskedFor::of(states.iter().copied(), has_keys, is_by_dead_letter)
        };
        assert_eq!(asked(&[Unknown], true, false), Ok(AskedFor::Unknown));
        assert_eq!(asked(&[Unknown, Unknown], true, false), Ok(AskedFor::Unknown));
        assert_eq!(asked(&[Unknown], false, false), Err(NoKeys));
        assert!(!NoKeys.to_string().contains("  "), "{NoKeys}");
        assert_eq!(asked(&Replayable::ALL, false, true), Err(NoKeys));
        assert_eq!(asked(&[Unknown, Rejected], true, false), Err(NotAlone));
        assert_eq!(asked(&[Unknown], true, true), Err(ByDeadLetter));
        let others = [Rejected, Replayable::Accepted];
        assert_eq!(
            asked(&others, false, true),
            Ok(AskedFor::States(others.to_vec())),
            "others need no keys"
        );
    }

    #[test]
    fn plan_of_a_later_version_is_refused() {
        let planned = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            AskedFor::planned(&names)
        };
        for states in [&Replayable::ALL[..4], &Replayable::ALL[4..]] {
            let names: Vec<_> = states.iter().map(|state| state.as_str()).collect();
            let read = planned(&names).expect("a plan of this version");
            assert_eq!(read.states(), states);
        }
        for names in [
            &["rejected", "undecided"][..],
            &["undecided"],
            &["rejected", "unknown"],
        ] {
            let error = planned(names).expect_err("of a later version").to_string();
            assert!(error.contains("this version of outbox does not know"), "{error}");
            assert!(!error.contains("  "), "{error}");
        }
    }
}
