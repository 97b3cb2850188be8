//! Write-ahead under `park` and `verify`: intents, parking and look-ups.

use super::*;

/// A partition whose note has these intents.
fn with_intents(policy: Policy, intents: &[i64]) -> Scenario {
    let mut note = CallNote::default();
    intents
        .iter()
        .for_each(|offset| note.intents.insert(Offset(*offset)));
    let mut scenario = Scenario::under(policy);
    scenario.assign(loaded(Some(7), &note.encode(Offset(7)).expect("a note")));
    scenario
}

#[test]
fn call_is_sent_only_after_its_intent_is_committed() {
    for policy in [Policy::Park, Policy::Verify] {
        let mut scenario = with_intents(policy, &[]);
        scenario.pending(7, "a").check(&["commit 7"]).check_intents(&[7]);
        // The next intents wait for the next commit: there is one in flight.
        scenario.pending(8, "b").check(&[]);
        scenario
            .committed()
            .check(&["extend lease", "send 7", "commit 7"])
            .check_intents(&[7, 8]);
        scenario.respond(7, 201).check(&["publish 7"]);
        scenario.pending(9, "c").pending(10, "d").check(&["pause"]);
        // One slot is free; one more intent goes ahead, because a slot came free while a commit was in
        // flight.
        scenario
            .committed()
            .check(&["extend lease", "send 8", "commit 7"])
            .check_intents(&[7, 8, 9, 10]);
        scenario.committed().check(&["extend lease", "send 9"]);
        scenario.respond(8, 201).check(&["publish 8", "send 10"]);
    }
}

/// Returns `true` if each slot that comes free is filled at once, and not with the next commit's
/// acknowledgement, when all calls end while a commit is in flight.
fn slots_are_filled_at_once(intents_ahead_max: usize) -> bool {
    let limits = Limits {
        intents_ahead_max,
        calls_open_max: 100,
        ..LIMITS
    };
    let mut scenario = Scenario::with(limits, Policy::Park);
    scenario.assign(loaded(Some(0), ""));
    for offset in 0..40 {
        scenario.pending(offset, &offset.to_string());
    }
    let mut are_filled = true;
    for commit in 0..12 {
        scenario.committed();
        let is_in_flight = |(_, call): &(CallId, &Call<()>)| *call.state().0 == CallState::InFlight;
        let in_flight = scenario.delivery.calls().filter(is_in_flight);
        let in_flight: Vec<Offset> = in_flight.map(|(id, _)| id.offset).collect();
        for Offset(offset) in in_flight {
            scenario.respond(offset, 201);
            let is_filled = (scenario.actions.iter()).any(|action| matches!(action, Action::Send { .. }));
            scenario.acknowledge(offset);
            // The first commits cannot know how many slots come free.
            are_filled &= is_filled || commit < 4;
        }
    }
    are_filled
}

#[test]
fn intents_ahead_fill_slots_without_waiting() {
    // Two calls end in the time of one commit.
    assert_eq!(
        [0, 2, 3, 4].map(slots_are_filled_at_once),
        [false, false, false, true]
    );
}

#[test]
fn rejected_intent_is_not_sent() {
    let mut scenario = with_intents(Policy::Park, &[]);
    scenario.pending(7, "a").check(&["commit 7"]);
    scenario.on(Event::Committed(CommitResult::Rejected)).check(&[]);
    scenario
        .advance(100 * MS)
        .check(&["commit 7"])
        .check_intents(&[7]);
    scenario
        .on(Event::Committed(CommitResult::Unknown))
        .check(&["withhold", "rejoin"]);
}

#[test]
fn intent_is_void_after_a_retryable_response() {
    let mut scenario = with_intents(Policy::Park, &[]);
    scenario
        .pending(7, "a")
        .committed()
        .check(&["extend lease", "send 7"]);
    scenario.respond(7, 429).check(&["wait 7 Attempt"]);
    let call = scenario.id(7);
    scenario.advance(10 * MS).check(&["commit 7"]).check_intents(&[]);
    scenario.on(Event::WaitElapsed(call)).check(&[]);
    // Its intent is recorded again before it is sent again.
    scenario
        .committed()
        .check(&["extend lease", "commit 7"])
        .check_intents(&[7]);
    scenario.committed().check(&["extend lease", "send 7"]);
}

#[test]
fn parked_call_stays_noted_until_acknowledged() {
    let mut scenario = with_intents(Policy::Park, &[]);
    scenario
        .pending(7, "a")
        .committed()
        .check(&["extend lease", "send 7"]);
    scenario.respond(7, 500).check(&["publish 7"]);
    scenario
        .pending(8, "b")
        .check(&["commit 7"])
        .check_intents(&[7, 8]);
    scenario.acknowledge(7);
    scenario.committed().check(&["extend lease", "send 8"]);
    scenario.advance(10 * MS).check(&["commit 8"]).check_intents(&[8]);
}

/// Scenario: the last owner recorded the intent for 7 and died. It may still be sending, as long as its lease
/// lasts.
#[test]
fn inherited_intent_is_parked_after_the_lease() {
    let mut scenario = with_intents(Policy::Park, &[7]);
    scenario.pending(7, "a").check(&["wait 7 Quiescence"]);
    let call = scenario.id(7);
    scenario.advance(LIMITS.ownership_lease - MS);
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["wait 7 Quiescence"]);
    scenario.advance(MS);
    scenario.on(Event::WaitElapsed(call)).check(&["publish 7"]);
    scenario.acknowledge(7).check(&["commit 8"]);
}

#[test]
fn look_up_waits_for_quiescence() {
    // On its way, and in the API.
    let quiescence = Duration::from_secs(10 + 60);
    let mut scenario = with_intents(Policy::Verify, &[7]);
    scenario.pending(7, "a").check(&["wait 7 Quiescence"]);
    let call = scenario.id(7);
    scenario.now += LIMITS.ownership_lease + quiescence - MS;
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["wait 7 Quiescence"]);
    scenario.now += MS;
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    scenario.respond_to_look_up(7, 500).check(&["wait 7 LookUp"]);
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    scenario
        .respond_to_look_up(7, 404)
        .check(&["commit 7"])
        .check_intents(&[7]);
    scenario.committed().check(&["extend lease", "send 7"]);
    // Its response is lost: the request may arrive and be processed for that long from then on.
    scenario
        .respond_with(call, Response::Lost(Lost::TimedOut))
        .check(&["wait 7 Quiescence"]);
    scenario.now += quiescence - MS;
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["wait 7 Quiescence", "commit 7"]);
    scenario.now += MS;
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    scenario.respond_to_look_up(7, 200).check(&["publish 7"]);
}

/// Scenario: the API hangs with the request in it. What it says of the order counts only once the request had
/// time to be processed after the hang.
#[test]
fn unresponsive_look_up_restarts_quiescence() {
    let quiescence = verify().quiescence();
    let lost = |lost| Response::Lost(lost);
    for unresponsive in [
        lost(Lost::TimedOut),
        lost(Lost::Closed),
        Response::NotSent(NotSent::NoConnection),
        status_of(502),
        status_of(503),
        status_of(504),
    ] {
        let mut scenario = with_intents(Policy::Verify, &[7]);
        scenario.pending(7, "a");
        let call = scenario.id(7);
        scenario.now += LIMITS.ownership_lease + quiescence;
        scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
        let response = scenario.delivery.classify_look_up(unresponsive.clone());
        scenario
            .on(Event::LookedUp { call, response })
            .check(&["wait 7 LookUp"]);
        assert!(
            matches!(scenario.actions[..], [Action::Wait { at_least, .. }] if at_least == quiescence),
            "{unresponsive:?}"
        );
        scenario.now += quiescence - MS;
        scenario
            .on(Event::WaitElapsed(call))
            .check(&["wait 7 Quiescence"]);
        scenario.now += MS;
        scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    }
}

#[test]
fn drain_voids_intents_that_were_not_sent() {
    let mut scenario = with_intents(Policy::Park, &[]);
    scenario
        .pending(7, "a")
        .committed()
        .check(&["extend lease", "send 7"]);
    scenario
        .pending(8, "b")
        .check(&["commit 7"])
        .check_intents(&[7, 8]);
    scenario.on(Event::Revoked(vec![P])).check(&["pause"]);
    scenario.committed().check(&["extend lease"]);
    scenario.respond(7, 201).check(&["publish 7"]);
    scenario.acknowledge(7).check(&["commit 8"]).check_intents(&[]);
    scenario
        .committed()
        .check(&["extend lease", "release, 0 abandoned"]);
}
