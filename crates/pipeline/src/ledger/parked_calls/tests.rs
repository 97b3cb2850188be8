//! Tests of the parked calls.

use super::*;

const QUIESCENCE: Duration = Duration::from_secs(65);
const PARKED: Timestamp = Timestamp(1_000_000);
const LATER: Timestamp = Timestamp(1_065_000);
const DECISIONS: [Decision; 3] = [Decision::Accepted, Decision::Rejected, Decision::SendAgain];

fn call(offset: i64) -> Position {
    Position {
        topic: "outbox".into(),
        partition: Partition(0),
        offset: Offset(offset),
    }
}

/// Parked calls 5 and 7, which the group has noted as final.
fn two() -> ParkedCalls<()> {
    let mut parked = ParkedCalls::new("outbox");
    assert!(parked.parked(&call(5), None, PARKED, ()));
    assert!(parked.parked(&call(7), Some(&call(3)), PARKED, ()));
    let note = CallNote {
        finals: [Offset(7)].into_iter().collect(),
        ..CallNote::default()
    };
    parked.noted(Partition(0), Offset(6), note);
    parked.kept_outcomes(|()| true);
    parked
}

fn all(parked: &ParkedCalls<()>, offset: i64, now: Timestamp) -> [Result<(), Unsettled>; 3] {
    DECISIONS.map(|decision| parked.settle(&call(offset), decision, now, QUIESCENCE).map(drop))
}

fn waiting(parked: &ParkedCalls<()>) -> Vec<i64> {
    parked.waiting().map(|(call, _)| call.offset.0).collect()
}

#[test]
fn final_parked_call_is_settled() {
    let parked = two();
    assert_eq!(waiting(&parked), [5, 7]);
    assert_eq!(
        [all(&parked, 5, LATER), all(&parked, 7, LATER)],
        [[Ok(()), Ok(()), Ok(())], [Ok(()), Ok(()), Ok(())]]
    );
    let not_waiting = || Err(Unsettled::NotWaiting);
    assert_eq!(
        all(&parked, 6, LATER),
        [not_waiting(), not_waiting(), not_waiting()]
    );
}

#[test]
fn call_is_settled_once() {
    let mut parked = two();
    parked.settled(&call(5), Decision::Accepted);
    assert_eq!(waiting(&parked), [7]);
    assert!(all(&parked, 5, LATER).iter().all(Result::is_err));
    // Its record was written twice.
    assert!(!parked.parked(&call(5), None, LATER, ()));
    assert_eq!(waiting(&parked), [7]);
}

#[test]
fn call_with_an_outcome_is_not_settled() {
    for (named, continues) in [
        (call(7), Some(call(3))),
        (call(3), None),
        (call(9), Some(call(3))),
    ] {
        let mut parked = two();
        parked.accepted(&named, continues.as_ref());
        let accepted = || Err(Unsettled::Accepted);
        assert_eq!(
            all(&parked, 7, LATER),
            [accepted(), accepted(), accepted()],
            "{named}"
        );
        assert_eq!(waiting(&parked), [5]);
    }
    let mut parked = two();
    parked.dead_letter(&call(7), Some(&call(3)));
    assert_eq!(all(&parked, 7, LATER)[2], Err(Unsettled::DeadLetter));
    // Of other calls.
    parked.accepted(&call(6), None);
    parked.dead_letter(&call(6), None);
    let elsewhere = Position {
        topic: "other".into(),
        ..call(5)
    };
    parked.accepted(&elsewhere, None);
    assert_eq!(waiting(&parked), [5]);
}

#[test]
fn call_that_callers_still_own_is_not_settled() {
    let mut parked = two();
    parked.noted(Partition(0), Offset(5), CallNote::default());
    let open = || Err(Unsettled::Open);
    for offset in [5, 7] {
        assert_eq!(all(&parked, offset, LATER), [open(), open(), open()]);
    }
    let mut without_group = ParkedCalls::new("outbox");
    without_group.parked(&call(5), None, PARKED, ());
    assert_eq!(all(&without_group, 5, LATER), [open(), open(), open()]);
}

#[test]
fn call_is_sent_again_after_its_last_request() {
    let mut parked = two();
    let early = || Err(Unsettled::TooEarly { until: LATER });
    let before = Timestamp(LATER.0 - 1);
    assert_eq!(all(&parked, 5, before), [Ok(()), Ok(()), early()]);
    // Parked again by the next owner of the partition.
    parked.parked(&call(5), None, Timestamp(PARKED.0 + 1), ());
    parked.parked(&call(5), None, PARKED, ());
    assert!(all(&parked, 5, LATER)[2].is_err());
    assert!(all(&parked, 5, Timestamp(LATER.0 + 1))[2].is_ok());
}

#[test]
fn call_whose_outcome_may_be_gone_is_not_sent_again() {
    let mut parked = two();
    assert!(!parked.outcome_may_be_gone(&call(5)));
    let gone = || Err(Unsettled::OutcomeMayBeGone);
    parked.kept_outcomes(|()| false);
    assert!(parked.outcome_may_be_gone(&call(5)));
    assert_eq!(all(&parked, 5, LATER), [Ok(()), Ok(()), gone()]);
    // Not even once its last request cannot be processed any more, nor while it can.
    assert_eq!(all(&parked, 7, PARKED), [Ok(()), Ok(()), gone()]);
    // Whoever has not compared them knows nothing.
    let mut parked = ParkedCalls::new("outbox");
    parked.parked(&call(5), None, PARKED, 1);
    parked.noted(Partition(0), Offset(6), CallNote::default());
    let send_again = |parked: &ParkedCalls<i32>, offset| {
        let sent = parked.settle(&call(offset), Decision::SendAgain, LATER, QUIESCENCE);
        sent.map(drop)
    };
    assert_eq!(send_again(&parked, 5), gone());
    // Each call by its own record.
    parked.parked(&call(3), None, PARKED, 2);
    parked.kept_outcomes(|record| *record == 2);
    assert_eq!([3, 5].map(|offset| send_again(&parked, offset)), [Ok(()), gone()]);
    assert_eq!(parked.unsettled(), 2);
    parked.accepted(&call(3), None);
    assert_eq!((parked.unsettled(), parked.waiting().count()), (2, 1));
}

#[test]
fn calls_sent_again_are_counted() {
    let mut parked = two();
    let counts = |parked: &ParkedCalls<()>| [5, 7, 20, 21, 40].map(|offset| parked.sent_again(&call(offset)));
    assert_eq!(counts(&parked), [0; 5]);
    // Sent again by a settlement, and parked again; so are its copy and the next one.
    parked.settled(&call(5), Decision::SendAgain);
    parked.parked(&call(20), Some(&call(5)), LATER, ());
    assert_eq!(counts(&parked), [0, 0, 1, 0, 0]);
    parked.settled(&call(20), Decision::SendAgain);
    parked.parked(&call(21), Some(&call(5)), LATER, ());
    // Its record was written twice.
    parked.parked(&call(21), Some(&call(5)), LATER, ());
    assert_eq!(counts(&parked), [0, 0, 0, 2, 0]);
    // Other decisions send nothing again.
    parked.settled(&call(7), Decision::Rejected);
    parked.parked(&call(40), Some(&call(3)), LATER, ());
    assert_eq!(counts(&parked), [0, 0, 0, 2, 0]);
}

#[test]
fn replays_of_a_parked_call_are_counted() {
    let mut parked = two();
    let count = |parked: &ParkedCalls<()>| parked.sent_again(&call(7));
    // The call was rejected twice, and replayed each time, before it was parked.
    for (record, first) in [(3, None), (4, Some(call(3))), (3, None)] {
        parked.dead_letter(&call(record), first.as_ref());
    }
    assert_eq!((count(&parked), parked.sent_again(&call(5))), (2, 0));
    // Of a call that was never parked.
    parked.dead_letter(&call(6), None);
    assert_eq!(count(&parked), 2);
}

#[test]
fn repeat_of_an_accepted_call_is_sent_again() {
    let mut parked = ParkedCalls::new("outbox");
    for _ in 0..2 {
        parked.repeated(&call(9));
        parked.parked(&call(9), None, PARKED, ());
    }
    assert_eq!(parked.sent_again(&call(9)), 1);
    parked.settled(&call(9), Decision::SendAgain);
    parked.parked(&call(11), Some(&call(9)), LATER, ());
    assert_eq!(parked.sent_again(&call(11)), 2);
}
