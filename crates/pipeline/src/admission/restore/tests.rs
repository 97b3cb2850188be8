use super::*;

fn names() -> Names {
    Names {
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

/// What a restore comes to, when these are the answers to its questions.
struct Facts {
    committed: Option<i64>,
    changelog: Bounds,
    orders: Bounds,
    checkpoint: Option<i64>,
    outbox_is_empty: bool,
}

impl Facts {
    /// A group in the middle of its work, with a store that lags.
    fn sound() -> Self {
        Self {
            committed: Some(40),
            changelog: bounds(0, 90),
            orders: bounds(7, 50),
            checkpoint: Some(30),
            outbox_is_empty: false,
        }
    }

    /// Asks until the end; also which questions were asked, in their order.
    fn play(&self) -> (Vec<Question>, Step) {
        let names = names();
        let mut restore = Restore::of(&names);
        let mut asked = Vec::new();
        let mut step = Step::Ask(Question::Committed);
        loop {
            let Step::Ask(question) = step else {
                return (asked, step);
            };
            asked.push(question);
            step = restore.on(match question {
                Question::Committed => Answer::Committed(self.committed.map(Offset)),
                Question::ChangelogBounds => Answer::ChangelogBounds(self.changelog),
                Question::OrdersBounds => Answer::OrdersBounds(self.orders),
                Question::Checkpoint => Answer::Checkpoint(self.checkpoint.map(Offset)),
                Question::OutboxIsEmpty => Answer::OutboxIsEmpty(self.outbox_is_empty),
                Question::Read(..) => Answer::Read,
            });
        }
    }

    fn ready(&self, next: i64) {
        assert_eq!(self.play().1, Step::Ready(Offset(next)));
    }

    fn refused(&self, because: &str) {
        match self.play().1 {
            Step::Refused(reason) => assert!(reason.contains(because), "{reason}"),
            other @ (Step::Ask(_) | Step::Ready(_)) => panic!("{other:?} where {because:?} was expected"),
        }
    }
}

#[test]
fn the_committed_offset_comes_first_then_the_high_watermark_then_the_tail() {
    let (asked, step) = Facts::sound().play();
    assert_eq!(
        asked,
        [
            Question::Committed,
            Question::ChangelogBounds,
            Question::OrdersBounds,
            Question::Checkpoint,
            Question::Read(Offset(30), Offset(90)),
        ]
    );
    assert_eq!(step, Step::Ready(Offset(40)));
}

#[test]
fn an_end_that_was_asked_too_early_counts_for_nothing() {
    let names = names();
    let mut restore = Restore::of(&names);
    let step = restore.on(Answer::ChangelogBounds(bounds(0, 5)));
    assert_eq!(step, Step::Ask(Question::Committed));
    let step = restore.on(Answer::Committed(Some(Offset(9))));
    assert_eq!(step, Step::Ask(Question::ChangelogBounds));
    restore.on(Answer::ChangelogBounds(bounds(0, 5)));
    let again = restore.on(Answer::Committed(Some(Offset(9))));
    assert_eq!(again, Step::Ask(Question::ChangelogBounds), "it began anew");
}

#[test]
fn a_new_store_reads_the_whole_changelog() {
    let facts = Facts {
        checkpoint: None,
        ..Facts::sound()
    };
    let (asked, _) = facts.play();
    assert_eq!(asked.last(), Some(&Question::Read(Offset(0), Offset(90))));
}

#[test]
fn a_group_without_an_offset_begins_at_the_oldest_order_if_that_repeats_and_misses_nothing() {
    let never = Facts {
        committed: None,
        ..Facts::sound()
    };
    Facts {
        orders: bounds(0, 50),
        ..never
    }
    .ready(0);
    let never = Facts {
        committed: None,
        ..Facts::sound()
    };
    never.refused("has lost its committed offset of payment-orders/3");
    Facts {
        changelog: bounds(0, 0),
        checkpoint: None,
        outbox_is_empty: true,
        ..never
    }
    .ready(7);
}

#[test]
fn a_gap_in_the_orders_is_refused() {
    Facts {
        committed: Some(6),
        ..Facts::sound()
    }
    .refused("the 1 offsets from 6 to 7 of payment-orders/3 were deleted");
    Facts {
        committed: Some(51),
        ..Facts::sound()
    }
    .refused("the committed offset 51 of payment-orders/3 is behind the partition's end 50");
    let at_the_end = Facts {
        committed: Some(50),
        ..Facts::sound()
    };
    at_the_end.ready(50);
}

#[test]
fn a_changelog_that_has_lost_keys_is_refused() {
    let cut = Facts {
        changelog: bounds(31, 90),
        ..Facts::sound()
    };
    cut.refused("begins at 31, and the store needs it from 30");
    let shorter = Facts {
        changelog: bounds(0, 29),
        ..Facts::sound()
    };
    shorter.refused("If it is another cluster's, remove state/3.redb");
    let gone = Facts {
        changelog: bounds(0, 0),
        checkpoint: None,
        ..Facts::sound()
    };
    gone.refused("is empty, and the outbox pending-api-calls/3 is not");
    let whole = Facts {
        changelog: bounds(30, 30),
        ..Facts::sound()
    };
    whole.ready(40);
}

#[test]
fn a_changelog_that_was_filled_meanwhile_is_not_taken_for_lost() {
    let names = names();
    let mut restore = Restore::of(&names);
    restore.on(Answer::Committed(None));
    restore.on(Answer::ChangelogBounds(bounds(0, 0)));
    restore.on(Answer::OrdersBounds(bounds(0, 50)));
    let step = restore.on(Answer::Checkpoint(None));
    assert_eq!(step, Step::Ask(Question::OutboxIsEmpty));
    let step = restore.on(Answer::OutboxIsEmpty(false));
    assert_eq!(step, Step::Ask(Question::ChangelogBounds), "to be sure");
    let step = restore.on(Answer::ChangelogBounds(bounds(0, 3)));
    assert_eq!(step, Step::Ask(Question::Committed), "it begins anew");
}
