//! Life of calls: from the outbox to the commit position.

use super::*;

#[test]
fn call_goes_from_the_outbox_to_the_commit_position() {
    let mut scenario = Scenario::new();
    scenario.assign(loaded(Some(7), "")).check(&["start at 7"]);
    scenario.pending(7, "a").check(&["commit 7"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "send 7"]);
    scenario.respond(7, 201).check(&["publish 7"]);
    scenario.acknowledge(7).check(&[]);
    scenario.advance(10 * MS).check(&["commit 8"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease"]);
    assert_eq!(
        scenario.delivery.wake_at(scenario.now),
        None,
        "there is nothing left to do"
    );
}

#[test]
fn unacknowledged_final_state_is_published_again() {
    let mut scenario = Scenario::started(7, "");
    scenario.respond(7, 422).check(&["publish 7"]);
    let call = scenario.id(7);
    scenario
        .on(Event::Published {
            call,
            acknowledged: false,
        })
        .check(&["wait 7 Publication"]);
    scenario.advance(10 * MS).check(&["commit 7"]);
    scenario.on(Event::Committed(CommitResult::Committed));
    scenario.on(Event::WaitElapsed(call)).check(&["publish 7"]);
    scenario.acknowledge(7);
    scenario.advance(10 * MS).check(&["commit 8"]);
}

#[test]
fn calls_of_one_key_are_made_in_order() {
    let mut scenario = Scenario::started(7, "");
    scenario.pending(8, "first").check(&[]);
    scenario.pending(9, "other").check(&["send 9"]);
    scenario.respond(7, 201).check(&["publish 7"]);
    scenario.acknowledge(7).check(&["send 8"]);
}

#[test]
fn ambiguous_call_is_repeated_under_retry() {
    let mut scenario = Scenario::started(7, "");
    scenario.respond(7, 500).check(&["wait 7 Attempt"]);
    let call = scenario.id(7);
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["send 7 again: ambiguous"]);
    scenario.on(Event::WaitElapsed(call)).check(&[]);
}

#[test]
fn another_key_at_the_same_position_is_another_call() {
    let mut scenario = Scenario::started(7, "");
    scenario.respond(7, 201);
    scenario.acknowledge(7);
    scenario.on(Event::Lost(vec![P]));
    scenario.assign(loaded(Some(7), ""));
    scenario.pending(7, "recreated");
    scenario.advance(10 * MS).check(&["commit 7"]);
    scenario
        .on(Event::Committed(CommitResult::Committed))
        .check(&["extend lease", "send 7"]);
}

#[test]
fn rejected_commit_is_made_again_and_proves_nothing() {
    let mut scenario = Scenario::new();
    scenario.assign(loaded(Some(7), ""));
    scenario.pending(7, "a").check(&["commit 7"]);
    scenario.on(Event::Committed(CommitResult::Rejected)).check(&[]);
    scenario.advance(99 * MS).check(&[]);
    scenario.advance(MS).check(&["commit 7"]);
}

#[test]
fn intake_pauses_at_a_limit_and_resumes_at_half() {
    let mut scenario = Scenario::started(7, "");
    scenario.pending(8, "b").pending(9, "c").check(&[]);
    scenario.pending(10, "d").check(&["pause"]);
    scenario.respond(7, 201).check(&["publish 7", "send 9"]);
    scenario.acknowledge(7).check(&[]);
    scenario.respond(8, 201).check(&["publish 8", "send 10"]);
    scenario.acknowledge(8).check(&["resume"]);
}

#[test]
fn record_that_is_no_call_becomes_a_dead_letter() {
    let mut scenario = Scenario::started(7, "");
    scenario.pending(8, "").check(&["publish 8"]);
    scenario.acknowledge(8);
}
