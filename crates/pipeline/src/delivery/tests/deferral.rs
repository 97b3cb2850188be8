//! DeferralLimits calls: when they are deferred or given up, and what follows.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Fails each request for a call, until the story goes on with something else.
fn fail(story: &mut Story, offset: i64) {
    let call = story.id(offset);
    story.answer(offset, 429);
    if story
        .asked
        .iter()
        .any(|action| matches!(action, Action::Wait { .. }))
    {
        story.tell(Event::WaitElapsed(call));
    }
}

/// A partition with a call at 7 that has failed for a minute, and one at 8 that was accepted meanwhile.
fn deferral(policy: Policy) -> Story {
    let mut story = Story::with(LIMITS, policy);
    story.assign(loaded(Some(7), ""));
    story.pending(7, "a");
    drive(&mut story, 7);
    fail(&mut story, 7);
    drive(&mut story, 7);
    story.later(MINUTE);
    story.pending(8, "b");
    drive(&mut story, 8);
    story.answer(8, 201).acknowledge(8);
    story
}

impl Story {
    /// No commit is in flight, and much later calls may be sent again.
    fn later(&mut self, time: Duration) {
        for _ in 0..20 {
            self.prove();
        }
        self.now += time;
        self.prove();
    }

    /// A commit is acknowledged, so that calls may be sent.
    fn prove(&mut self) {
        self.tell(Event::Tick);
        if self.delivery.in_flight.is_some() {
            self.committed();
        }
    }
}

/// Lets commits come through until a call is under way.
fn drive(story: &mut Story, offset: i64) {
    for _ in 0..20 {
        let is_calling = |(id, call): (CallId, &Call<()>)| {
            id.offset == Offset(offset) && call.state == CallState::InFlight
        };
        if story.delivery.calls().any(is_calling) {
            return;
        }
        story.now += 10 * MS;
        story.prove();
    }
    panic!(
        "{offset} is not called: {:?}",
        story.delivery.calls().collect::<Vec<_>>()
    );
}

/// Lets the commit in flight end, if there is one, and time pass, until a deferral is asked for.
fn until_deferred(story: &mut Story) -> (Vec<DeferredCopy<()>>, Vec<Commit>) {
    for _ in 0..20 {
        let found = story
            .asked
            .iter()
            .position(|action| matches!(action, Action::Defer { .. }));
        if let Some(at) = found
            && let Action::Defer { copies, commits } = story.asked.swap_remove(at)
        {
            return (copies, commits);
        }
        story.now += 10 * MS;
        match story.delivery.in_flight.is_some() {
            true => story.committed(),
            false => story.tell(Event::Tick),
        };
    }
    panic!(
        "nothing is deferred: {:?}",
        story.delivery.calls().collect::<Vec<_>>()
    );
}

fn is_deferred(story: &Story, offset: i64) -> bool {
    let mut calls = story.delivery.calls();
    calls.any(|(id, call)| {
        id.offset == Offset(offset)
            && matches!(call.state, CallState::AwaitingDeferral | CallState::Deferring)
    })
}

fn continued(origin: i64, ambiguity: Option<Ambiguity>) -> DeferralContext {
    DeferralContext {
        origin: Offset(origin),
        attempts: 40,
        attempts_ambiguous: u32::from(ambiguity.is_some()),
        lookups: 0,
        ambiguity,
        seen_before: Duration::ZERO,
    }
}

#[test]
fn a_call_that_fails_while_others_succeed_is_deferred() {
    for policy in Policy::ALL {
        let mut story = deferral(policy);
        story.answer(7, 429);
        assert!(is_deferred(&story, 7), "{policy:?}");
        let (copies, commits) = until_deferred(&mut story);
        assert_eq!((copies.len(), copies[0].call.offset), (1, Offset(7)));
        assert_eq!((copies[0].history.attempts, copies[0].ambiguity), (2, None));
        // Both are final with it, and nothing has begun.
        assert_eq!((commits[0].offset, commits[0].note.as_str()), (Offset(9), ""));
        story.pass(MINUTE / 60).check(&[]);
        story.committed();
        assert_eq!(story.delivery.calls().count(), 0);
        assert_eq!(story.delivery.gauges().bytes_open, 0);
    }
}

#[test]
fn in_an_outage_nothing_is_deferred_while_there_is_room() {
    let mut story = Story::with(LIMITS, Policy::Retry);
    story.assign(loaded(Some(7), ""));
    story.pending(7, "a").pending(8, "b");
    for _ in 0..10 {
        for offset in [7, 8] {
            drive(&mut story, offset);
            fail(&mut story, offset);
            assert!(!is_deferred(&story, offset));
            story.later(MINUTE);
        }
    }
    // Four take all places, and then those that have failed for long make room.
    story.pending(9, "c").pending(10, "d");
    drive(&mut story, 7);
    story.answer(7, 429);
    assert!(is_deferred(&story, 7));
}

#[test]
fn without_the_setting_nothing_is_deferred() {
    let mut limits = LIMITS;
    limits.deferral.defer_after = None;
    limits.calls_in_flight_max = 4;
    let mut story = Story::with(limits, Policy::Retry);
    story.assign(loaded(Some(7), ""));
    story
        .pending(7, "a")
        .pending(8, "b")
        .pending(9, "c")
        .pending(10, "d");
    for _ in 0..5 {
        drive(&mut story, 7);
        fail(&mut story, 7);
        story.later(MINUTE);
        assert!(!is_deferred(&story, 7));
    }
}

#[test]
fn the_window_stops_intake_until_the_stubborn_call_is_gone() {
    let mut limits = LIMITS;
    limits.deferral.window_max = 20;
    let mut story = Story::with(limits, Policy::Retry);
    story.assign(loaded(Some(7), ""));
    story.pending(7, "a");
    drive(&mut story, 7);
    fail(&mut story, 7);
    story.pending(26, "b");
    assert!(
        story
            .asked
            .iter()
            .any(|action| matches!(action, Action::Pause(_))),
        "{:?}",
        story.asked
    );
    drive(&mut story, 26);
    story.later(MS);
    story.answer(26, 201).acknowledge(26);
    // The partition is full and others succeed, so it does not take a minute.
    drive(&mut story, 7);
    story.answer(7, 429);
    let (_, commits) = until_deferred(&mut story);
    assert_eq!(commits[0].offset, Offset(27));
    story.committed();
    assert!(
        story
            .asked
            .iter()
            .any(|action| matches!(action, Action::Resume(_))),
        "{:?}",
        story.asked
    );
}

#[test]
fn no_commit_is_made_beside_a_deferral_and_none_that_forgets_it() {
    let mut story = deferral(Policy::Retry);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.pending(9, "c").check(&["send 9"]);
    story.answer(9, 201).acknowledge(9).check(&[]);
    story.pass(MINUTE / 60).check(&[]);
    story.committed();
    let commits = story.asked.iter().find_map(|action| match action {
        Action::Commit(commits) => Some(commits),
        _ => None,
    });
    assert_eq!(commits.expect("a commit")[0].offset, Offset(10));
}

#[test]
fn calls_of_its_key_go_with_it_or_after_it() {
    let mut story = deferral(Policy::Retry);
    story.pending(9, "a").pending(10, "c");
    drive(&mut story, 10);
    story.answer(7, 429);
    let (copies, _) = until_deferred(&mut story);
    let offsets: Vec<i64> = copies.iter().map(|copy| copy.call.offset.0).collect();
    assert_eq!((offsets, copies[1].history.attempts), (vec![7, 9], 0));
    // One comes while the copies are on their way.
    story.pending(11, "a").committed();
    assert!(is_deferred(&story, 11));
    until_deferred(&mut story);
    story.committed();
    // The copies come, and are called in their order.
    let untried = DeferralContext {
        attempts: 0,
        ..continued(9, None)
    };
    story
        .pending_as(20, "a", Some(continued(7, None)))
        .check(&["send 20"]);
    story.pending_as(21, "a", Some(untried)).check(&[]);
    story.answer(20, 201).acknowledge(20);
    assert!(
        story
            .asked
            .iter()
            .any(|action| matches!(action, Action::Send { call, .. } if call.offset == Offset(21)))
    );
}

/// Story: an earlier owner has left the copies of two calls the wrong way round.
#[test]
fn copies_the_wrong_way_round_do_not_go_round_for_ever() {
    let mut story = deferral(Policy::Retry);
    story.pending_as(20, "a", Some(continued(9, None)));
    story.pending_as(21, "a", Some(continued(5, None)));
    // 7 is deferred, and takes 20 along, which lay behind it, but not 21.
    story.answer(7, 429);
    let (copies, _) = until_deferred(&mut story);
    let offsets: Vec<i64> = copies.iter().map(|copy| copy.call.offset.0).collect();
    assert_eq!(offsets, [7, 20]);
    story.committed();
    drive(&mut story, 21);
}

#[test]
fn a_copy_that_arrives_before_its_transaction_is_told_waits_for_that() {
    let mut story = deferral(Policy::Retry);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.pending_as(20, "a", Some(continued(7, None))).check(&[]);
    story.committed();
    assert!(
        story.asked.iter().any(
            |action| matches!(action, Action::Send { call, attempt: 41, .. } if call.offset == Offset(20))
        )
    );
}

#[test]
fn a_call_that_was_not_deferred_goes_on_where_it_is() {
    let mut story = deferral(Policy::Park);
    story.pending(9, "a");
    story.answer(7, 429);
    until_deferred(&mut story);
    story
        .tell(Event::Committed(CommitResult::Rejected))
        // A commit need not wait for another deferral.
        .check(&["wait 7 Attempt", "commit 7"]);
    let call = story.id(7);
    story.tell(Event::WaitElapsed(call));
    drive(&mut story, 7);
    story.answer(7, 201).acknowledge(7);
    drive(&mut story, 9);
}

#[test]
fn after_a_deferral_that_nobody_knows_of_the_group_is_joined_anew() {
    let mut story = deferral(Policy::Park);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.tell(Event::Committed(CommitResult::Unknown));
    story.check(&["withhold", "rejoin"]);
    assert_eq!(story.delivery.calls().count(), 0);
    // One that is not answered at all is unknown, too.
    let mut story = deferral(Policy::Park);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.pass(LIMITS.commit_max).check(&["withhold", "rejoin"]);
}

#[test]
fn a_partition_that_goes_waits_for_its_deferral() {
    let mut story = deferral(Policy::Retry);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.tell(Event::Revoked(vec![P])).check(&["pause"]);
    story.pass(LIMITS.drain_timeout).check(&["withhold", "rejoin"]);
    let mut story = deferral(Policy::Retry);
    story.answer(7, 429);
    until_deferred(&mut story);
    story.tell(Event::Revoked(vec![P])).check(&["pause"]);
    story.committed();
    let last = story.asked.iter().find_map(|action| match action {
        Action::Commit(commits) => Some(commits[0].offset),
        _ => None,
    });
    assert_eq!(last, Some(Offset(9)), "{:?}", story.asked);
    story.committed().check(&["permit", "give up, 0 abandoned"]);
}

#[test]
fn what_nobody_can_know_goes_with_the_copy_and_is_never_forgotten() {
    // Under retry the copy says it, and the next request is a repeated one.
    let mut story = deferral(Policy::Retry);
    story.answer(7, 500);
    let (copies, _) = until_deferred(&mut story);
    assert_eq!(
        (copies[0].ambiguity, copies[0].history.attempts_ambiguous),
        (Some(Ambiguity::AmbiguousResponse), 1)
    );
    story.committed();
    let doubtful = Some(continued(7, Some(Ambiguity::AmbiguousResponse)));
    story
        .pending_as(20, "a", doubtful)
        .check(&["send 20 again: ambiguous"]);

    // Under park such a call is parked where it is.
    let mut story = deferral(Policy::Park);
    story.answer(7, 500).check(&["publish 7"]);

    // Should its policy be another one by then, it is parked, or looked up after all that it may take.
    let settle = LIMITS.ownership_lease + verify().api_processing_max;
    for (policy, wait, then) in [
        (Policy::Park, LIMITS.ownership_lease, "publish 20"),
        (Policy::Verify, settle, "look up 20"),
    ] {
        let mut story = Story::with(LIMITS, policy);
        story.assign(loaded(Some(20), ""));
        story.later(MINUTE);
        story.pending_as(20, "a", doubtful);
        let waits = story.asked.iter().find_map(|action| match action {
            Action::Wait { at_least, .. } => Some(*at_least),
            _ => None,
        });
        assert_eq!(waits, Some(wait));
        story.later(wait);
        let call = story.id(20);
        story.tell(Event::WaitElapsed(call));
        assert!(
            story.asked.iter().any(|action| short(action) == then),
            "{:?}",
            story.asked
        );
    }
}

#[test]
fn under_verify_a_call_that_cannot_be_looked_up_is_deferred_with_its_doubt() {
    let mut story = deferral(Policy::Verify);
    story.answer(7, 500);
    let call = story.id(7);
    story.later(verify().api_processing_max);
    story.tell(Event::WaitElapsed(call));
    story.answer_look_up(7, 503);
    let (copies, commits) = until_deferred(&mut story);
    assert_eq!(
        (copies[0].ambiguity, copies[0].lookups),
        (Some(Ambiguity::AmbiguousResponse), 1)
    );
    assert_eq!(commits[0].note, "");
    story.tell(Event::Committed(CommitResult::Rejected));
    assert!(
        story.asked.iter().any(|action| short(action) == "wait 7 LookUp"),
        "{:?}",
        story.asked
    );
    story.tell(Event::WaitElapsed(call)).check(&["look up 7"]);
}

#[test]
fn a_call_is_given_up_by_the_time_since_it_was_first_seen() {
    let mut limits = LIMITS;
    limits.deferral.abandon_after = Some(10 * MINUTE);
    let given_up = |ambiguity, policy: Policy, status| {
        let mut story = Story::with(limits, policy);
        let before = DeferralContext {
            seen_before: 9 * MINUTE,
            ..continued(3, ambiguity)
        };
        story.assign(loaded(Some(7), ""));
        story.pending_as(7, "a", Some(before));
        drive(&mut story, 7);
        fail(&mut story, 7);
        story.later(MINUTE);
        drive(&mut story, 7);
        story.answer(7, status);
        let ending = story.asked.iter().find_map(|action| match action {
            Action::Publish { ending, .. } => Some(ending.clone()),
            _ => None,
        });
        (*ending.expect("an end")).clone()
    };
    for policy in Policy::ALL {
        let ending = given_up(None, policy, 429);
        assert!(
            matches!(&ending, FinalState::Abandoned(Some(Response::Status(reply))) if reply.status == 429),
            "{ending:?}"
        );
    }
    // Also under retry nobody is told that it was surely not processed when it may have been.
    for (ambiguity, status) in [(Some(Ambiguity::AmbiguousResponse), 429), (None, 500)] {
        let ending = given_up(ambiguity, Policy::Retry, status);
        assert!(
            matches!(&ending, FinalState::Parked(evidence) if evidence.last.is_some()),
            "{ending:?}"
        );
    }
}
