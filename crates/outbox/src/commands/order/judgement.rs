//! Judgement on an order: the state of its last call, and whether it may be called again.

use std::collections::BTreeMap;

use pipeline::ledger::{LeftOut, NotedState, Rejection, Replayable, Terminal};
use records::{Offset, Partition, Timestamp};
use serde::Serialize;

use super::reading::{Pending, Read};
use crate::config::Config;

/// State of a call. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Judged {
    /// Position of the call's last record.
    pub(super) last: String,
    pub(super) state: &'static str,
    #[serde(skip)]
    noted: NotedState,
    #[serde(skip)]
    is_early: bool,
    #[serde(skip)]
    is_expired: bool,
}

/// Returns the states of the order's calls, the last one last.
pub(super) fn judge(read: &Read, config: &Config) -> Vec<Judged> {
    // The last record of each call.
    let mut calls: BTreeMap<(Partition, Offset), &(Pending, NotedState)> = BTreeMap::new();
    for of in &read.pending {
        calls.insert((of.0.partition, of.0.first), of);
    }
    let mut last: Vec<_> = calls.into_values().collect();
    last.sort_by_key(|(of, _)| (of.partition, of.offset));
    let now = Timestamp::now();
    last.into_iter()
        .map(|(of, noted)| Judged {
            last: format!("{}/{}@{}", config.topics.pending, of.partition, of.offset),
            state: name(*noted),
            noted: *noted,
            is_early: of.is_early,
            is_expired: config.is_key_expired(of.admitted_at, now) && !config.looks_up(),
        })
        .collect()
}

const fn name(state: NotedState) -> &'static str {
    match state {
        NotedState::Pending => "pending",
        NotedState::PerhapsSent => "perhaps-sent",
        NotedState::Unknown => "unknown",
        NotedState::Final(Terminal::Accepted) => "accepted",
        NotedState::Final(Terminal::Parked) => "parked",
        NotedState::Final(Terminal::DeadLetter(Rejection::Definite)) => "rejected",
        NotedState::Final(Terminal::DeadLetter(Rejection::Ambiguous)) => "ambiguous",
        NotedState::Final(Terminal::DeadLetter(Rejection::Settled)) => "settled",
        NotedState::Final(Terminal::DeadLetter(Rejection::NotACall)) => "not-a-call",
    }
}

/// Returns in one sentence whether the order may be called again, and why.
pub(super) fn sentence(key: &str, calls: &[Judged], read: &Read) -> String {
    let Some(last) = calls.last() else {
        return match read.is_refused {
            true => format!(
                "{key} was never called: a validator has refused it. A corrected order with this key is a new one."
            ),
            false => format!(
                "There is nothing of {key}: no validator has admitted it, or the outbox no longer has it (see its \
                 retention), or its partition is hashed otherwise; the record keys of the outbox are idempotency keys."
            ),
        };
    };
    if calls
        .iter()
        .any(|call| call.noted == NotedState::Final(Terminal::Accepted))
        && last.noted != NotedState::Final(Terminal::Accepted)
    {
        return format!(
            "{key} was accepted before, and an operator has it made again: {}",
            words(key, last, read)
        );
    }
    words(key, last, read)
}

fn words(key: &str, last: &Judged, read: &Read) -> String {
    let paused = match read.is_paused {
        true => " once the calls are resumed (`outbox resume`)",
        false => "",
    };
    match last.noted {
        NotedState::Pending => {
            format!("{key} must not be called again: a caller will make the call{paused}.")
        }
        NotedState::PerhapsSent => format!(
            "{key} must not be called again: a caller has sent it, or is about to, and decides on it{paused}."
        ),
        NotedState::Final(Terminal::Accepted) => {
            format!("{key} must not be called again: it was accepted, and would be charged a second time.")
        }
        NotedState::Final(Terminal::Parked) if read.outcome_may_be_gone => format!(
            "{key} must not be called again unless the API's own records say that it was not charged: it is parked, and may \
             have been accepted, for the topic of the outcomes no longer has all that came after it was admitted (`outbox \
             parked show {key}`; `outbox parked settle {key}` with --accepted or --rejected)."
        ),
        NotedState::Final(Terminal::Parked) => format!(
            "{key} may be called again only after you have found out whether the API has processed it: its outcome is \
             unknown, and it is parked (`outbox parked show {key}`, `outbox parked settle {key}`)."
        ),
        NotedState::Final(Terminal::DeadLetter(Rejection::NotACall)) => {
            format!("{key} cannot be called: its record is no pending call that a caller can read.")
        }
        NotedState::Final(Terminal::DeadLetter(_)) if last.is_early => format!(
            "{key} may not be called again yet: it was rejected, and an earlier request may still be processed."
        ),
        NotedState::Final(Terminal::DeadLetter(_)) if last.is_expired => format!(
            "{key} must not be called again: it is older than api.idempotency_key_lifetime, so that the API may have \
             forgotten a request that it has processed."
        ),
        NotedState::Final(Terminal::DeadLetter(Rejection::Definite)) if read.outcome_may_be_gone => format!(
            "{key} may be called again only after you have found out whether the API has processed it: it was rejected, and \
             may have been accepted before, for the topic of the outcomes no longer has all that came after it was admitted \
             (`outbox replay plan {key} --state ambiguous`)."
        ),
        NotedState::Final(Terminal::DeadLetter(Rejection::Definite)) => format!(
            "{key} may be called again: it was rejected, and no request of it was processed \
             (`outbox replay plan {key}`)."
        ),
        NotedState::Final(Terminal::DeadLetter(Rejection::Ambiguous)) => format!(
            "{key} may be called again only after you have found out whether the API has processed it: it was \
             rejected after a request with an unknown outcome (`outbox replay plan {key} --state ambiguous`)."
        ),
        NotedState::Final(Terminal::DeadLetter(Rejection::Settled)) => format!(
            "{key} may be called again only if the operator who settled it as rejected was right that the API has not \
             processed it (`outbox replay plan {key} --state settled`)."
        ),
        NotedState::Unknown => unknown(key, last, read.left_out),
    }
}

fn unknown(key: &str, last: &Judged, left_out: Option<LeftOut>) -> String {
    match left_out {
        Some(LeftOut::NotAskedFor(Replayable::Accepted)) => format!(
            "{key} must not be called again: an outcome with its key says that it was accepted, and names another call, \
             as in topics that were copied."
        ),
        Some(LeftOut::Parked) => format!(
            "{key} may be called again only after you have found out whether the API has processed it: it is parked, by a \
             record that names another call, as in topics that were copied (`outbox parked show {key}`, `outbox parked \
             settle {key}`)."
        ),
        Some(why) => format!(
            "{key} must not be called again: its last call is final, and the topics do not say how; ask the provider. No \
             replay makes it again ({}).",
            why.as_str()
        ),
        None if last.is_expired => format!(
            "{key} must not be called again: it is final, the topics do not say how, and it is older than \
             api.idempotency_key_lifetime, so that the API may have forgotten a request that it has processed."
        ),
        None => format!(
            "{key} may be called again only if the provider says that it was not charged: it is final, and the topics do \
             not say how; ask the provider first (`outbox replay plan {key} --state unknown`)."
        ),
    }
}

#[cfg(test)]
mod tests {
    use pipeline::ledger::{Ledger, NamedOrders};

    use super::*;

    fn read(states: &[(i64, i64, NotedState)]) -> Read {
        Read {
            events: Vec::new(),
            ledger: Ledger::new("outbox"),
            orders: NamedOrders::new("outbox", []),
            left_out: None,
            pending: states
                .iter()
                .map(|(offset, first, state)| {
                    let of = Pending {
                        partition: Partition(0),
                        offset: Offset(*offset),
                        admitted_at: Some(Timestamp(0)),
                        first: Offset(*first),
                        is_early: false,
                    };
                    (of, *state)
                })
                .collect(),
            outcome_may_be_gone: false,
            is_paused: false,
            is_refused: false,
        }
    }

    fn told(read: &Read) -> String {
        sentence("k", &judge(read, &Config::default()), read)
    }

    #[test]
    fn last_record_decides() {
        let rejected = NotedState::Final(Terminal::DeadLetter(Rejection::Definite));
        let accepted = NotedState::Final(Terminal::Accepted);
        assert!(
            told(&read(&[(0, 0, NotedState::Unknown), (4, 0, rejected)]))
                .contains("may be called again: it was rejected")
        );
        assert!(
            told(&read(&[(0, 0, rejected), (4, 0, NotedState::Pending)]))
                .contains("a caller will make the call")
        );
        assert!(told(&read(&[(0, 0, accepted)])).contains("charged a second time"));
        let repeated = told(&read(&[(0, 0, accepted), (4, 4, NotedState::PerhapsSent)]));
        assert!(repeated.starts_with("k was accepted before"), "{repeated}");
    }

    #[test]
    fn each_state_is_answered() {
        let rejections = [
            Rejection::Definite,
            Rejection::Ambiguous,
            Rejection::Settled,
            Rejection::NotACall,
        ];
        let others = [
            NotedState::Pending,
            NotedState::PerhapsSent,
            NotedState::Unknown,
            NotedState::Final(Terminal::Parked),
        ];
        let states = rejections
            .map(|of| NotedState::Final(Terminal::DeadLetter(of)))
            .into_iter()
            .chain(others);
        let may = states.filter(|state| told(&read(&[(0, 0, *state)])).contains("k may be called again:"));
        assert_eq!(may.count(), 1, "the one that was rejected for sure");
        assert!(told(&read(&[])).contains("There is nothing of k"));
    }

    #[test]
    fn unknown_call_is_up_to_the_provider() {
        let mut order = read(&[(0, 0, NotedState::Unknown)]);
        let words = told(&order);
        assert!(
            words.contains("only if the provider says that it was not charged"),
            "{words}"
        );
        assert!(words.contains("outbox replay plan k --state unknown"), "{words}");
        for (why, expected) in [
            (
                LeftOut::NotAskedFor(Replayable::Accepted),
                "an outcome with its key",
            ),
            (LeftOut::Parked, "outbox parked settle k"),
            (LeftOut::Unclear, "several calls with their key"),
        ] {
            order.left_out = Some(why);
            let words = told(&order);
            assert!(
                words.contains(expected) && !words.contains("replay plan"),
                "{words}"
            );
        }
        order.left_out = None;
        order.pending[0].0.admitted_at = None;
        let config = Config::with_key_lifetime(std::time::Duration::from_secs(1));
        let expired = sentence("k", &judge(&order, &config), &order);
        assert!(expired.contains("api.idempotency_key_lifetime"), "{expired}");
    }

    #[test]
    fn early_and_expired_calls_are_not_called() {
        let rejected = NotedState::Final(Terminal::DeadLetter(Rejection::Definite));
        let mut early = read(&[(0, 0, rejected)]);
        early.pending[0].0.is_early = true;
        assert!(told(&early).contains("may not be called again yet"));
        let mut gone = read(&[(0, 0, rejected)]);
        gone.outcome_may_be_gone = true;
        assert!(told(&gone).contains("may have been accepted before"));
        let mut gone = read(&[(0, 0, NotedState::Final(Terminal::Parked))]);
        assert!(told(&gone).contains("may be called again only after"));
        gone.outcome_may_be_gone = true;
        assert!(
            told(&gone).contains("must not be called again unless"),
            "{}",
            told(&gone)
        );
        let mut paused = read(&[(0, 0, NotedState::Pending)]);
        paused.is_paused = true;
        assert!(told(&paused).contains("outbox resume"));
    }
}
