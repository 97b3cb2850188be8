use records::{LeaderEpoch, TopicId};

use super::*;

fn note() -> TopicsNote {
    TopicsNote {
        partitions: 6,
        orders: TopicId::new("orders-1"),
        pending: TopicId::new("pending-1"),
        changelog: TopicId::new("changelog-1"),
        forgotten: None,
    }
}

/// Returns the note of a partition that has forgotten the keys below this changelog offset.
fn note_forgotten(below: i64) -> TopicsNote {
    TopicsNote {
        forgotten: Some(forgotten(below)),
        ..note()
    }
}

fn forgotten(below: i64) -> Forgotten {
    Forgotten {
        below: Offset(below),
        before: Timestamp(500),
    }
}

fn context() -> RestoreContext {
    RestoreContext {
        topics: Topics::default(),
        note: note(),
        group_id: "order-validator".into(),
        partition: Partition(3),
        store: "state/3.redb".into(),
    }
}

fn bounds(start: i64, end: i64) -> Bounds {
    Bounds {
        start: Offset(start),
        end: Offset(end),
    }
}

/// Responses to the requests of a restore.
struct Facts {
    committed: Option<i64>,
    metadata: String,
    /// Metadata of the other partitions' offsets.
    others: Vec<String>,
    changelog: Bounds,
    orders: Bounds,
    /// Committed leader epoch, and the offset up to which it has written.
    orders_epoch: Option<(i32, i64)>,
    checkpoint: Option<i64>,
    outbox_is_empty: bool,
    newest_is_known: bool,
    /// Offset of a record that the store lacks below its checkpoint.
    differs_at: Option<i64>,
}

impl Facts {
    /// Returns the facts of a running group, with a store that lags.
    fn sound() -> Self {
        Self {
            committed: Some(40),
            metadata: note().encode(),
            others: Vec::new(),
            changelog: bounds(0, 90),
            orders: bounds(7, 50),
            orders_epoch: Some((4, 40)),
            checkpoint: Some(30),
            outbox_is_empty: false,
            newest_is_known: true,
            differs_at: None,
        }
    }

    /// Runs a restore, and returns its requests in their order and its result.
    fn run(&self) -> (Vec<RestoreRequest>, RestoreStep) {
        let context = context();
        let mut restore = Restore::new(&context);
        let mut requests = Vec::new();
        let mut step = RestoreStep::Request(RestoreRequest::CommittedOffset);
        loop {
            let RestoreStep::Request(request) = step else {
                return (requests, step);
            };
            requests.push(request.clone());
            step = restore.on(match request {
                RestoreRequest::CommittedOffset => {
                    let metadata = self.committed.map_or("", |_| &self.metadata);
                    RestoreResponse::CommittedOffset(self.committed.map(Offset), metadata.into())
                }
                RestoreRequest::OtherNotes => {
                    RestoreResponse::OtherNotes((4..).map(Partition).zip(self.others.clone()).collect())
                }
                RestoreRequest::ChangelogBounds => RestoreResponse::ChangelogBounds(self.changelog),
                RestoreRequest::OrdersBounds => RestoreResponse::OrdersBounds(self.orders),
                RestoreRequest::OrdersEpochEnd => {
                    RestoreResponse::OrdersEpochEnd(self.orders_epoch.map(|(epoch, end)| EpochEnd {
                        epoch: LeaderEpoch(epoch),
                        end: Offset(end),
                    }))
                }
                RestoreRequest::Checkpoint => RestoreResponse::Checkpoint(self.checkpoint.map(Offset)),
                RestoreRequest::OutboxIsEmpty => RestoreResponse::OutboxIsEmpty(self.outbox_is_empty),
                RestoreRequest::ApplyChangelog { .. } => match self.differs_at {
                    Some(offset) => RestoreResponse::StoreDiffers(Offset(offset)),
                    None => RestoreResponse::ChangelogApplied,
                },
                RestoreRequest::NewestOrder => RestoreResponse::NewestOrder(Some(NewestOrder {
                    offset: Offset(60),
                    key: IdempotencyKey::new("order-1").expect("a key"),
                    is_last: true,
                })),
                RestoreRequest::IsKnown(_) => RestoreResponse::IsKnown(self.newest_is_known),
            });
        }
    }

    fn assert_ready(&self, next: i64) {
        assert_eq!(self.run().1, RestoreStep::Ready(Offset(next)));
    }

    fn assert_halted(&self, because: &str) {
        match self.run().1 {
            RestoreStep::Halted(reason) => assert!(reason.contains(because), "{reason}"),
            other @ (RestoreStep::Request(_) | RestoreStep::Ready(_)) => {
                panic!("{other:?} instead of {because:?}")
            }
        }
    }
}

#[test]
fn committed_offset_then_high_watermark_then_tail() {
    let (requests, step) = Facts::sound().run();
    assert_eq!(
        requests,
        [
            RestoreRequest::CommittedOffset,
            RestoreRequest::NewestOrder,
            RestoreRequest::ChangelogBounds,
            RestoreRequest::OrdersBounds,
            RestoreRequest::OrdersEpochEnd,
            RestoreRequest::Checkpoint,
            RestoreRequest::ApplyChangelog {
                start: Offset(0),
                checkpoint: Offset(30),
                end: Offset(90),
            },
            RestoreRequest::IsKnown(IdempotencyKey::new("order-1").expect("a key")),
        ]
    );
    assert_eq!(step, RestoreStep::Ready(Offset(40)));
}

#[test]
fn changelog_end_read_too_early_is_ignored() {
    let context = context();
    let mut restore = Restore::new(&context);
    let step = restore.on(RestoreResponse::ChangelogBounds(bounds(0, 5)));
    assert_eq!(step, RestoreStep::Request(RestoreRequest::CommittedOffset));
    let step = restore.on(RestoreResponse::CommittedOffset(Some(Offset(9)), note().encode()));
    assert_eq!(step, RestoreStep::Request(RestoreRequest::NewestOrder));
    let step = restore.on(RestoreResponse::NewestOrder(None));
    assert_eq!(step, RestoreStep::Request(RestoreRequest::ChangelogBounds));
    restore.on(RestoreResponse::ChangelogBounds(bounds(0, 5)));
    let again = restore.on(RestoreResponse::CommittedOffset(Some(Offset(9)), note().encode()));
    assert_eq!(
        again,
        RestoreStep::Request(RestoreRequest::NewestOrder),
        "the attempt starts again"
    );
}

#[test]
fn new_store_reads_the_whole_changelog() {
    let facts = Facts {
        checkpoint: None,
        ..Facts::sound()
    };
    let (requests, _) = facts.run();
    assert!(requests.contains(&RestoreRequest::ApplyChangelog {
        start: Offset(0),
        checkpoint: Offset(0),
        end: Offset(90),
    }));
}

#[test]
fn group_without_offset_starts_at_a_complete_log_only() {
    let never = Facts {
        committed: None,
        ..Facts::sound()
    };
    Facts {
        orders: bounds(0, 50),
        ..never
    }
    .assert_ready(0);
    let never = Facts {
        committed: None,
        ..Facts::sound()
    };
    never.assert_halted("has lost its committed offset of payment-orders/3");
    Facts {
        changelog: bounds(0, 0),
        checkpoint: None,
        outbox_is_empty: true,
        ..never
    }
    .assert_ready(7);
}

#[test]
fn changelog_without_the_newest_order_halts() {
    let facts = Facts {
        newest_is_known: false,
        ..Facts::sound()
    };
    facts.assert_halted("no entry of the order order-1, the newest of the outbox (pending-api-calls/3@60)");
}

#[test]
fn store_of_another_log_halts() {
    let facts = Facts {
        differs_at: Some(17),
        ..Facts::sound()
    };
    facts.assert_halted("up to 30, and does not have its record at 17");
}

#[test]
fn gap_in_the_orders_halts() {
    Facts {
        committed: Some(6),
        ..Facts::sound()
    }
    .assert_halted("the 1 offsets from 6 to 7 of payment-orders/3 were deleted");
    Facts {
        committed: Some(51),
        ..Facts::sound()
    }
    .assert_halted("the committed offset 51 of payment-orders/3 is beyond the partition's end 50");
    let at_the_end = Facts {
        committed: Some(50),
        orders_epoch: Some((4, 50)),
        ..Facts::sound()
    };
    at_the_end.assert_ready(50);
}

#[test]
fn truncated_log_that_has_grown_again_halts() {
    let with_epoch = |orders_epoch| Facts {
        orders_epoch,
        ..Facts::sound()
    };
    with_epoch(Some((4, 39))).assert_halted(
        "payment-orders/3 was truncated at 39 and has grown again: group \"order-validator\" has committed \
         offset 40 in leader epoch 4",
    );
    with_epoch(Some((4, 7))).assert_halted("--reset-offsets --to-offset 7 --execute");
    with_epoch(Some((4, 40))).assert_ready(40);
    // Committed by an operator or an earlier version.
    with_epoch(None).assert_ready(40);
}

#[test]
fn changelog_that_lost_keys_halts() {
    let cut = Facts {
        changelog: bounds(31, 90),
        ..Facts::sound()
    };
    cut.assert_halted("begins at 31, the store needs it from 30");
    let shorter = Facts {
        changelog: bounds(0, 29),
        ..Facts::sound()
    };
    shorter.assert_halted("If it is another cluster's, remove state/3.redb");
    let gone = Facts {
        changelog: bounds(0, 0),
        checkpoint: None,
        ..Facts::sound()
    };
    gone.assert_halted("is empty, and the outbox pending-api-calls/3 is not");
    let whole = Facts {
        changelog: bounds(30, 30),
        ..Facts::sound()
    };
    whole.assert_ready(40);
}

#[test]
fn changelog_filled_meanwhile_does_not_halt() {
    let context = context();
    let mut restore = Restore::new(&context);
    restore.on(RestoreResponse::CommittedOffset(None, String::new()));
    restore.on(RestoreResponse::OtherNotes(Vec::new()));
    restore.on(RestoreResponse::NewestOrder(None));
    restore.on(RestoreResponse::ChangelogBounds(bounds(0, 0)));
    restore.on(RestoreResponse::OrdersBounds(bounds(0, 50)));
    restore.on(RestoreResponse::OrdersEpochEnd(None));
    let step = restore.on(RestoreResponse::Checkpoint(None));
    assert_eq!(step, RestoreStep::Request(RestoreRequest::OutboxIsEmpty));
    let step = restore.on(RestoreResponse::OutboxIsEmpty(false));
    assert_eq!(
        step,
        RestoreStep::Request(RestoreRequest::ChangelogBounds),
        "read once more"
    );
    let step = restore.on(RestoreResponse::ChangelogBounds(bounds(0, 3)));
    assert_eq!(
        step,
        RestoreStep::Request(RestoreRequest::CommittedOffset),
        "the attempt starts again"
    );
}

#[test]
fn grown_topics_halt() {
    let before = TopicsNote {
        partitions: 4,
        ..note()
    };
    let because = "have 6 partitions, and had 4 when the group \"order-validator\" committed its offset of \
                   payment-orders/3: a topic has grown";
    let own = Facts {
        metadata: before.encode(),
        ..Facts::sound()
    };
    own.assert_halted(because);
    // A new partition has no offset, so it would begin with its oldest order.
    let new = Facts {
        committed: None,
        others: vec![String::new(), before.encode()],
        orders: bounds(0, 50),
        ..Facts::sound()
    };
    new.assert_halted("committed its offset of payment-orders/5: a topic has grown");
    let (requests, _) = new.run();
    assert_eq!(
        requests,
        [RestoreRequest::CommittedOffset, RestoreRequest::OtherNotes]
    );
    // An operator has set the offset of one partition, which says nothing about the others.
    let set = Facts {
        metadata: String::new(),
        others: vec![before.encode()],
        ..Facts::sound()
    };
    set.assert_halted("a topic has grown");
}

#[test]
fn recreated_or_other_topic_halts() {
    let with = |change: fn(&mut TopicsNote)| {
        let mut before = note();
        change(&mut before);
        Facts {
            metadata: before.encode(),
            ..Facts::sound()
        }
    };
    with(|note| note.orders = TopicId::new("orders-0")).assert_halted(
        "payment-orders was deleted and created again, or topics.orders named another topic before (its id was \
         orders-0",
    );
    with(|note| note.orders = TopicId::new("orders-0"))
        .assert_halted("--reset-offsets --to-earliest --execute");
    let pending = with(|note| note.pending = TopicId::new("p"));
    pending.assert_halted("pending-api-calls was deleted");
    pending.assert_halted(
        "--group order-validator --topic payment-orders --reset-offsets --shift-by 0 --execute",
    );
    // The command that rebuilds it has the offsets name it.
    let changelog = with(|note| note.changelog = TopicId::new("c"));
    changelog.assert_halted("they would be paid twice. Stop all validators, and rebuild it");
    match changelog.run().1 {
        RestoreStep::Halted(reason) => assert!(!reason.contains("--reset-offsets"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // The command removes the memory of all, so all are named.
    let all = with(|note| {
        note.orders = TopicId::new("o");
        note.changelog = TopicId::new("c");
    });
    all.assert_halted("payment-orders was deleted");
    all.assert_halted("idempotency-key-store-changelog was deleted");
    // Brokers that do not report ids prove nothing.
    with(|note| note.changelog = None).assert_ready(40);
}

#[test]
fn topic_recreated_since_the_start_is_another() {
    let context = context();
    let now = TopicsNote {
        changelog: TopicId::new("changelog-2"),
        ..note()
    };
    let reason = context.check_unchanged(&now).expect_err("another changelog");
    assert!(
        reason.contains("its id was changelog-1 when this validator started, and is changelog-2 now"),
        "{reason}"
    );
    assert_eq!(context.check_unchanged(&note()), Ok(()));
}

#[test]
fn offset_without_a_note_is_accepted() {
    // Committed by an earlier version, or set by the operator whom a message told to.
    let set = Facts {
        metadata: String::new(),
        others: vec![String::new(), note().encode()],
        ..Facts::sound()
    };
    set.assert_ready(40);
    let all_set = Facts {
        metadata: String::new(),
        others: vec![String::new()],
        ..Facts::sound()
    };
    all_set.assert_ready(40);
}

#[test]
fn unreadable_note_halts() {
    for text in ["2:6:o:p:c", "1:six", "\u{fffd}"] {
        let own = Facts {
            metadata: text.into(),
            ..Facts::sound()
        };
        own.assert_halted("Run the version of the validator that wrote it");
        let other = Facts {
            metadata: String::new(),
            others: vec![text.into()],
            ..Facts::sound()
        };
        other.assert_halted("payment-orders/4 cannot be read");
    }
}

#[test]
fn changelog_without_forgotten_keys_is_restored() {
    let cut = |start, below, checkpoint| Facts {
        metadata: note_forgotten(below).encode(),
        changelog: bounds(start, 90),
        checkpoint,
        ..Facts::sound()
    };
    for (facts, start, checkpoint) in [
        // The store is lost, or is older than what is forgotten.
        (cut(50, 50, None), 50, 0),
        (cut(50, 50, Some(30)), 50, 30),
        // The changelog is not cut yet, but the store may have forgotten the keys: they are not compared.
        (cut(0, 50, Some(80)), 50, 80),
        (cut(0, 50, None), 50, 0),
    ] {
        let (requests, step) = facts.run();
        assert_eq!(step, RestoreStep::Ready(Offset(40)));
        let read = RestoreRequest::ApplyChangelog {
            start: Offset(start),
            checkpoint: Offset(checkpoint),
            end: Offset(90),
        };
        assert!(requests.contains(&read), "{requests:?}");
    }
    let halted = "begins at 51, the store needs it from 30, and by the note of the group's committed offset keys are \
                  forgotten below 50";
    cut(51, 50, Some(30)).assert_halted(halted);
}

#[test]
fn forgotten_keys_of_another_changelog_excuse_nothing() {
    // Without ids it is not known that the topic was created again.
    let without_id = |note: TopicsNote| TopicsNote {
        changelog: None,
        ..note
    };
    let facts = Facts {
        metadata: without_id(note_forgotten(50)).encode(),
        changelog: bounds(31, 90),
        ..Facts::sound()
    };
    facts.assert_halted("begins at 31");
    let of_another = super::forgotten(&context(), &facts.metadata);
    assert_eq!(of_another, Some(forgotten(0)), "its orders stay refused");
    let same = super::forgotten(&context(), &note_forgotten(50).encode());
    assert_eq!(same, Some(forgotten(50)));
    assert_eq!(super::forgotten(&context(), ""), None);
}

#[test]
fn lost_note_is_made_up_for_by_the_oldest_key() {
    let context = context();
    let forgotten_with = |metadata: &str, start| {
        let mut restore = Restore::new(&context);
        restore.on(RestoreResponse::CommittedOffset(
            Some(Offset(40)),
            metadata.to_owned(),
        ));
        restore.on(RestoreResponse::ChangelogBounds(bounds(start, 90)));
        restore.forgotten(Some(Timestamp(700)))
    };
    let made_up = Forgotten {
        below: Offset(0),
        before: Timestamp(701),
    };
    assert_eq!(forgotten_with("", 5), Some(made_up));
    assert_eq!(forgotten_with("", 0), None, "nothing was ever deleted");
    assert_eq!(
        forgotten_with(&note_forgotten(50).encode(), 5),
        Some(forgotten(50))
    );
}

#[test]
fn forgotten_order_is_no_loss_while_a_newer_one_is_pending() {
    let context = context();
    let mut restore = Restore::new(&context);
    let metadata = note_forgotten(50).encode();
    let newest = |is_last| {
        RestoreResponse::NewestOrder(Some(NewestOrder {
            offset: Offset(60),
            key: IdempotencyKey::new("order-1").expect("a key"),
            is_last,
        }))
    };
    let look = |restore: &mut Restore<'_>, is_last| {
        restore.on(RestoreResponse::CommittedOffset(
            Some(Offset(40)),
            metadata.clone(),
        ));
        restore.on(newest(is_last));
        restore.on(RestoreResponse::IsKnown(false))
    };
    let again = RestoreStep::Request(RestoreRequest::CommittedOffset);
    assert_eq!(look(&mut restore, false), again);
    assert_eq!(look(&mut restore, false), again, "as long as it is pending");
    assert_eq!(look(&mut restore, true), again, "all facts once more");
    let RestoreStep::Halted(reason) = look(&mut restore, true) else {
        panic!("not halted");
    };
    assert!(reason.contains("has no entry of the order order-1"), "{reason}");
}
