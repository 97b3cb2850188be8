use records::CallNote;

use super::*;

const P: Partition = Partition(1);

fn at(offset: i64) -> Position {
    Position {
        topic: "outbox".into(),
        partition: P,
        offset: Offset(offset),
    }
}

fn set(offsets: &[i64]) -> OffsetSet {
    offsets.iter().copied().map(Offset).collect()
}

/// Folds terminal records, and records of the outbox with the first records that they continue.
fn fold(terminals: &[(Terminal, i64)], pending: &[(i64, Option<i64>)]) -> Ledger {
    let mut ledger = Ledger::new("outbox");
    for (kind, offset) in terminals {
        ledger
            .terminal(*kind, &at(*offset), b"key")
            .expect("the same key");
    }
    for (offset, continues) in pending {
        let continues = continues.map(at);
        ledger
            .pending(P, Offset(*offset), b"key", continues.as_ref())
            .expect("the same key");
    }
    ledger
}

/// Folds as [`fold`] does. Returns the state of the last record.
fn last(terminals: &[(Terminal, i64)], pending: &[(i64, Option<i64>)]) -> RecordState {
    let (last, records) = pending.split_last().expect("a record");
    let mut ledger = fold(terminals, records);
    let continues = last.1.map(at);
    ledger
        .pending(P, Offset(last.0), b"key", continues.as_ref())
        .expect("the same key")
}

fn recover(ledger: &Ledger, start: i64, end: i64) -> Recovery {
    let bounds = Bounds {
        start: Offset(start),
        end: Offset(end),
    };
    ledger
        .recover(P, bounds, None, &OffsetSet::new())
        .expect("a short note")
}

#[test]
fn call_without_a_terminal_record_is_ambiguous() {
    use Terminal::{Accepted, Parked};
    const DEAD_LETTER: Terminal = Terminal::DeadLetter(Rejection::Definite);
    // Offsets 3 and 7 hold markers. An outcome is there twice, and one of a deleted record.
    let terminals = [
        (Accepted, 0),
        (Accepted, 2),
        (DEAD_LETTER, 4),
        (Parked, 5),
        (Accepted, 4),
        (Accepted, 2),
    ];
    let ledger = fold(
        &terminals,
        &[(1, None), (2, None), (4, None), (5, None), (6, None)],
    );
    let recovery = recover(&ledger, 1, 8);
    assert_eq!(recovery.commit_position, Offset(1));
    assert_eq!(recovery.note.intents, set(&[1, 6]));
    assert_eq!(recovery.note.finals, set(&[2, 3, 4, 5, 7]));
    assert_eq!(recovery.ambiguous, 2);
    let counts = ledger.counts(P);
    assert_eq!((counts.records, counts.accepted, counts.parked), (5, 2, 1));
}

#[test]
fn later_copy_is_the_open_record() {
    let ledger = fold(&[], &[(0, None), (1, None), (3, Some(0)), (5, Some(0))]);
    assert_eq!(
        ledger.open(P).collect::<Vec<_>>(),
        [(Offset(0), Offset(5)), (Offset(1), Offset(1))]
    );
    let recovery = recover(&ledger, 0, 7);
    assert_eq!(recovery.commit_position, Offset(1));
    assert_eq!(recovery.note.intents, set(&[1, 5]));
    assert_eq!(ledger.counts(P).deferred, 2);
}

#[test]
fn accepted_call_stays_accepted_in_its_copies() {
    let pending = [(0, None), (3, Some(0)), (5, Some(0))];
    for accepted in [0, 3, 5] {
        let ledger = fold(&[(Terminal::Accepted, accepted)], &pending);
        assert_eq!(recover(&ledger, 0, 7).commit_position, Offset(7), "{accepted}");
    }
    // A parked call may be sent again by an operator: its copy is open.
    let ledger = fold(&[(Terminal::Parked, 0)], &pending);
    assert_eq!(recover(&ledger, 0, 7).note.intents, set(&[5]));
}

#[test]
fn ambiguous_call_stays_ambiguous_in_its_copies() {
    const DEFINITE: Terminal = Terminal::DeadLetter(Rejection::Definite);
    let chain = [(0, None), (3, Some(0)), (5, Some(0))];
    let state = |rejection| RecordState::Final(Terminal::DeadLetter(rejection));
    for earlier in [Rejection::Ambiguous, Rejection::Settled] {
        for at in [0, 3] {
            let terminals = [(Terminal::DeadLetter(earlier), at), (DEFINITE, 5)];
            assert_eq!(last(&terminals, &chain), state(Rejection::Ambiguous), "{at}");
        }
        // If the outbox is read from a later record on.
        let terminals = [(Terminal::DeadLetter(earlier), 0), (DEFINITE, 5)];
        assert_eq!(last(&terminals, &chain[2..]), state(Rejection::Ambiguous));
        // Another call is another call.
        assert_eq!(
            last(&terminals, &[(0, None), (5, None)]),
            state(Rejection::Definite)
        );
    }
    let terminals = [(DEFINITE, 0), (DEFINITE, 3), (DEFINITE, 5)];
    assert_eq!(last(&terminals, &chain), state(Rejection::Definite));
}

/// An operator has it sent again as one that was not processed. Copies of earlier versions have no ambiguous attempt.
#[test]
fn parked_call_stays_ambiguous_in_its_copies() {
    const DEFINITE: Terminal = Terminal::DeadLetter(Rejection::Definite);
    let chain = [(0, None), (3, Some(0)), (5, Some(0)), (7, Some(0))];
    let ambiguous = RecordState::Final(Terminal::DeadLetter(Rejection::Ambiguous));
    for parked in [0, 3] {
        let terminals = [(Terminal::Parked, parked), (DEFINITE, 5), (DEFINITE, 7)];
        assert_eq!(last(&terminals, &chain[..3]), ambiguous, "{parked}");
        assert_eq!(last(&terminals, &chain), ambiguous, "replayed, {parked}");
    }
    // If the outbox is read from a later record on.
    let terminals = [(Terminal::Parked, 0), (DEFINITE, 5)];
    assert_eq!(last(&terminals, &chain[2..3]), ambiguous);
    // Another call is another call.
    let definite = RecordState::Final(DEFINITE);
    assert_eq!(last(&terminals, &[(0, None), (5, None)]), definite);
    // The next owner has parked a rejected call without a request of its own. A replay has made it again.
    let terminals = [(DEFINITE, 0), (Terminal::Parked, 0), (DEFINITE, 3)];
    for records in [&chain[..2], &chain[1..2]] {
        assert_eq!(last(&terminals, records), definite);
    }
    // After one of its own.
    let mut ledger = fold(&terminals, &[]);
    ledger.parked_ambiguous(&at(0));
    let copy = ledger.pending(P, Offset(3), b"key", Some(&at(0)));
    assert_eq!(copy.expect("the same key"), ambiguous);
}

/// Its order was charged: rejected, it must not be made again by default. Copies of earlier versions say nothing of that.
#[test]
fn repeat_of_an_accepted_call_is_ambiguous_if_rejected() {
    const DEFINITE: Terminal = Terminal::DeadLetter(Rejection::Definite);
    let state = |terminals: &[(Terminal, i64)], last: (i64, Option<i64>)| {
        let mut ledger = fold(&[&[(Terminal::Accepted, 0)], terminals].concat(), &[(0, None)]);
        ledger.repeated(P, Offset(3));
        for (offset, continues) in [(3, None), last] {
            let continues = continues.map(at);
            let state = ledger.pending(P, Offset(offset), b"key", continues.as_ref());
            let state = state.expect("the same key");
            if offset == last.0 {
                return state;
            }
        }
        unreachable!("the last one is among them")
    };
    let ambiguous = RecordState::Final(Terminal::DeadLetter(Rejection::Ambiguous));
    assert_eq!(state(&[(DEFINITE, 3)], (3, None)), ambiguous);
    // Deferred, or replayed once it was rejected.
    for terminals in [&[(DEFINITE, 5)][..], &[(DEFINITE, 3), (DEFINITE, 5)]] {
        assert_eq!(state(terminals, (5, Some(3))), ambiguous);
    }
    assert_eq!(state(&[], (3, None)), RecordState::Open);
    let settled = Terminal::DeadLetter(Rejection::Settled);
    for terminal in [Terminal::Accepted, Terminal::Parked, settled] {
        assert_eq!(state(&[(terminal, 3)], (3, None)), RecordState::Final(terminal));
    }
    // A later call of the order, which its producer has sent as a new one.
    assert_eq!(state(&[(DEFINITE, 5)], (5, None)), RecordState::Final(DEFINITE));
}

#[test]
fn dead_letter_is_ambiguous_beside_requests_of_the_next_owner() {
    let state = |rejection: Rejection, is_ambiguous: bool| {
        let terminals = [(Terminal::DeadLetter(rejection), 4), (Terminal::Parked, 4)];
        let mut ledger = fold(&terminals, &[]);
        if is_ambiguous {
            ledger.parked_ambiguous(&at(4));
            ledger.parked_ambiguous(&Position {
                topic: "another".into(),
                ..at(6)
            });
        }
        ledger.pending(P, Offset(4), b"key", None).expect("the same key")
    };
    let dead_letter = |rejection| RecordState::Final(Terminal::DeadLetter(rejection));
    // The next owner has parked the call without a request of its own.
    assert_eq!(
        state(Rejection::Definite, false),
        dead_letter(Rejection::Definite)
    );
    for (rejection, expected) in [
        (Rejection::Definite, Rejection::Ambiguous),
        (Rejection::Ambiguous, Rejection::Ambiguous),
        (Rejection::Settled, Rejection::Settled),
        (Rejection::NotACall, Rejection::NotACall),
    ] {
        assert_eq!(state(rejection, true), dead_letter(expected));
    }
}

#[test]
fn records_of_another_topic_or_partition_say_nothing() {
    let mut ledger = Ledger::new("outbox");
    let other = Position {
        topic: "another".into(),
        ..at(0)
    };
    ledger
        .terminal(Terminal::Accepted, &other, b"key")
        .expect("ignored");
    let elsewhere = Position {
        partition: Partition(2),
        ..at(0)
    };
    for (offset, continues) in [(0, None), (1, Some(&other)), (2, Some(&elsewhere))] {
        let state = ledger.pending(P, Offset(offset), b"key", continues);
        assert_eq!(state, Ok(RecordState::Open));
    }
    assert_eq!(recover(&ledger, 0, 3).note.intents, set(&[0, 1, 2]));
}

#[test]
fn outcome_of_an_earlier_outbox_is_refused() {
    let mut ledger = Ledger::new("outbox");
    ledger
        .terminal(Terminal::Accepted, &at(4), b"old")
        .expect("the first");
    assert_eq!(
        ledger.pending(P, Offset(4), b"new", None),
        Err(ForeignRecord { call: at(4) })
    );
    assert!(ledger.terminal(Terminal::Parked, &at(4), b"new").is_err());
}

#[test]
fn partition_without_open_calls_is_committed_at_its_end() {
    let ledger = fold(&[(Terminal::Accepted, 0)], &[(0, None)]);
    let recovery = recover(&ledger, 0, 2);
    assert_eq!((recovery.commit_position, recovery.ambiguous), (Offset(2), 0));
    assert_eq!(recovery.note, CallNote::default());
}

#[test]
fn call_can_count_as_final_without_a_terminal_record() {
    let ledger = fold(
        &[(Terminal::Accepted, 1)],
        &[(0, None), (1, None), (2, None), (3, Some(2)), (4, None)],
    );
    let bounds = Bounds {
        start: Offset(0),
        end: Offset(5),
    };
    // 2 has a copy, which is the open record of its call.
    let recovered = |left: &[i64]| ledger.recover(P, bounds, None, &set(left)).expect("a short note");
    let (all, left) = (recovered(&[]), recovered(&[0, 2]));
    assert_eq!((all.commit_position, all.ambiguous), (Offset(0), 3));
    assert_eq!(
        (left.commit_position, left.note.intents),
        (Offset(3), set(&[3, 4]))
    );
    assert_eq!(recovered(&[0, 3, 4]).note, CallNote::default());
}

#[test]
fn scattered_calls_are_exact_or_refused() {
    let recover = |offsets: i64| {
        let open: Vec<_> = (0..offsets)
            .filter(|offset| offset % 2 == 0)
            .map(|at| (at, None))
            .collect();
        let bounds = Bounds {
            start: Offset(0),
            end: Offset(offsets),
        };
        fold(&[], &open).recover(P, bounds, None, &OffsetSet::new())
    };
    let small = recover(12_000).expect("both sets fit");
    assert_eq!(small.note.intents.count(), 6_000);
    let large = recover(24_000).expect("the final calls fit");
    assert_eq!(large.note.intents.count(), 24_000, "one run");
    assert_eq!(large.note.finals.count(), 12_000);
    let refused = recover(26_000).expect_err("too long").to_string();
    assert!(refused.contains("13000 open calls"), "{refused}");
}

#[test]
fn note_tells_what_may_still_be_sent() {
    let mut ledger = Ledger::new("outbox");
    let note = CallNote {
        outbox: None,
        intents: set(&[5, 6]),
        finals: set(&[6, 7]),
    };
    ledger.noted(P, Offset(4), note);
    for (rejection, offset) in [
        (Rejection::Ambiguous, 3),
        (Rejection::Definite, 3),
        (Rejection::Definite, 8),
    ] {
        let terminal = Terminal::DeadLetter(rejection);
        ledger
            .terminal(terminal, &at(offset), b"key")
            .expect("the same key");
    }
    for (kind, offset) in [(Terminal::Accepted, 4), (Terminal::Parked, 7)] {
        ledger.terminal(kind, &at(offset), b"key").expect("the same key");
    }
    let states: Vec<_> = (2..=8)
        .map(|offset| {
            let state = ledger
                .pending(P, Offset(offset), b"key", None)
                .expect("the same key");
            ledger.noted_state(P, Offset(offset), state)
        })
        .collect();
    use NotedState::{Final, Pending, PerhapsSent, Unknown};
    let ambiguous = Terminal::DeadLetter(Rejection::Ambiguous);
    let expected = [
        Unknown,
        Final(ambiguous),
        Final(Terminal::Accepted),
        PerhapsSent,
        Unknown,
        Final(Terminal::Parked),
        Pending,
    ];
    assert_eq!(states, expected);
    // Nothing is known of a group without offsets.
    let other = Ledger::new("outbox");
    assert_eq!(other.noted_state(P, Offset(0), RecordState::Open), Pending);
}
