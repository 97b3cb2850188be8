use std::convert::Infallible;

use records::{Forgotten, Selection};

use super::*;
use crate::admission::{KeySource, OrderForm, Partitioner, RecordKey};

struct Fixture {
    admission: Admission<&'static str>,
    start: Instant,
    stores: HashMap<String, Entry>,
    record_at: Option<Timestamp>,
}

impl Fixture {
    /// Returns a state machine with partitions 0 and 1 running.
    fn running() -> Self {
        let rules = Rules {
            form: OrderForm::BuiltIn(records::AmountForm::MinorUnits),
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            fingerprint: Selection::Order,
            partitioner: Partitioner::Any,
            partitions: 2,
            record_bytes_max: 1 << 20,
        };
        let limits = TransactionLimits {
            commit_interval: Duration::from_millis(20),
            backlog_interval: Duration::from_millis(100),
            orders_max: 3,
            bytes_max: 1 << 20,
        };
        let start = Instant::now();
        let admission = Admission::new(rules, limits, start);
        let mut fixture = Self {
            admission,
            start,
            stores: HashMap::new(),
            record_at: Some(Timestamp(1)),
        };
        assert_eq!(names(&fixture.on(Event::Tick)), ["OpenProducer"]);
        assert!(fixture.on(Event::ProducerOpened).is_empty());
        let assigned = fixture.on(Event::Assigned(
            vec![Partition(0), Partition(1)],
            membership("member 1", "generation 1"),
        ));
        assert_eq!(names(&assigned), ["Accept", "Restore", "Restore"]);
        fixture.restored(0, 1);
        fixture.restored(1, 2);
        fixture
    }

    fn on(&mut self, event: Event<&'static str>) -> Vec<Action<&'static str>> {
        self.admission.on(event, self.start)
    }

    fn restored(&mut self, partition: i32, id: u64) {
        self.restored_at(partition, id, 0);
    }

    fn restored_at(&mut self, partition: i32, id: u64, checkpoint: i64) {
        let actions = self.on(Event::Restored {
            partition: Partition(partition),
            id: RestoreId(id),
            next: Offset(0),
            checkpoint: Offset(checkpoint),
            window: Window::default(),
        });
        assert_eq!(names(&actions), ["Start"]);
    }

    fn order(&mut self, partition: i32, offset: i64, id: &str) -> AdmitResult {
        self.order_at(Timestamp(1), partition, offset, id)
    }

    fn order_at(&mut self, wall: Timestamp, partition: i32, offset: i64, id: &str) -> AdmitResult {
        let value = format!(r#"{{"order_id":"{id}","amount":1,"currency":"EUR","customer_id":"c"}}"#);
        let input = Input {
            partition: Partition(partition),
            offset: Offset(offset),
            at: self.record_at,
            key: Some(id.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
            unreadable_header: None,
        };
        let stores = &self.stores;
        let looked_up: Result<_, Infallible> = self.admission.admit(&input, wall, self.start, |key, _| {
            Ok(stores.get(key.as_str()).copied())
        });
        let Ok(taken) = looked_up;
        taken
    }
}

/// Returns the names of the actions, in their order.
fn names<M: std::fmt::Debug>(actions: &[Action<M>]) -> Vec<String> {
    let name = |text: String| text.split('(').next().unwrap_or_default().to_owned();
    actions.iter().map(|action| name(format!("{action:?}"))).collect()
}

fn restored<M>(partition: i32, id: u64) -> Event<M> {
    Event::Restored {
        partition: Partition(partition),
        id: RestoreId(id),
        next: Offset(0),
        checkpoint: Offset(0),
        window: Window::default(),
    }
}

fn next(partition: i32, offset: i64) -> NextOffset {
    NextOffset {
        partition: Partition(partition),
        offset: Offset(offset),
        forgotten: None,
    }
}

fn membership(member_id: &str, metadata: &'static str) -> Membership<&'static str> {
    Membership {
        member_id: member_id.into(),
        metadata,
    }
}

fn is_duplicate(taken: &AdmitResult) -> bool {
    matches!(
        taken,
        AdmitResult::Decided {
            verdict: Verdict::Duplicate { .. },
            ..
        }
    )
}

/// The wall clock is recorded in the entry. It decides neither the verdict nor the end of the transaction.
#[test]
fn markers_behind_the_last_order_are_committed() {
    let mut fixture = Fixture::running();
    let offsets = |fixture: &Fixture| {
        let transaction = fixture.admission.transaction.as_ref()?;
        Some(transaction.offsets().collect::<Vec<_>>())
    };
    let reached = |fixture: &mut Fixture, partition, next| {
        let (partition, next) = (Partition(partition), Offset(next));
        fixture.admission.reached_end(partition, next, fixture.start)
    };
    fixture.order(0, 5, "a");
    assert!(!reached(&mut fixture, 0, 8), "the transaction is open");
    assert!(!reached(&mut fixture, 0, 7), "an earlier end");
    assert_eq!(offsets(&fixture), Some(vec![(Partition(0), Offset(8))]));
    fixture.on(Event::Committed([(Partition(0), Offset(1))].into()));
    assert!(!reached(&mut fixture, 0, 8), "committed already");
    assert_eq!(offsets(&fixture), None);
    assert!(reached(&mut fixture, 1, 3), "it begins a transaction");
    assert!(!reached(&mut fixture, 0, 9));
    let both = vec![(Partition(0), Offset(9)), (Partition(1), Offset(3))];
    assert_eq!(offsets(&fixture), Some(both));
    fixture.on(Event::TransactionFailed);
    assert!(!reached(&mut fixture, 1, 3), "not running");
    assert_eq!(offsets(&fixture), None);
}

#[test]
fn wall_clock_jumps_change_no_verdict() {
    let run = |walls: [i64; 4]| {
        let mut fixture = Fixture::running();
        let mut walls = walls.map(Timestamp).into_iter();
        let mut order = |fixture: &mut Fixture, offset, id| {
            let wall = walls.next().expect("one time for each order");
            let taken = fixture.order_at(wall, 0, offset, id);
            if let AdmitResult::Decided {
                verdict: Verdict::Admit { entry, .. },
                ..
            } = &taken
            {
                assert_eq!(entry.admitted_at, wall, "recorded unchanged");
            }
            is_duplicate(&taken)
        };
        let duplicates = [
            order(&mut fixture, 0, "a"),
            order(&mut fixture, 1, "a"),
            order(&mut fixture, 2, "b"),
            order(&mut fixture, 3, "b"),
        ];
        let due = fixture.admission.due().map(|due| due - fixture.start);
        (duplicates, due)
    };
    let steady = run([1_000, 1_001, 1_002, 1_003]);
    assert_eq!(steady.0, [false, true, false, true]);
    assert_eq!(run([1_000, -5_000, i64::MAX, 0]), steady);
    assert_eq!(run([i64::MAX, 0, i64::MIN, 7]), steady);
}

#[test]
fn resent_commit_is_applied_and_retires_the_producer() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    let reached = HashMap::from([(Partition(0), Offset(1))]);
    let actions = fixture.on(Event::CommittedRetireProducer(reached));
    assert_eq!(names(&actions), ["Apply", "Pause", "DropProducer"]);
    assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
    assert_eq!(names(&fixture.on(Event::Tick)), ["OpenProducer"]);
    assert_eq!(
        names(&fixture.on(Event::ProducerOpened)),
        ["Restore", "Restore"],
        "each partition starts at its committed offset"
    );
}

#[test]
fn transaction_ends_when_due_then_updates_the_store() {
    let mut fixture = Fixture::running();
    assert!(matches!(
        fixture.order(0, 0, "a"),
        AdmitResult::Decided { begins: true, .. }
    ));
    assert!(
        is_duplicate(&fixture.order(0, 1, "a")),
        "duplicate within the transaction"
    );
    assert!(fixture.on(Event::Tick).is_empty(), "neither full nor due");
    fixture.admission.caught_up();
    let later = fixture.start + Duration::from_millis(20);
    let end = fixture.admission.on(Event::Tick, later);
    assert!(
        matches!(&end[..], [Action::EndTransaction(offsets, "generation 1")] if offsets[..] == [next(0, 2)]),
        "{end:?}"
    );
    let applied = fixture.on(Event::Committed([(Partition(0), Offset(9))].into()));
    assert!(
        matches!(&applied[..], [Action::Apply(Partition(0), entries, Offset(9), _)] if entries.len() == 1),
        "{applied:?}"
    );
    assert!(matches!(
        fixture.order(1, 0, "b"),
        AdmitResult::Decided { begins: true, .. }
    ));
}

#[test]
fn transaction_grows_until_there_is_no_backlog() {
    let mut fixture = Fixture::running();
    let after = |fixture: &Fixture| fixture.admission.due().map(|due| due - fixture.start);
    // What was before the transaction says nothing about it.
    fixture.admission.caught_up();
    fixture.order(0, 0, "a");
    assert_eq!(after(&fixture), Some(Duration::from_millis(100)));
    fixture.admission.caught_up();
    assert_eq!(after(&fixture), Some(Duration::from_millis(20)));
    fixture.order(0, 1, "b");
    assert_eq!(after(&fixture), Some(Duration::from_millis(20)), "not again");
    fixture.on(Event::Committed([(Partition(0), Offset(2))].into()));
    fixture.order(0, 2, "c");
    assert_eq!(after(&fixture), Some(Duration::from_millis(100)), "the next one");
}

#[test]
fn full_transaction_is_due_immediately() {
    let mut fixture = Fixture::running();
    for (offset, id) in ["a", "b", "c"].into_iter().enumerate() {
        fixture.order(0, i64::try_from(offset).expect("small"), id);
    }
    assert_eq!(names(&fixture.on(Event::Tick)), ["EndTransaction"]);
}

#[test]
fn revocation_commits_before_the_release() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    let actions = fixture.on(Event::Revoked(
        vec![Partition(0)],
        membership("member 1", "generation 2"),
    ));
    assert_eq!(names(&actions), ["EndTransaction", "Close", "Release"]);
    assert!(
        matches!(&actions[0], Action::EndTransaction(_, "generation 2")),
        "{actions:?}"
    );
    assert_eq!(
        names(&fixture.on(Event::Committed([(Partition(0), Offset(2))].into()))),
        ["Apply"]
    );
    assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
}

#[test]
fn unreported_rejoin_restores_all_partitions() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    let same = fixture.on(Event::Assigned(
        Vec::new(),
        membership("member 1", "generation 2"),
    ));
    assert_eq!(names(&same), ["Accept"], "next generation of the same member");
    let other = fixture.on(Event::Assigned(
        Vec::new(),
        membership("member 2", "generation 4"),
    ));
    assert_eq!(names(&other), ["Pause", "DropProducer", "Accept"]);
    assert_eq!(
        fixture.on(Event::ProducerOpened).len(),
        2,
        "both partitions are restored"
    );
}

/// Kafka would accept the transaction of the old member under the new membership, beside that of the new
/// owner.
#[test]
fn revocation_after_unreported_rejoin_commits_nothing() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    let actions = fixture.on(Event::Revoked(
        vec![Partition(0)],
        membership("member 2", "generation 4"),
    ));
    assert_eq!(names(&actions), ["Pause", "DropProducer", "Close", "Release"]);
    assert_eq!(
        fixture.on(Event::ProducerOpened).len(),
        1,
        "the other partition is restored"
    );
}

/// The old restore has seen a committed offset and a changelog end from before another member owned the
/// partition.
#[test]
fn restore_of_a_former_membership_is_ignored() {
    let mut fixture = Fixture::running();
    let first = fixture.on(Event::Assigned(
        vec![Partition(2)],
        membership("member 1", "generation 2"),
    ));
    assert_eq!(names(&first), ["Accept", "Restore"]);
    let again = fixture.on(Event::Assigned(
        Vec::new(),
        membership("member 2", "generation 4"),
    ));
    assert_eq!(
        names(&again),
        ["Pause", "CancelRestore", "DropProducer", "Accept"]
    );
    let late = fixture.on(restored(2, 3));
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn lost_partition_commits_nothing() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    let actions = fixture.on(Event::Lost(vec![Partition(0), Partition(1)]));
    assert_eq!(
        names(&actions),
        ["Pause", "DropProducer", "Close", "Close", "Release"]
    );
    assert!(fixture.on(Event::ProducerOpened).is_empty());
}

#[test]
fn fenced_member_drops_all_and_starts_again() {
    let mut fixture = Fixture::running();
    let third = fixture.on(Event::Assigned(
        vec![Partition(2)],
        membership("member 1", "generation 2"),
    ));
    assert_eq!(names(&third), ["Accept", "Restore"]);
    fixture.order(0, 0, "a");
    let actions = fixture.on(Event::Fenced);
    assert_eq!(
        names(&actions),
        ["DropProducer", "Close", "Close", "CancelRestore", "Close"],
        "no action on the fenced consumer"
    );
    assert!(fixture.admission.partitions().is_empty());
    assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
    let late = fixture.on(restored(2, 3));
    assert!(late.is_empty(), "{late:?}");

    assert_eq!(names(&fixture.on(Event::Tick)), ["OpenProducer"]);
    assert!(fixture.on(Event::ProducerOpened).is_empty());
    let assigned = fixture.on(Event::Assigned(
        vec![Partition(2)],
        membership("member 2", "generation 4"),
    ));
    assert_eq!(names(&assigned), ["Accept", "Restore"]);
    let former = fixture.on(restored(2, 3));
    assert!(former.is_empty(), "restore of the former membership: {former:?}");
    fixture.restored(2, 4);
}

#[test]
fn recovery_opens_a_new_producer_and_restores() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    assert_eq!(
        names(&fixture.on(Event::TransactionFailed)),
        ["Pause", "DropProducer"]
    );
    assert!(matches!(fixture.order(0, 0, "a"), AdmitResult::NotRunning));
    assert_eq!(names(&fixture.on(Event::Tick)), ["OpenProducer"]);
    let retry_at = fixture.start + PRODUCER_RETRY_INTERVAL;
    assert!(fixture.on(Event::ProducerFailed).is_empty());
    assert_eq!(fixture.admission.due(), Some(retry_at));
    assert!(fixture.on(Event::Tick).is_empty(), "not yet");
    assert_eq!(
        names(&fixture.admission.on(Event::Tick, retry_at)),
        ["OpenProducer"]
    );
    assert_eq!(names(&fixture.on(Event::ProducerOpened)), ["Restore", "Restore"]);
    assert!(
        fixture.on(restored(0, 1)).is_empty(),
        "result of an earlier restore"
    );
    fixture.restored(0, 3);
    assert!(
        matches!(
            fixture.order(0, 0, "a"),
            AdmitResult::Decided {
                verdict: Verdict::Admit { .. },
                begins: true,
                ..
            }
        ),
        "the failed transaction is dropped"
    );
}

#[test]
fn repeated_failures_wait_until_the_next_commit() {
    let mut fixture = Fixture::running();
    for _ in 0..IMMEDIATE_RECOVERIES_MAX {
        fixture.on(Event::TransactionFailed);
        assert_eq!(fixture.admission.due(), Some(fixture.start), "no wait");
        fixture.on(Event::ProducerOpened);
    }
    fixture.on(Event::TransactionFailed);
    assert_eq!(
        fixture.admission.due(),
        Some(fixture.start + PRODUCER_RETRY_INTERVAL)
    );
    let restores = fixture.on(Event::ProducerOpened);
    let [Action::Restore(_, RestoreId(id)), _] = restores[..] else {
        panic!("{restores:?}");
    };
    fixture.restored(0, id);
    fixture.order(0, 0, "a");
    fixture.on(Event::Committed([(Partition(0), Offset(2))].into()));
    fixture.on(Event::TransactionFailed);
    assert_eq!(
        fixture.admission.due(),
        Some(fixture.start),
        "no wait after a commit"
    );
}

#[test]
fn corrupt_store_is_discarded_and_restored() {
    let mut fixture = Fixture::running();
    let actions = fixture.on(Event::StoreFailed(Partition(1), StoreFailure::Corrupt));
    assert_eq!(names(&actions), ["Pause", "DropProducer", "Discard"]);
}

#[test]
fn unavailable_store_is_closed_and_restored() {
    let mut fixture = Fixture::running();
    let actions = fixture.on(Event::StoreFailed(Partition(1), StoreFailure::Unavailable));
    assert_eq!(names(&actions), ["Pause", "DropProducer", "Close"]);
    assert_eq!(names(&fixture.on(Event::ProducerOpened)), ["Restore", "Restore"]);
}

#[test]
fn halted_partition_does_not_stop_the_others() {
    let mut fixture = Fixture::running();
    assert_eq!(
        names(&fixture.on(Event::Assigned(
            vec![Partition(2)],
            membership("member 1", "generation 2")
        ))),
        ["Accept", "Restore"]
    );
    assert!(
        fixture
            .on(Event::RestoreHalted(Partition(2), RestoreId(3), "a gap".into()))
            .is_empty()
    );
    assert!(matches!(fixture.order(2, 0, "x"), AdmitResult::NotRunning));
    assert!(matches!(fixture.order(0, 0, "a"), AdmitResult::Decided { .. }));
    assert_eq!(
        names(&fixture.on(Event::TransactionFailed)),
        ["Pause", "DropProducer"]
    );
    assert_eq!(
        fixture.on(Event::ProducerOpened).len(),
        2,
        "the halted partition is not restored"
    );
    fixture.restored(0, 4);
    fixture.restored(1, 5);
    fixture.on(Event::Assigned(
        Vec::new(),
        membership("member 2", "generation 4"),
    ));
    assert_eq!(
        fixture.on(Event::ProducerOpened).len(),
        3,
        "a new membership restores it, too"
    );
}

#[test]
fn stop_commits_and_leaves() {
    let mut fixture = Fixture::running();
    fixture.order(0, 0, "a");
    assert_eq!(
        names(&fixture.on(Event::Stop)),
        ["EndTransaction", "Close", "Close", "Leave"]
    );
    assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
}

/// Returns a state machine whose partition 0 is restored up to changelog offset 9, with one order admitted.
fn with_checkpoint_9() -> Fixture {
    let mut fixture = Fixture::running();
    fixture.on(Event::TransactionFailed);
    fixture.on(Event::ProducerOpened);
    fixture.restored_at(0, 3, 9);
    fixture.restored_at(1, 4, 9);
    fixture.order(0, 0, "a");
    fixture
}

#[test]
fn changelog_that_lost_its_end_halts() {
    for reached in [8, 9] {
        let mut fixture = with_checkpoint_9();
        let actions = fixture.on(Event::Committed([(Partition(0), Offset(reached))].into()));
        assert_eq!(
            names(&actions),
            ["Apply", "Pause", "Close", "ReportHalt"],
            "{reached}"
        );
        assert!(
            matches!(&actions[0], Action::Apply(_, entries, Offset(9), _) if entries.len() == 1),
            "the key is kept, and the checkpoint stays: {actions:?}"
        );
        assert!(
            matches!(&fixture.admission.partitions()[&Partition(0)], PartitionState::Halted(reason)
                if reason.contains("has lost records") && reason.contains("rebuild the changelog")),
        );
        assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
        assert!(matches!(fixture.order(1, 0, "x"), AdmitResult::Decided { .. }));
    }
    let mut fixture = with_checkpoint_9();
    let grown = fixture.on(Event::Committed([(Partition(0), Offset(10))].into()));
    assert_eq!(names(&grown), ["Apply"]);
    fixture.order(0, 1, "b");
    let again = fixture.on(Event::Committed([(Partition(0), Offset(10))].into()));
    assert_eq!(
        names(&again),
        ["Apply", "Pause", "Close", "ReportHalt"],
        "each commit moves the checkpoint"
    );
}

/// The new records outnumber the lost ones.
#[test]
fn loss_hidden_by_a_large_transaction_halts() {
    let mut fixture = with_checkpoint_9();
    fixture.order(0, 1, "b");
    fixture.order(0, 2, "c");
    let actions = fixture.on(Event::Committed([(Partition(0), Offset(11))].into()));
    assert_eq!(names(&actions), ["Apply", "Pause", "Close", "ReportHalt"]);
}

#[test]
fn loss_on_a_revoked_partition_keeps_the_checkpoint() {
    let mut fixture = with_checkpoint_9();
    fixture.on(Event::Revoked(
        vec![Partition(0)],
        membership("member 1", "generation 2"),
    ));
    let actions = fixture.on(Event::Committed([(Partition(0), Offset(3))].into()));
    assert!(
        matches!(&actions[..], [Action::Apply(_, _, Offset(9), _)]),
        "{actions:?}"
    );
}

#[test]
fn commit_at_an_unknown_offset_restores() {
    for reached in [HashMap::new(), [(Partition(0), Offset(-1000))].into()] {
        let mut fixture = with_checkpoint_9();
        fixture.order(1, 0, "x");
        let mut reached: HashMap<Partition, Offset> = reached;
        reached.insert(Partition(1), Offset(12));
        let actions = fixture.on(Event::Committed(reached));
        assert_eq!(names(&actions), ["Apply", "Pause", "DropProducer"]);
        assert!(matches!(fixture.order(0, 1, "b"), AdmitResult::NotRunning));
        assert_eq!(names(&fixture.on(Event::ProducerOpened)), ["Restore", "Restore"]);
    }
    let mut revoked = with_checkpoint_9();
    revoked.on(Event::Revoked(
        vec![Partition(0)],
        membership("member 1", "generation 2"),
    ));
    assert!(revoked.on(Event::Committed(HashMap::new())).is_empty());
}

/// Scenario: the pointer to the idempotency key is wrong, so each record is refused.
#[test]
fn mass_refusal_pauses_its_partition_alone() {
    let mut fixture = Fixture::running();
    fixture.admission = fixture.admission.with_refusals(RefusalSettings {
        limit: crate::ShareLimit {
            threshold: 2,
            window: 3,
        },
        pause: Duration::from_secs(30),
    });
    let refused = |taken: AdmitResult| {
        matches!(
            taken,
            AdmitResult::Decided {
                verdict: Verdict::Refuse(_),
                ..
            }
        )
    };
    assert!(refused(fixture.order(0, 0, "")));
    assert_eq!(fixture.admission.mass_refusals().count(), 0);
    assert!(refused(fixture.order(0, 1, "")));
    assert_eq!(fixture.admission.mass_refusals().count(), 1);
    // Read ahead: it is dropped, and comes again. The other partition goes on.
    assert!(matches!(fixture.order(0, 2, ""), AdmitResult::NotRunning));
    assert!(refused(fixture.order(1, 0, "")));
    assert_eq!(fixture.admission.due(), Some(fixture.start));
    // The transaction is full, so it ends first.
    let actions = fixture.on(Event::Tick);
    let [Action::EndTransaction(offsets, _)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(offsets[..], [next(0, 2), next(1, 1)]);
    fixture.on(Event::Committed(HashMap::new()));
    let paused = fixture.on(Event::Tick);
    assert!(matches!(&paused[..], [Action::Pause(partitions)] if partitions[..] == [Partition(0)]));
    assert!(fixture.on(Event::Tick).is_empty());
    fixture.start += Duration::from_secs(30);
    assert_eq!(fixture.admission.due(), Some(fixture.start));
    let started = fixture.on(Event::Tick);
    assert!(matches!(started[..], [Action::Start(Partition(0), Offset(2))]));
    assert!(!refused(fixture.order(0, 2, "good")));
    assert!(!refused(fixture.order(0, 3, "better")));
    assert_eq!(fixture.admission.mass_refusals().count(), 0);
}

/// Scenario: a transaction fails while its partition is paused. The partition starts where it committed last,
/// and not once more when the pause would have ended.
#[test]
fn failure_ends_the_pause_of_mass_refusal() {
    let mut fixture = Fixture::running();
    fixture.admission = fixture.admission.with_refusals(RefusalSettings {
        limit: crate::ShareLimit {
            threshold: 1,
            window: 1,
        },
        pause: Duration::from_secs(30),
    });
    fixture.order(0, 0, "");
    assert_eq!(names(&fixture.on(Event::Tick)), ["Pause"]);
    fixture.on(Event::TransactionFailed);
    assert_eq!(names(&fixture.on(Event::Tick)), ["OpenProducer"]);
    assert_eq!(names(&fixture.on(Event::ProducerOpened)), ["Restore", "Restore"]);
    fixture.restored(0, 3);
    fixture.start += Duration::from_secs(60);
    assert!(fixture.on(Event::Tick).is_empty());
    assert!(matches!(fixture.order(0, 0, ""), AdmitResult::Decided { .. }));
    // A partition that is revoked meanwhile is not started either.
    fixture.on(Event::Lost(vec![Partition(0)]));
    fixture.start += Duration::from_secs(60);
    let actions = names(&fixture.on(Event::Tick));
    assert!(!actions.contains(&"Start".to_owned()), "{actions:?}");
}

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const NOW: i64 = 20_000 * DAY;

impl Fixture {
    /// Returns a state machine that remembers keys for 30 days, with partition 0 restored with this window.
    fn remembering(newest: Option<i64>, forgotten: Option<Forgotten>) -> (Self, Vec<String>) {
        let mut fixture = Self::running();
        let retention = Some(Duration::from_secs(30 * 24 * 3600));
        fixture.admission = fixture.admission.with_retention(retention);
        fixture.on(Event::TransactionFailed);
        fixture.on(Event::Tick);
        fixture.on(Event::ProducerOpened);
        let actions = fixture.on(Event::Restored {
            partition: Partition(0),
            id: RestoreId(3),
            next: Offset(0),
            checkpoint: Offset(0),
            window: Window::new(newest.map(Timestamp), forgotten),
        });
        (fixture, names(&actions))
    }

    fn order_of(&mut self, at: i64, wall: i64, offset: i64, id: &str) -> AdmitResult {
        self.record_at = Some(Timestamp(at));
        self.order_at(Timestamp(wall), 0, offset, id)
    }
}

fn refused(taken: &AdmitResult) -> Option<records::dead_letter::Reason> {
    match taken {
        AdmitResult::Decided {
            verdict: Verdict::Refuse(refusal),
            ..
        } => Some(refusal.reason),
        _ => None,
    }
}

fn forgotten(below: i64, before: i64) -> Forgotten {
    Forgotten {
        below: Offset(below),
        before: Timestamp(before),
    }
}

#[test]
fn old_order_is_refused_unless_its_key_is_known() {
    use records::dead_letter::Reason;

    let (mut fixture, _) = Fixture::remembering(Some(NOW), None);
    let old = NOW - 31 * DAY;
    assert_eq!(refused(&fixture.order_of(old, NOW, 0, "a")), Some(Reason::TooOld));
    let ahead = fixture.order_of(NOW + 2 * HOUR, NOW, 1, "b");
    assert_eq!(refused(&ahead), Some(Reason::FromTheFuture));
    let AdmitResult::Decided {
        verdict: Verdict::Admit { entry, recorded, .. },
        ..
    } = fixture.order_of(NOW - DAY, NOW, 2, "c")
    else {
        panic!("not admitted");
    };
    assert_eq!(recorded, Timestamp(NOW), "never below the newest");
    // The order itself again, from where it was read first.
    fixture.stores.insert("d".into(), entry);
    assert!(is_duplicate(&fixture.order_of(old, NOW, 3, "d")));
    assert!(is_duplicate(&fixture.order_of(NOW - DAY, NOW, 4, "c")));
}

#[test]
fn keys_are_removed_once_their_note_is_committed() {
    let (mut fixture, _) = Fixture::remembering(Some(NOW), None);
    assert_eq!(fixture.admission.cutoff(Partition(0)), None, "no order yet");
    fixture.order_of(NOW, NOW, 0, "a");
    let cutoff = fixture.admission.cutoff(Partition(0));
    assert_eq!(cutoff, Some(Timestamp(NOW - 30 * DAY - HOUR)));
    let old = forgotten(5, NOW - 31 * DAY);
    assert!(fixture.on(Event::Forgettable(Partition(0), old)).is_empty());
    fixture.start += Duration::from_secs(1);
    let end = fixture.on(Event::Tick);
    assert!(
        matches!(&end[..], [Action::EndTransaction(offsets, _)] if offsets[0].forgotten == Some(old)),
        "{end:?}"
    );
    let actions = fixture.on(Event::Committed([(Partition(0), Offset(9))].into()));
    assert_eq!(names(&actions), ["Apply", "Forget"]);
    assert!(
        matches!(&actions[..], [Action::Apply(_, _, Offset(9), Some(Timestamp(NOW))), Action::Forget(Partition(0), noted)] if *noted == old),
        "{actions:?}"
    );
    // Once, and noted with each offset from then on.
    fixture.order_of(NOW, NOW, 1, "b");
    fixture.start += Duration::from_secs(1);
    let end = fixture.on(Event::Tick);
    assert!(
        matches!(&end[..], [Action::EndTransaction(offsets, _)] if offsets[0].forgotten == Some(old)),
        "{end:?}"
    );
    let actions = fixture.on(Event::Committed([(Partition(0), Offset(19))].into()));
    assert_eq!(names(&actions), ["Apply"]);
}

#[test]
fn failed_transaction_removes_no_keys() {
    let (mut fixture, _) = Fixture::remembering(Some(NOW), None);
    fixture.order_of(NOW, NOW, 0, "a");
    let old = forgotten(5, NOW - 31 * DAY);
    fixture.on(Event::Forgettable(Partition(0), old));
    let actions = names(&fixture.on(Event::TransactionFailed));
    assert!(!actions.contains(&"Forget".to_owned()), "{actions:?}");
    assert_eq!(fixture.admission.cutoff(Partition(0)), None, "not running");
}

#[test]
fn noted_keys_are_removed_after_a_restore() {
    let (_, actions) = Fixture::remembering(Some(NOW), Some(forgotten(5, NOW - 31 * DAY)));
    assert_eq!(actions, ["Start", "Forget"]);
}

#[test]
fn clock_that_was_set_back_halts_the_partition() {
    let (mut fixture, _) = Fixture::remembering(Some(NOW), None);
    fixture.order_of(NOW, NOW, 0, "a");
    let AdmitResult::ClockBehind(reason) = fixture.order_of(NOW, NOW - 365 * DAY, 1, "b") else {
        panic!("decided");
    };
    // What was decided before is committed.
    let actions = fixture.on(Event::Halt(Partition(0), reason));
    assert_eq!(
        names(&actions),
        ["EndTransaction", "Pause", "Close", "ReportHalt"]
    );
    let applied = fixture.on(Event::Committed([(Partition(0), Offset(9))].into()));
    assert_eq!(names(&applied), ["Apply"]);
    assert!(matches!(
        fixture.order_of(NOW, NOW, 1, "b"),
        AdmitResult::NotRunning
    ));
}
