use std::convert::Infallible;

use super::*;
use crate::admission::{KeySource, Partitioner, RecordKey};

struct Bench {
    admission: Admission<&'static str>,
    start: Instant,
    stores: HashMap<String, Entry>,
}

impl Bench {
    /// Partitions 0 and 1, running.
    fn running() -> Self {
        let rules = Rules {
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            partitioner: Partitioner::Any,
            partitions: 2,
            record_bytes_max: 1 << 20,
        };
        let limits = Limits {
            commit_interval: Duration::from_millis(20),
            orders_max: 3,
            bytes_max: 1 << 20,
        };
        let start = Instant::now();
        let admission = Admission::new(rules, limits, start);
        let mut bench = Self {
            admission,
            start,
            stores: HashMap::new(),
        };
        assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
        assert!(bench.on(Event::ProducerOpened).is_empty());
        let assigned = bench.on(Event::Assigned(
            vec![Partition(0), Partition(1)],
            generation("member 1", "generation 1"),
        ));
        assert_eq!(names(&assigned), ["Accept", "Restore", "Restore"]);
        bench.restored(0, 1);
        bench.restored(1, 2);
        bench
    }

    fn on(&mut self, event: Event<&'static str>) -> Vec<Action<&'static str>> {
        self.admission.on(event, self.start)
    }

    fn restored(&mut self, partition: i32, token: u64) {
        let actions = self.on(Event::Restored(Partition(partition), Token(token), Offset(0)));
        assert_eq!(names(&actions), ["Start"]);
    }

    fn order(&mut self, partition: i32, offset: i64, id: &str) -> Taken {
        self.order_at(Timestamp(1), partition, offset, id)
    }

    fn order_at(&mut self, wall: Timestamp, partition: i32, offset: i64, id: &str) -> Taken {
        let value = format!(r#"{{"order_id":"{id}","amount":1,"currency":"EUR","customer_id":"c"}}"#);
        let input = Input {
            partition: Partition(partition),
            offset: Offset(offset),
            key: Some(id.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
            unreadable_header: None,
        };
        let stores = &self.stores;
        let looked_up: Result<_, Infallible> = self.admission.admit(&input, wall, self.start, |key| {
            Ok(stores.get(key.as_str()).copied())
        });
        let Ok(taken) = looked_up;
        taken
    }
}

/// The names of the actions, in their order.
fn names<M: std::fmt::Debug>(actions: &[Action<M>]) -> Vec<String> {
    let name = |text: String| text.split('(').next().unwrap_or_default().to_owned();
    actions.iter().map(|action| name(format!("{action:?}"))).collect()
}

fn generation(member_id: &str, metadata: &'static str) -> Membership<&'static str> {
    Membership {
        member_id: member_id.into(),
        metadata,
    }
}

fn is_duplicate(taken: &Taken) -> bool {
    matches!(
        taken,
        Taken::Decided {
            verdict: Verdict::Duplicate { .. },
            ..
        }
    )
}

/// The wall clock is told in the entry and decides nothing: neither what an order is nor when its transaction
/// ends, however the clock jumps meanwhile.
#[test]
fn the_wall_clock_may_jump() {
    let told = |walls: [i64; 4]| {
        let mut bench = Bench::running();
        let mut walls = walls.map(Timestamp).into_iter();
        let mut order = |bench: &mut Bench, offset, id| {
            let wall = walls.next().expect("a time for each");
            let taken = bench.order_at(wall, 0, offset, id);
            if let Taken::Decided {
                verdict: Verdict::Admit { entry, .. },
                ..
            } = &taken
            {
                assert_eq!(entry.admitted_at, wall, "it is told as it was");
            }
            is_duplicate(&taken)
        };
        let duplicates = [
            order(&mut bench, 0, "a"),
            order(&mut bench, 1, "a"),
            order(&mut bench, 2, "b"),
            order(&mut bench, 3, "b"),
        ];
        let due = bench.admission.due().map(|due| due - bench.start);
        (duplicates, due)
    };
    let steady = told([1_000, 1_001, 1_002, 1_003]);
    assert_eq!(steady.0, [false, true, false, true]);
    assert_eq!(told([1_000, -5_000, i64::MAX, 0]), steady);
    assert_eq!(told([i64::MAX, 0, i64::MIN, 7]), steady);
}

#[test]
fn after_an_end_that_may_come_again_the_store_has_its_keys_and_the_producer_is_replaced() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    let reached = HashMap::from([(Partition(0), Offset(1))]);
    let actions = bench.on(Event::CommittedRetireProducer(reached));
    assert_eq!(names(&actions), ["Apply", "Pause", "Abandon"]);
    assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
    assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
    assert_eq!(
        names(&bench.on(Event::ProducerOpened)),
        ["Restore", "Restore"],
        "and each partition begins where it was committed"
    );
}

#[test]
fn a_transaction_ends_when_it_is_due_and_reaches_the_store_when_committed() {
    let mut bench = Bench::running();
    assert!(matches!(
        bench.order(0, 0, "a"),
        Taken::Decided { begins: true, .. }
    ));
    assert!(
        is_duplicate(&bench.order(0, 1, "a")),
        "a duplicate within the transaction"
    );
    assert!(bench.on(Event::Tick).is_empty(), "neither full nor due");
    let later = bench.start + Duration::from_millis(20);
    let end = bench.admission.on(Event::Tick, later);
    assert!(
        matches!(&end[..], [Action::End(offsets, "generation 1")] if offsets[..] == [(Partition(0), Offset(2))]),
        "{end:?}"
    );
    let applied = bench.on(Event::Committed([(Partition(0), Offset(9))].into()));
    assert!(
        matches!(&applied[..], [Action::Apply(Partition(0), entries, Offset(9))] if entries.len() == 1),
        "{applied:?}"
    );
    assert!(matches!(
        bench.order(1, 0, "b"),
        Taken::Decided { begins: true, .. }
    ));
}

#[test]
fn a_full_transaction_is_due_at_once() {
    let mut bench = Bench::running();
    for (offset, id) in ["a", "b", "c"].into_iter().enumerate() {
        bench.order(0, i64::try_from(offset).expect("small"), id);
    }
    assert_eq!(names(&bench.on(Event::Tick)), ["End"]);
}

#[test]
fn a_revoke_ends_the_transaction_before_the_partition_goes() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    let actions = bench.on(Event::Revoked(
        vec![Partition(0)],
        generation("member 1", "generation 2"),
    ));
    assert_eq!(names(&actions), ["End", "Close", "GiveUp"]);
    assert!(
        matches!(&actions[0], Action::End(_, "generation 2")),
        "{actions:?}"
    );
    assert_eq!(
        names(&bench.on(Event::Committed([(Partition(0), Offset(2))].into()))),
        ["Apply"]
    );
    assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
}

#[test]
fn a_member_that_joined_anew_without_hearing_of_it_starts_over() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    let same = bench.on(Event::Assigned(
        Vec::new(),
        generation("member 1", "generation 2"),
    ));
    assert_eq!(names(&same), ["Accept"], "the next generation");
    let other = bench.on(Event::Assigned(
        Vec::new(),
        generation("member 2", "generation 4"),
    ));
    assert_eq!(names(&other), ["Pause", "Abandon", "Accept"]);
    assert_eq!(bench.on(Event::ProducerOpened).len(), 2, "both are restored");
}

/// Its transaction was begun as a member that others have replaced since; under the new membership Kafka
/// would take it, and beside it that of the new owner.
#[test]
fn a_member_that_joined_anew_commits_nothing_of_what_is_revoked() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    let actions = bench.on(Event::Revoked(
        vec![Partition(0)],
        generation("member 2", "generation 4"),
    ));
    assert_eq!(names(&actions), ["Pause", "Abandon", "Close", "GiveUp"]);
    assert_eq!(bench.on(Event::ProducerOpened).len(), 1, "the other is restored");
}

/// The old restore knows the committed offset and the changelog's end of a time when another member was
/// about to work on the partition.
#[test]
fn a_restore_of_a_former_member_counts_for_nothing() {
    let mut bench = Bench::running();
    let first = bench.on(Event::Assigned(
        vec![Partition(2)],
        generation("member 1", "generation 2"),
    ));
    assert_eq!(names(&first), ["Accept", "Restore"]);
    let again = bench.on(Event::Assigned(
        Vec::new(),
        generation("member 2", "generation 4"),
    ));
    assert_eq!(names(&again), ["Pause", "CancelRestore", "Abandon", "Accept"]);
    let late = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn a_lost_partition_commits_nothing() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    let actions = bench.on(Event::Lost(vec![Partition(0), Partition(1)]));
    assert_eq!(names(&actions), ["Pause", "Abandon", "Close", "Close", "GiveUp"]);
    assert!(bench.on(Event::ProducerOpened).is_empty());
}

#[test]
fn who_is_expelled_holds_nothing_and_begins_again_as_at_the_start() {
    let mut bench = Bench::running();
    let third = bench.on(Event::Assigned(
        vec![Partition(2)],
        generation("member 1", "generation 2"),
    ));
    assert_eq!(names(&third), ["Accept", "Restore"]);
    bench.order(0, 0, "a");
    let actions = bench.on(Event::Expelled);
    assert_eq!(
        names(&actions),
        ["Abandon", "Close", "Close", "CancelRestore", "Close"],
        "and nothing of the consumer"
    );
    assert!(bench.admission.partitions().is_empty());
    assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
    let late = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
    assert!(late.is_empty(), "{late:?}");

    assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
    assert!(bench.on(Event::ProducerOpened).is_empty());
    let assigned = bench.on(Event::Assigned(
        vec![Partition(2)],
        generation("member 2", "generation 4"),
    ));
    assert_eq!(names(&assigned), ["Accept", "Restore"]);
    let former = bench.on(Event::Restored(Partition(2), Token(3), Offset(0)));
    assert!(former.is_empty(), "the restore of the former life: {former:?}");
    bench.restored(2, 4);
}

#[test]
fn every_doubt_is_resolved_by_a_new_producer_and_a_restore() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    assert_eq!(names(&bench.on(Event::Failed)), ["Pause", "Abandon"]);
    assert!(matches!(bench.order(0, 0, "a"), Taken::NotRunning));
    assert_eq!(names(&bench.on(Event::Tick)), ["OpenProducer"]);
    let again = bench.start + PRODUCER_AGAIN;
    assert!(bench.on(Event::ProducerFailed).is_empty());
    assert_eq!(bench.admission.due(), Some(again));
    assert!(bench.on(Event::Tick).is_empty(), "not yet");
    assert_eq!(names(&bench.admission.on(Event::Tick, again)), ["OpenProducer"]);
    assert_eq!(names(&bench.on(Event::ProducerOpened)), ["Restore", "Restore"]);
    assert!(
        bench
            .on(Event::Restored(Partition(0), Token(1), Offset(0)))
            .is_empty(),
        "an old answer"
    );
    bench.restored(0, 3);
    assert!(
        matches!(
            bench.order(0, 0, "a"),
            Taken::Decided {
                verdict: Verdict::Admit { .. },
                begins: true
            }
        ),
        "the overlay of the failed transaction is gone"
    );
}

#[test]
fn what_goes_on_failing_is_tried_again_at_intervals_until_something_is_committed() {
    let mut bench = Bench::running();
    for _ in 0..PROMPT_MAX {
        bench.on(Event::Failed);
        assert_eq!(bench.admission.due(), Some(bench.start), "at once");
        bench.on(Event::ProducerOpened);
    }
    bench.on(Event::Failed);
    assert_eq!(bench.admission.due(), Some(bench.start + PRODUCER_AGAIN));
    let restores = bench.on(Event::ProducerOpened);
    let [Action::Restore(_, Token(token)), _] = restores[..] else {
        panic!("{restores:?}");
    };
    bench.restored(0, token);
    bench.order(0, 0, "a");
    bench.on(Event::Committed([(Partition(0), Offset(2))].into()));
    bench.on(Event::Failed);
    assert_eq!(bench.admission.due(), Some(bench.start), "at once again");
}

#[test]
fn a_failed_store_is_discarded_and_restored() {
    let mut bench = Bench::running();
    let actions = bench.on(Event::StoreFailed(Partition(1)));
    assert_eq!(names(&actions), ["Pause", "Abandon", "Discard"]);
}

#[test]
fn a_refused_partition_stands_still_while_others_go_on() {
    let mut bench = Bench::running();
    assert_eq!(
        names(&bench.on(Event::Assigned(
            vec![Partition(2)],
            generation("member 1", "generation 2")
        ))),
        ["Accept", "Restore"]
    );
    assert!(
        bench
            .on(Event::RestoreRefused(Partition(2), Token(3), "a gap".into()))
            .is_empty()
    );
    assert!(matches!(bench.order(2, 0, "x"), Taken::NotRunning));
    assert!(matches!(bench.order(0, 0, "a"), Taken::Decided { .. }));
    assert_eq!(names(&bench.on(Event::Failed)), ["Pause", "Abandon"]);
    assert_eq!(
        bench.on(Event::ProducerOpened).len(),
        2,
        "the refused one is not restored"
    );
    bench.restored(0, 4);
    bench.restored(1, 5);
    bench.on(Event::Assigned(
        Vec::new(),
        generation("member 2", "generation 4"),
    ));
    assert_eq!(
        bench.on(Event::ProducerOpened).len(),
        3,
        "by a new member it is looked at again"
    );
}

#[test]
fn a_stop_ends_the_transaction_and_leaves() {
    let mut bench = Bench::running();
    bench.order(0, 0, "a");
    assert_eq!(names(&bench.on(Event::Stop)), ["End", "Close", "Close", "Leave"]);
    assert!(matches!(bench.order(0, 1, "b"), Taken::NotRunning));
}
