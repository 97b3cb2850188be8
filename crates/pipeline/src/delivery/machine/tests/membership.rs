//! Assignment, ownership lease, drains and rejoins.

use records::{EpochEnd, LeaderEpoch, TopicId};

use super::*;

#[test]
fn inherited_intent_makes_a_repeated_call() {
    let mut note = CallNote::default();
    note.intents.insert(Offset(8));
    note.finals.insert(Offset(9));
    let mut scenario = Scenario::started(7, &note.encode(Offset(7)).expect("a note"));
    scenario.pending(8, "b").check(&["send 8 again: redelivered"]);
    scenario.pending(9, "c").check(&[]);
    scenario.respond(7, 201);
    scenario.acknowledge(7);
    scenario.pending(10, "d").check(&["send 10"]);
}

/// An operator has a rejected call made again by default, unless its dead letter has an ambiguous attempt.
#[test]
fn dead_letter_tells_of_an_inherited_intent() {
    let inherited = |policy| {
        let mut note = CallNote::default();
        note.intents.insert(Offset(8));
        let mut scenario = Scenario::under(policy);
        scenario.assign(loaded(Some(7), &note.encode(Offset(7)).expect("a note")));
        scenario.pending(7, "a").committed();
        scenario
    };
    let mut scenario = inherited(Policy::Retry);
    scenario.pending(8, "b").check(&["send 8 again: redelivered"]);
    scenario.respond(8, 422).check_published(8, "rejected", (1, 1));
    // That of the next call was the only one.
    scenario.respond(7, 422).check_published(7, "rejected", (1, 0));
    // Without a request of this caller, under each policy.
    for policy in Policy::ALL {
        let mut scenario = inherited(policy);
        scenario.pending(8, "").check_published(8, "no call", (0, 1));
        scenario.pending(9, "").check_published(9, "no call", (0, 0));
    }
    // A deferral carries it on, and adds no request.
    let redelivered = DeferralContext {
        attempts_ambiguous: 0,
        ..deferral::deferral_context(3, Some(Ambiguity::Redelivered))
    };
    let mut scenario = inherited(Policy::Retry);
    scenario.pending_as(9, "c", Some(redelivered));
    scenario.respond(9, 422).check_published(9, "rejected", (41, 1));
    // Other records say what this caller has sent.
    let mut scenario = inherited(Policy::Retry);
    scenario
        .pending(8, "b")
        .respond(8, 201)
        .check_published(8, "accepted", (1, 0));
    let mut scenario = inherited(Policy::Park);
    scenario.pending(8, "b");
    let call = scenario.id(8);
    scenario
        .advance(LIMITS.ownership_lease)
        .on(Event::WaitElapsed(call));
    scenario.check_published(8, "parked", (0, 0));
    let mut scenario = inherited(Policy::Verify);
    scenario.pending(8, "b");
    let call = scenario.id(8);
    scenario
        .advance(LIMITS.ownership_lease + verify().quiescence())
        .on(Event::WaitElapsed(call));
    // The API has never seen the order.
    scenario
        .respond_to_look_up(8, 404)
        .committed()
        .committed()
        .committed();
    scenario.respond(8, 422).check_published(8, "rejected", (1, 0));
}

#[test]
fn nothing_is_sent_past_the_ownership_lease() {
    let mut scenario = Scenario::started(7, "");
    scenario.respond(7, 201);
    scenario.acknowledge(7);
    scenario.advance(10 * MS).check(&["commit 8"]);
    scenario.on(Event::Committed(CommitResult::Committed));
    scenario.now += Duration::from_secs(5);
    scenario.pending(8, "b").check(&["commit 8"]);
    // The lease counts from when the commit was sent: one that took too long extends nothing.
    scenario.now += Duration::from_secs(5);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "commit 8"]);
    scenario.now += Duration::from_secs(4);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "send 8", "commit 8"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease"]);
    // While a request is in flight the lease is renewed at half its length.
    assert_eq!(
        scenario.delivery.wake_at(scenario.now),
        Some(scenario.now + Duration::from_millis(2_500))
    );
    scenario
        .advance(Duration::from_millis(2_500))
        .check(&["commit 8"]);
}

/// Another owner would make them again, if the coordinator has gone with the commit.
#[test]
fn calls_wait_for_the_commits_of_earlier_ones() {
    let limits = Limits {
        calls_open_max: 100,
        ..LIMITS
    };
    let mut scenario = Scenario::with(limits, Policy::Retry);
    scenario.assign(loaded(Some(0), ""));
    scenario.pending(0, "k0");
    // The lease; the next commit is in flight from now on.
    scenario.on(Event::Committed(CommitResult::Committed));
    for offset in 0..32 {
        scenario.respond(offset, 201);
        scenario.acknowledge(offset);
        scenario.pending(offset + 1, &format!("k{}", offset + 1));
    }
    scenario.check(&[]);
    scenario.advance(10 * MS);
    scenario.on(Event::Committed(CommitResult::Committed));
    assert!(
        scenario
            .actions
            .iter()
            .any(|action| matches!(action, Action::Send { call, .. } if call.offset == Offset(32)))
    );
}

#[test]
fn revoked_partition_drains_before_its_release() {
    let mut scenario = Scenario::started(7, "");
    scenario.pending(8, "b").check(&["send 8"]);
    scenario.pending(9, "c").check(&[]);
    scenario.advance(10 * MS).check(&["commit 7"]);
    scenario.on(Event::Revoked(vec![P])).check(&["pause"]);
    scenario.respond(8, 500).check(&[]);
    scenario.respond(7, 201).check(&["publish 7"]);
    scenario.acknowledge(7).check(&[]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "commit 8"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "release, 0 abandoned"]);
}

#[test]
fn drain_times_out_and_notes_what_is_ambiguous() {
    let mut scenario = Scenario::started(7, "");
    scenario
        .advance(10 * MS)
        .on(Event::Committed(CommitResult::Committed));
    scenario.on(Event::Stop).check(&["pause"]);
    assert_eq!(
        scenario.delivery.wake_at(scenario.now),
        Some(scenario.now + LIMITS.drain_timeout)
    );
    scenario
        .advance(LIMITS.drain_timeout)
        .check(&["withhold", "commit 7"]);
    let Some(Action::Commit(commits)) = scenario.actions.last() else {
        panic!("{:?}", scenario.actions);
    };
    let note = CallNote::decode(Offset(7), &commits[0].note).expect("a note");
    assert!(note.intents.contains(Offset(7)));
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "finish"]);
}

#[test]
fn lost_partition_commits_nothing() {
    let mut scenario = Scenario::started(7, "");
    scenario.respond(7, 201);
    scenario.acknowledge(7);
    scenario.advance(10 * MS).check(&["commit 8"]);
    scenario.on(Event::Lost(vec![P])).check(&["withhold"]);
    scenario
        .on(Event::Committed(CommitResult::Fenced))
        .check(&["release, 0 abandoned"]);
    assert!(!scenario.delivery.lease.may_send(scenario.now));
    let nothing = Gauges {
        calls_in_flight_limit: 2,
        ..Gauges::default()
    };
    assert_eq!(scenario.delivery.gauges(), nothing);
}

#[test]
fn returning_partition_is_not_called_again() {
    let mut scenario = Scenario::started(7, "");
    scenario.pending(8, "b").check(&["send 8"]);
    let (ended, in_flight) = (scenario.id(7), scenario.id(8));
    scenario.respond(7, 201);
    scenario.on(Event::Published {
        call: ended,
        acknowledged: true,
    });
    // 7 is final and not committed, the request of 8 is in flight.
    scenario
        .on(Event::Lost(vec![P]))
        .check(&["withhold", "release, 1 abandoned"]);
    scenario.assign(loaded(Some(7), "")).check(&["start at 7"]);
    scenario.pending(7, "first").check(&[]);
    scenario.pending(8, "b").check(&[]);
    scenario.pending(9, "c").check(&[]);
    scenario.advance(10 * MS).check(&["commit 7"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "send 9"]);
    scenario
        .respond_with(in_flight, status_of(201))
        .check(&["publish 8"]);
    scenario.acknowledge(8);
    scenario.advance(10 * MS).check(&["commit 9"]);
}

#[test]
fn unknown_commit_result_leads_to_a_rejoin() {
    for result in [CommitResult::Unknown, CommitResult::Fenced] {
        let mut scenario = Scenario::started(7, "");
        scenario.advance(10 * MS).check(&["commit 7"]);
        scenario
            .on(Event::Committed(result))
            .check(&["withhold", "rejoin"]);
    }
    let mut scenario = Scenario::started(7, "");
    scenario.advance(10 * MS).check(&["commit 7"]);
    scenario.advance(LIMITS.commit_max).check(&["withhold", "rejoin"]);
}

#[test]
fn offsets_never_reset_silently() {
    let check = |loaded: LoadedNotes, expected: &str| {
        let mut scenario = Scenario::new();
        scenario.assign(loaded).check(&[expected]);
    };
    let with_log = |committed: Option<i64>, start: i64, end: i64| LoadedNotes {
        log_start: Offset(start),
        log_end: Offset(end),
        ..loaded(committed, "")
    };
    check(with_log(Some(7), 7, 7), "start at 7");
    check(with_log(Some(6), 7, 9), "halt");
    check(with_log(Some(10), 7, 9), "halt");
    check(with_log(None, 7, 9), "halt");
    check(with_log(None, 0, 9), "halt");
    // The records are gone, or none can be read: calls of them may have been made.
    check(with_log(None, 9, 9), "halt");
    check(with_log(None, 0, 1), "halt");
    let with_epoch_end = |end| LoadedNotes {
        epoch_end: Some(EpochEnd {
            epoch: LeaderEpoch(4),
            end: Offset(end),
        }),
        ..loaded(Some(7), "")
    };
    check(with_epoch_end(7), "start at 7");
    // The log was truncated, and has grown again.
    check(with_epoch_end(6), "halt");
    check(loaded(Some(7), "3:rAQE:"), "halt");
    check(loaded(Some(7), "\u{fffd}"), "halt");
}

fn with_outbox(id: &str, loaded: LoadedNotes) -> LoadedNotes {
    LoadedNotes {
        outbox: TopicId::new(id),
        ..loaded
    }
}

#[test]
fn recreated_outbox_halts() {
    let note = CallNote {
        outbox: TopicId::new("old"),
        ..CallNote::default()
    };
    // Its offsets may lie within the new log, or not.
    for committed in [7, 2_000] {
        let text = note.encode(Offset(committed)).expect("a note");
        let mut scenario = Scenario::new();
        scenario.assign(with_outbox("new", loaded(Some(committed), &text)));
        let [Action::Halt { why, .. }] = &scenario.actions[..] else {
            panic!("{:?}", scenario.actions);
        };
        let repair = why.repair("callers", "outbox", Partition(0));
        let why = why.to_string();
        assert!(why.contains("with the id old, and the id is new now"), "{why}");
        assert!(repair.contains("--topic outbox --delete-offsets"), "{repair}");
    }
    let text = note.encode(Offset(7)).expect("a note");
    let mut scenario = Scenario::new();
    scenario.assign(with_outbox("old", loaded(Some(7), &text)));
    scenario.check(&["start at 7"]);
    // Brokers that do not report ids prove nothing.
    let mut scenario = Scenario::new();
    scenario.assign(loaded(Some(7), &text)).check(&["start at 7"]);
}

#[test]
fn each_note_has_the_id_of_the_outbox() {
    let outbox_in = |commits: &[Commit]| {
        let note = CallNote::decode(commits[0].offset, &commits[0].note).expect("a note");
        note.outbox.map(|id| id.to_string())
    };
    // Of an earlier version, or set by an operator.
    for text in ["", "1:bAg:"] {
        let mut scenario = Scenario::new();
        scenario.assign(with_outbox("id", loaded(Some(7), text)));
        scenario.pending(7, "first");
        let [Action::Commit(commits)] = &scenario.actions[..] else {
            panic!("{:?}", scenario.actions);
        };
        assert_eq!(outbox_in(commits).as_deref(), Some("id"));
    }
    // Known ids are kept while the brokers report none.
    let mut scenario = Scenario::new();
    scenario.assign(loaded(Some(7), "2:id::"));
    scenario.pending(7, "first");
    let [Action::Commit(commits)] = &scenario.actions[..] else {
        panic!("{:?}", scenario.actions);
    };
    assert_eq!(outbox_in(commits).as_deref(), Some("id"));
}

/// Otherwise a group that began beside an empty outbox would halt at a start after the first orders.
#[test]
fn start_at_an_empty_outbox_is_committed_at_once() {
    let empty = LoadedNotes {
        log_end: Offset(0),
        ..loaded(None, "")
    };
    let mut scenario = Scenario::new();
    scenario
        .assign(empty.clone())
        .check(&["start for the first time at 0", "commit 0"]);
    // The group rebalances and takes no commit: it is made again, though no call waits for it.
    scenario.on(Event::Committed(CommitResult::Rejected)).check(&[]);
    scenario.advance(100 * MS).check(&["commit 0"]);
    scenario.committed().check(&["extend lease"]);
    assert_eq!(scenario.delivery.wake_at(scenario.now), None);
    Scenario::new().assign(loaded(Some(0), "")).check(&["start at 0"]);

    // A shutdown does not leave before it.
    let mut scenario = Scenario::new();
    scenario.assign(empty);
    scenario.on(Event::Stop).check(&["pause"]);
    scenario.committed().check(&["extend lease", "finish"]);
}

#[test]
fn events_of_an_earlier_assignment_do_nothing() {
    let mut scenario = Scenario::started(7, "");
    let old = scenario.id(7);
    scenario.on(Event::Lost(vec![P]));
    scenario.assign(loaded(Some(7), ""));
    scenario.on(Event::WaitElapsed(old)).check(&[]);
    scenario
        .on(Event::Published {
            call: old,
            acknowledged: true,
        })
        .check(&[]);
    let loaded = loaded(Some(9), "");
    scenario
        .on(Event::NotesLoaded {
            assignment: old.assignment,
            partition: P,
            loaded,
        })
        .check(&[]);
}
