//! Calls that keep failing: deferral, and abandoning.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Fails the request of a call, and ends its backoff.
fn fail(scenario: &mut Scenario, offset: i64) {
    let call = scenario.id(offset);
    scenario.respond(offset, 429);
    if scenario
        .actions
        .iter()
        .any(|action| matches!(action, Action::Wait { .. }))
    {
        scenario.on(Event::WaitElapsed(call));
    }
}

/// A partition with a call at 7 that has failed for a minute, and one at 8 that was accepted meanwhile.
pub(super) fn deferral(policy: Policy) -> Scenario {
    let mut scenario = Scenario::with(LIMITS, policy);
    scenario.assign(loaded(Some(7), "2:id::"));
    scenario.pending(7, "a");
    drive(&mut scenario, 7);
    fail(&mut scenario, 7);
    drive(&mut scenario, 7);
    scenario.later(MINUTE);
    scenario.pending(8, "b");
    drive(&mut scenario, 8);
    scenario.respond(8, 201).acknowledge(8);
    scenario
}

impl Scenario {
    /// Lets time pass, with commits acknowledged before and after.
    fn later(&mut self, time: Duration) {
        for _ in 0..20 {
            self.prove();
        }
        self.now += time;
        self.prove();
    }

    /// Acknowledges the commit in flight, which extends the lease.
    fn prove(&mut self) {
        self.on(Event::Tick);
        if self.has_commit_in_flight() {
            self.committed();
        }
    }
}

/// Acknowledges commits until a call is in flight.
fn drive(scenario: &mut Scenario, offset: i64) {
    for _ in 0..20 {
        let is_calling = |(id, call): (CallId, &Call<()>)| {
            id.offset == Offset(offset) && *call.state().0 == CallState::InFlight
        };
        if scenario.delivery.calls().any(is_calling) {
            return;
        }
        scenario.now += 10 * MS;
        scenario.prove();
    }
    panic!(
        "{offset} is not called: {:?}",
        scenario.delivery.calls().collect::<Vec<_>>()
    );
}

/// Acknowledges commits and lets time pass until a deferral is sent.
pub(super) fn until_deferred(scenario: &mut Scenario) -> (Vec<DeferredCopy<()>>, Vec<Commit>) {
    for _ in 0..20 {
        let found = scenario
            .actions
            .iter()
            .position(|action| matches!(action, Action::Defer { .. }));
        if let Some(at) = found
            && let Action::Defer { copies, commits } = scenario.actions.swap_remove(at)
        {
            return (copies, commits);
        }
        scenario.now += 10 * MS;
        match scenario.has_commit_in_flight() {
            true => scenario.committed(),
            false => scenario.on(Event::Tick),
        };
    }
    panic!(
        "nothing is deferred: {:?}",
        scenario.delivery.calls().collect::<Vec<_>>()
    );
}

fn is_deferred(scenario: &Scenario, offset: i64) -> bool {
    let mut calls = scenario.delivery.calls();
    calls.any(|(id, call)| {
        id.offset == Offset(offset)
            && matches!(call.state().0, CallState::AwaitingDeferral | CallState::Deferring)
    })
}

pub(super) fn deferral_context(origin: i64, ambiguity: Option<Ambiguity>) -> DeferralContext {
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
fn call_that_fails_while_others_succeed_is_deferred() {
    for policy in Policy::ALL {
        let mut scenario = deferral(policy);
        scenario.respond(7, 429);
        assert!(is_deferred(&scenario, 7), "{policy:?}");
        let (copies, commits) = until_deferred(&mut scenario);
        assert_eq!((copies.len(), copies[0].call.offset), (1, Offset(7)));
        assert_eq!((copies[0].history.attempts, copies[0].ambiguity), (2, None));
        // Both are final with it, and no intent is recorded. The outbox's id is.
        assert_eq!(
            (commits[0].offset, commits[0].note.as_str()),
            (Offset(9), "2:id::")
        );
        scenario.advance(MINUTE / 60).check(&[]);
        scenario.committed();
        assert_eq!(scenario.delivery.calls().count(), 0);
        assert_eq!(scenario.delivery.gauges().bytes_open, 0);
    }
}

#[test]
fn outage_defers_nothing_while_there_is_room() {
    let mut scenario = Scenario::with(LIMITS, Policy::Retry);
    scenario.assign(loaded(Some(7), ""));
    scenario.pending(7, "a").pending(8, "b");
    for _ in 0..10 {
        for offset in [7, 8] {
            drive(&mut scenario, offset);
            fail(&mut scenario, offset);
            assert!(!is_deferred(&scenario, offset));
            scenario.later(MINUTE);
        }
    }
    // Four fill the partition, and then those that have failed for long make room.
    scenario.pending(9, "c").pending(10, "d");
    drive(&mut scenario, 7);
    scenario.respond(7, 429);
    assert!(is_deferred(&scenario, 7));
}

#[test]
fn nothing_is_deferred_without_the_setting() {
    let mut limits = LIMITS;
    limits.deferral.defer_after = None;
    limits.calls_in_flight_max = 4;
    let mut scenario = Scenario::with(limits, Policy::Retry);
    scenario.assign(loaded(Some(7), ""));
    scenario
        .pending(7, "a")
        .pending(8, "b")
        .pending(9, "c")
        .pending(10, "d");
    for _ in 0..5 {
        drive(&mut scenario, 7);
        fail(&mut scenario, 7);
        scenario.later(MINUTE);
        assert!(!is_deferred(&scenario, 7));
    }
}

#[test]
fn full_window_defers_the_failing_call() {
    let mut limits = LIMITS;
    limits.deferral.window_max = 20;
    let mut scenario = Scenario::with(limits, Policy::Retry);
    scenario.assign(loaded(Some(7), ""));
    scenario.pending(7, "a");
    drive(&mut scenario, 7);
    fail(&mut scenario, 7);
    scenario.pending(26, "b");
    assert!(
        scenario
            .actions
            .iter()
            .any(|action| matches!(action, Action::Pause(_))),
        "{:?}",
        scenario.actions
    );
    drive(&mut scenario, 26);
    scenario.later(MS);
    scenario.respond(26, 201).acknowledge(26);
    // The partition is full and others succeed, so it does not take a minute.
    drive(&mut scenario, 7);
    scenario.respond(7, 429);
    let (_, commits) = until_deferred(&mut scenario);
    assert_eq!(commits[0].offset, Offset(27));
    scenario.committed();
    assert!(
        scenario
            .actions
            .iter()
            .any(|action| matches!(action, Action::Resume(_))),
        "{:?}",
        scenario.actions
    );
}

#[test]
fn no_commit_is_made_beside_a_deferral() {
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.pending(9, "c").check(&["send 9"]);
    scenario.respond(9, 201).acknowledge(9).check(&[]);
    scenario.advance(MINUTE / 60).check(&[]);
    scenario.committed();
    let commits = scenario.actions.iter().find_map(|action| match action {
        Action::Commit(commits) => Some(commits),
        _ => None,
    });
    assert_eq!(commits.expect("a commit")[0].offset, Offset(10));
}

#[test]
fn calls_of_the_same_key_follow_the_deferred_one() {
    let mut scenario = deferral(Policy::Retry);
    scenario.pending(9, "a").pending(10, "c");
    drive(&mut scenario, 10);
    scenario.respond(7, 429);
    let (copies, _) = until_deferred(&mut scenario);
    let offsets: Vec<i64> = copies.iter().map(|copy| copy.call.offset.0).collect();
    assert_eq!((offsets, copies[1].history.attempts), (vec![7, 9], 0));
    // One arrives while the copies are in transit.
    scenario.pending(11, "a").committed();
    assert!(is_deferred(&scenario, 11));
    until_deferred(&mut scenario);
    scenario.committed();
    // The copies arrive, and are called in their order.
    let untried = DeferralContext {
        attempts: 0,
        ..deferral_context(9, None)
    };
    scenario
        .pending_as(20, "a", Some(deferral_context(7, None)))
        .check(&["send 20"]);
    scenario.pending_as(21, "a", Some(untried)).check(&[]);
    scenario.respond(20, 201).acknowledge(20);
    assert!(
        scenario
            .actions
            .iter()
            .any(|action| matches!(action, Action::Send { call, .. } if call.offset == Offset(21)))
    );
}

/// Scenario: an earlier owner has left the copies of two calls out of order.
#[test]
fn copies_out_of_order_do_not_defer_each_other() {
    let mut scenario = deferral(Policy::Retry);
    scenario.pending_as(20, "a", Some(deferral_context(9, None)));
    scenario.pending_as(21, "a", Some(deferral_context(5, None)));
    // 7 is deferred with 20, which stood behind it, but without 21.
    scenario.respond(7, 429);
    let (copies, _) = until_deferred(&mut scenario);
    let offsets: Vec<i64> = copies.iter().map(|copy| copy.call.offset.0).collect();
    assert_eq!(offsets, [7, 20]);
    scenario.committed();
    drive(&mut scenario, 21);
}

#[test]
fn copy_waits_for_the_result_of_its_transaction() {
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario
        .pending_as(20, "a", Some(deferral_context(7, None)))
        .check(&[]);
    scenario.committed();
    assert!(
        scenario.actions.iter().any(
            |action| matches!(action, Action::Send { call, attempt: 41, .. } if call.offset == Offset(20))
        )
    );
}

#[test]
fn aborted_deferral_is_retried_in_place() {
    let mut scenario = deferral(Policy::Park);
    scenario.pending(9, "a");
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario
        .on(Event::Committed(CommitResult::Rejected))
        // A commit need not wait for another deferral.
        .check(&["wait 7 Attempt", "commit 7"]);
    let call = scenario.id(7);
    scenario.on(Event::WaitElapsed(call));
    drive(&mut scenario, 7);
    scenario.respond(7, 201).acknowledge(7);
    drive(&mut scenario, 9);
}

#[test]
fn unknown_deferral_result_leads_to_a_rejoin() {
    let mut scenario = deferral(Policy::Park);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.on(Event::Committed(CommitResult::Unknown));
    scenario.check(&["withhold", "rejoin"]);
    assert_eq!(scenario.delivery.calls().count(), 0);
    // A deferral without a result in time is unknown, too.
    let mut scenario = deferral(Policy::Park);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.advance(LIMITS.commit_max).check(&["withhold", "rejoin"]);
}

#[test]
fn revoked_partition_waits_for_its_deferral() {
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.on(Event::Revoked(vec![P])).check(&["pause"]);
    scenario
        .advance(LIMITS.drain_timeout)
        .check(&["withhold", "rejoin"]);
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.on(Event::Revoked(vec![P])).check(&["pause"]);
    scenario.committed();
    let last = scenario.actions.iter().find_map(|action| match action {
        Action::Commit(commits) => Some(commits[0].offset),
        _ => None,
    });
    assert_eq!(last, Some(Offset(9)), "{:?}", scenario.actions);
    scenario
        .committed()
        .check(&["extend lease", "release, 0 abandoned"]);
}

/// Scenario: the API charges, answers 500, and accepts other calls, so the call is deferred again and again.
#[test]
fn ambiguous_attempts_count_across_deferrals() {
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 500);
    let (copies, _) = until_deferred(&mut scenario);
    assert_eq!(copies[0].history.attempts_ambiguous, 1);
    scenario.committed();
    let context = DeferralContext {
        attempts_ambiguous: 3,
        ..deferral_context(7, Some(Ambiguity::AmbiguousResponse))
    };
    scenario.pending_as(20, "a", Some(context));
    drive(&mut scenario, 20);
    scenario.respond(20, 500);
    let final_state = scenario.actions.iter().find_map(|action| match action {
        Action::Publish { final_state, .. } => Some(final_state.clone()),
        _ => None,
    });
    let final_state = final_state.expect("a final state");
    assert!(
        matches!(&*final_state, FinalState::Parked(evidence) if evidence.last.is_some()),
        "{final_state:?}"
    );
}

#[test]
fn copy_carries_the_ambiguity() {
    // Under retry the copy carries it, and the next request is a repeated one.
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 500);
    let (copies, _) = until_deferred(&mut scenario);
    assert_eq!(
        (copies[0].ambiguity, copies[0].history.attempts_ambiguous),
        (Some(Ambiguity::AmbiguousResponse), 1)
    );
    scenario.committed();
    let ambiguous = Some(deferral_context(7, Some(Ambiguity::AmbiguousResponse)));
    scenario
        .pending_as(20, "a", ambiguous)
        .check(&["send 20 again: ambiguous"]);

    // Under park such a call is parked where it is.
    let mut scenario = deferral(Policy::Park);
    scenario.respond(7, 500).check(&["publish 7"]);

    // If its policy is another one by then, it is parked, or looked up after quiescence.
    let quiescence = LIMITS.ownership_lease + verify().quiescence();
    for (policy, wait, then) in [
        (Policy::Park, LIMITS.ownership_lease, "publish 20"),
        (Policy::Verify, quiescence, "look up 20"),
    ] {
        let mut scenario = Scenario::with(LIMITS, policy);
        scenario.assign(loaded(Some(20), ""));
        scenario.later(MINUTE);
        scenario.pending_as(20, "a", ambiguous);
        let waits = scenario.actions.iter().find_map(|action| match action {
            Action::Wait { at_least, .. } => Some(*at_least),
            _ => None,
        });
        assert_eq!(waits, Some(wait));
        scenario.later(wait);
        let call = scenario.id(20);
        scenario.on(Event::WaitElapsed(call));
        assert!(
            scenario.actions.iter().any(|action| short(action) == then),
            "{:?}",
            scenario.actions
        );
    }
}

#[test]
fn failing_look_up_is_deferred_with_its_ambiguity() {
    let mut scenario = deferral(Policy::Verify);
    scenario.respond(7, 500);
    let call = scenario.id(7);
    scenario.later(verify().quiescence());
    scenario.on(Event::WaitElapsed(call));
    scenario.respond_to_look_up(7, 503);
    let (copies, commits) = until_deferred(&mut scenario);
    assert_eq!(
        (copies[0].ambiguity, copies[0].lookups),
        (Some(Ambiguity::AmbiguousResponse), 1)
    );
    assert_eq!(commits[0].note, "2:id::");
    scenario.on(Event::Committed(CommitResult::Rejected));
    assert!(
        scenario
            .actions
            .iter()
            .any(|action| short(action) == "wait 7 Quiescence"),
        "{:?}",
        scenario.actions
    );
    // The wait that the look-up has started again is not cut short by the deferral.
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["wait 7 Quiescence"]);
    scenario.later(verify().quiescence());
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
}

/// The deferral of a call behind the deferred one of its key is aborted, and the call is looked up here.
#[test]
fn looked_up_call_still_follows_the_deferred_one() {
    let mut scenario = deferral(Policy::Verify);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.committed();
    let ambiguous = deferral_context(9, Some(Ambiguity::AmbiguousResponse));
    scenario.pending_as(20, "a", Some(ambiguous));
    until_deferred(&mut scenario);
    scenario.on(Event::Committed(CommitResult::Rejected));
    let call = scenario.id(20);
    scenario.later(verify().quiescence());
    scenario.on(Event::WaitElapsed(call));
    scenario.respond_to_look_up(20, 404);
    assert!(is_deferred(&scenario, 20), "{:?}", scenario.actions);
}

#[test]
fn call_is_abandoned_by_its_age() {
    let mut limits = LIMITS;
    limits.deferral.abandon_after = Some(10 * MINUTE);
    let abandoned = |ambiguity, policy: Policy, status| {
        let mut scenario = Scenario::with(limits, policy);
        let before = DeferralContext {
            seen_before: 9 * MINUTE,
            ..deferral_context(3, ambiguity)
        };
        scenario.assign(loaded(Some(7), ""));
        scenario.pending_as(7, "a", Some(before));
        drive(&mut scenario, 7);
        fail(&mut scenario, 7);
        scenario.later(MINUTE);
        drive(&mut scenario, 7);
        scenario.respond(7, status);
        let final_state = scenario.actions.iter().find_map(|action| match action {
            Action::Publish { final_state, .. } => Some(final_state.clone()),
            _ => None,
        });
        (*final_state.expect("a final state")).clone()
    };
    for policy in Policy::ALL {
        let final_state = abandoned(None, policy, 429);
        assert!(
            matches!(&final_state, FinalState::Abandoned(Some(Response::Status(http))) if http.status == 429),
            "{final_state:?}"
        );
    }
    // Also under retry an ambiguous call is not reported as surely not processed.
    for (ambiguity, status) in [(Some(Ambiguity::AmbiguousResponse), 429), (None, 500)] {
        let final_state = abandoned(ambiguity, Policy::Retry, status);
        assert!(
            matches!(&final_state, FinalState::Parked(evidence) if evidence.last.is_some()),
            "{final_state:?}"
        );
    }
}
