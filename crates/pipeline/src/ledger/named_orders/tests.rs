use records::{Bounds, CallNote};

use super::super::{Ledger, RecordState};
use super::*;

const P: Partition = Partition(0);
const KEY: &[u8] = b"k";

fn at(offset: i64) -> Position {
    Position {
        topic: "outbox".into(),
        partition: P,
        offset: Offset(offset),
    }
}

fn orders() -> NamedOrders {
    NamedOrders::new("outbox", [KEY.to_vec(), b"other".to_vec()])
}

fn record(offset: i64, lineage: Lineage) -> NamedRecord<'static> {
    NamedRecord {
        offset: Offset(offset),
        lineage,
        noted: NotedState::Unknown,
        is_selected: true,
        is_expired: false,
        money: Some(("EUR", 250)),
    }
}

/// Takes in these records of the order, after its terminal records.
fn fold(terminals: &[(Terminal, i64)], records: &[NamedRecord<'_>]) -> NamedOrders {
    let mut orders = orders();
    for (kind, offset) in terminals {
        orders.terminal(KEY, *kind, &at(*offset));
    }
    for record in records {
        orders.pending(KEY, P, record);
    }
    orders
}

/// Returns the offset of the only call that may be made again, or why none may.
fn call(orders: &NamedOrders) -> Result<i64, LeftOut> {
    let contents = orders.contents();
    let replayable = orders.replayable(P);
    match orders.left_out(KEY) {
        None => {
            assert_eq!(contents.calls, [(Replayable::Unknown, 1)].into());
            assert_eq!(replayable[&Replayable::Unknown], contents.offsets[&P]);
            assert_eq!(contents.money, [("EUR".to_owned(), 250)].into());
            let mut runs = contents.offsets[&P].runs();
            let (first, until) = runs.next().expect("an offset");
            assert_eq!(first.next(), until);
            Ok(first.0)
        }
        Some(why) => {
            assert_eq!(contents.left_out, [(why, 1)].into());
            assert!(contents.calls.is_empty() && contents.offsets.is_empty() && replayable.is_empty());
            Err(why)
        }
    }
}

use Lineage::{Continues, Foreign, Original, Repeats};
use Terminal::{Accepted, DeadLetter, Parked};

#[test]
fn order_of_which_nothing_is_known_is_planned() {
    assert_eq!(call(&fold(&[], &[record(7, Original)])), Ok(7));
    // Deferred twice: the last record is the call.
    let deferred = [
        record(7, Original),
        record(9, Continues(Offset(7))),
        record(12, Continues(Offset(7))),
    ];
    assert_eq!(call(&fold(&[], &deferred)), Ok(12));
    // Parked and rejected before, and sent again each time.
    let mut sent_again = fold(&[(DeadLetter(Rejection::Definite), 7), (Parked, 9)], &deferred);
    sent_again.settled(KEY, &at(9));
    assert_eq!(call(&sent_again), Ok(12));
    // Made again by name although accepted, and both outcomes are gone.
    let repeated = [record(7, Original), record(9, Repeats(Offset(7)))];
    assert_eq!(call(&fold(&[], &repeated)), Ok(9));
}

#[test]
fn outcome_with_the_key_counts_whatever_it_names() {
    let accepted = Err(LeftOut::NotAskedFor(Replayable::Accepted));
    for offset in [7, 3, 40] {
        assert_eq!(
            call(&fold(&[(Accepted, offset)], &[record(7, Original)])),
            accepted
        );
    }
    let mut renamed = fold(&[], &[record(7, Original)]);
    let other = Position {
        topic: "backup.outbox".into(),
        ..at(7)
    };
    renamed.terminal(KEY, Accepted, &other);
    assert_eq!(call(&renamed), accepted);
    // That of another order says nothing.
    let mut another = fold(&[], &[record(7, Original)]);
    another.terminal(b"other", Accepted, &at(7));
    another.terminal(b"not named", Accepted, &at(7));
    assert_eq!(call(&another), Ok(7));
}

#[test]
fn call_that_a_caller_may_make_is_left_out() {
    for (noted, why) in [
        (NotedState::Pending, LeftOut::Pending),
        (NotedState::PerhapsSent, LeftOut::InFlight),
    ] {
        let open = |lineage| NamedRecord {
            noted,
            ..record(9, lineage)
        };
        // The copy of another plan, or of an order that came again.
        for lineage in [Continues(Offset(7)), Repeats(Offset(7)), Original, Foreign] {
            assert_eq!(call(&fold(&[], &[record(7, Original), open(lineage)])), Err(why));
        }
    }
}

#[test]
fn call_with_another_state_is_left_out() {
    let only = [record(7, Original)];
    for (kind, why) in [
        (
            DeadLetter(Rejection::Definite),
            LeftOut::NotAskedFor(Replayable::Rejected),
        ),
        (
            DeadLetter(Rejection::Ambiguous),
            LeftOut::NotAskedFor(Replayable::Ambiguous),
        ),
        (
            DeadLetter(Rejection::Settled),
            LeftOut::NotAskedFor(Replayable::Settled),
        ),
        (DeadLetter(Rejection::NotACall), LeftOut::NotACall),
        (Parked, LeftOut::Parked),
    ] {
        assert_eq!(call(&fold(&[(kind, 7)], &only)), Err(why));
    }
    // The strongest evidence of two counts.
    let two = [DeadLetter(Rejection::Settled), DeadLetter(Rejection::Definite)].map(|kind| (kind, 7));
    assert_eq!(
        call(&fold(&two, &only)),
        Err(LeftOut::NotAskedFor(Replayable::Settled))
    );
    let expired = NamedRecord {
        is_expired: true,
        ..only[0]
    };
    assert_eq!(call(&fold(&[], &[expired])), Err(LeftOut::KeyExpired));
}

#[test]
fn copied_records_that_name_others_are_unclear() {
    let unclear = Err(LeftOut::Unclear);
    // Its own record before the copy has another offset than the copy says.
    assert_eq!(
        call(&fold(
            &[],
            &[record(7, Original), record(9, Continues(Offset(3)))]
        )),
        unclear
    );
    assert_eq!(call(&fold(&[], &[record(9, Continues(Offset(3)))])), unclear);
    assert_eq!(call(&fold(&[], &[record(9, Foreign)])), unclear);
    // Twice, as after an aborted transaction was copied.
    assert_eq!(
        call(&fold(&[], &[record(7, Original), record(9, Original)])),
        unclear
    );
    assert_eq!(
        call(&fold(
            &[(DeadLetter(Rejection::Definite), 3)],
            &[record(7, Original)]
        )),
        unclear
    );
    let mut settled = fold(&[(Parked, 3)], &[record(7, Original)]);
    // It waits: `parked settle` would send it again, too.
    assert_eq!(call(&settled), Err(LeftOut::Parked));
    settled.settled(KEY, &at(3));
    assert_eq!(call(&settled), unclear);
}

#[test]
fn earlier_records_may_be_deleted() {
    let mut orders = orders();
    orders.terminal(KEY, DeadLetter(Rejection::Definite), &at(3));
    orders.starts(P, Offset(5));
    orders.pending(KEY, P, &record(9, Continues(Offset(3))));
    assert_eq!(call(&orders), Ok(9));
}

#[test]
fn order_on_two_partitions_is_unclear() {
    let mut orders = fold(&[], &[record(7, Original)]);
    orders.pending(KEY, Partition(1), &record(2, Original));
    assert_eq!(call(&orders), Err(LeftOut::Unclear));
}

#[test]
fn only_selected_orders_are_planned() {
    let unselected = NamedRecord {
        is_selected: false,
        ..record(7, Original)
    };
    let orders = fold(&[], &[unselected]);
    assert_eq!(orders.contents(), Contents::default());
    assert!(orders.replayable(P).is_empty());
    // By any of its records.
    let by_copy = fold(&[], &[unselected, record(9, Continues(Offset(7)))]);
    assert_eq!(call(&by_copy), Ok(9));
}

/// In topics that were not copied, an order may be made again exactly where the ledger says that its call is unknown.
#[test]
fn named_order_agrees_with_the_ledger() {
    // Each history of an original and up to two copies, with up to two terminal records, all or some of them final.
    let kinds = [
        None,
        Some(Accepted),
        Some(Parked),
        Some(DeadLetter(Rejection::Definite)),
        Some(DeadLetter(Rejection::Settled)),
    ];
    let mut planned = 0;
    for records in 1..=3_i64 {
        for committed in 0..=records {
            for (first, last) in kinds.iter().flat_map(|first| kinds.map(|last| (*first, last))) {
                let terminals = [(first, 0), (last, records - 1)];
                let mut ledger = Ledger::new("outbox");
                let mut named = orders();
                ledger.noted(P, Offset(committed), CallNote::default());
                for (kind, offset) in terminals {
                    let Some(kind) = kind else { continue };
                    ledger.terminal(kind, &at(offset), KEY).expect("one key");
                    named.terminal(KEY, kind, &at(offset));
                    // What an operator has sent again was settled before.
                    if kind == Parked && offset < records - 1 {
                        named.settled(KEY, &at(offset));
                    }
                }
                let mut state = NotedState::Pending;
                for offset in 0..records {
                    let continues = (offset > 0).then(|| at(0));
                    let of = ledger
                        .pending(P, Offset(offset), KEY, continues.as_ref())
                        .expect("one key");
                    state = ledger.noted_state(P, Offset(offset), of);
                    let noted = ledger.noted_state(P, Offset(offset), RecordState::Open);
                    let lineage = if offset > 0 {
                        Continues(Offset(0))
                    } else {
                        Original
                    };
                    named.pending(
                        KEY,
                        P,
                        &NamedRecord {
                            noted,
                            ..record(offset, lineage)
                        },
                    );
                }
                let may = call(&named) == Ok(records - 1);
                assert_eq!(
                    may,
                    state == NotedState::Unknown,
                    "{records} {committed} {terminals:?}"
                );
                planned += u32::from(may);
                // And then a lost group makes it ambiguous, which is the same.
                let bounds = Bounds {
                    start: Offset(0),
                    end: Offset(records),
                };
                let recovery = ledger
                    .recover(P, bounds, None, &OffsetSet::new())
                    .expect("a short note");
                assert!(!may || recovery.ambiguous == 1);
            }
        }
    }
    assert!(planned > 5, "{planned}");
}
