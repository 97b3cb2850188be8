use records::LeaderEpoch;

use super::*;

fn context() -> RestoreContext {
    RestoreContext {
        topics: Topics::default(),
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
    changelog: Bounds,
    orders: Bounds,
    /// Committed leader epoch, and the offset up to which it has written.
    orders_epoch: Option<(i32, i64)>,
    checkpoint: Option<i64>,
    outbox_is_empty: bool,
}

impl Facts {
    /// Returns the facts of a running group, with a store that lags.
    fn sound() -> Self {
        Self {
            committed: Some(40),
            changelog: bounds(0, 90),
            orders: bounds(7, 50),
            orders_epoch: Some((4, 40)),
            checkpoint: Some(30),
            outbox_is_empty: false,
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
            requests.push(request);
            step = restore.on(match request {
                RestoreRequest::CommittedOffset => {
                    RestoreResponse::CommittedOffset(self.committed.map(Offset))
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
                RestoreRequest::ApplyChangelog(..) => RestoreResponse::ChangelogApplied,
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
            RestoreRequest::ChangelogBounds,
            RestoreRequest::OrdersBounds,
            RestoreRequest::OrdersEpochEnd,
            RestoreRequest::Checkpoint,
            RestoreRequest::ApplyChangelog(Offset(30), Offset(90)),
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
    let step = restore.on(RestoreResponse::CommittedOffset(Some(Offset(9))));
    assert_eq!(step, RestoreStep::Request(RestoreRequest::ChangelogBounds));
    restore.on(RestoreResponse::ChangelogBounds(bounds(0, 5)));
    let again = restore.on(RestoreResponse::CommittedOffset(Some(Offset(9))));
    assert_eq!(
        again,
        RestoreStep::Request(RestoreRequest::ChangelogBounds),
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
    assert_eq!(
        requests.last(),
        Some(&RestoreRequest::ApplyChangelog(Offset(0), Offset(90)))
    );
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
    cut.assert_halted("begins at 31, and the store needs it from 30");
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
    restore.on(RestoreResponse::CommittedOffset(None));
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
