//! Copies that another group of callers has appended for itself.

use super::deferral::{deferral, deferral_context, until_deferred};
use super::*;

fn copy_of_other_group(scenario: &mut Scenario, offset: i64, key: &str, origin: i64) {
    let context = deferral_context(origin, Some(Ambiguity::AmbiguousResponse));
    let pending = Pending {
        is_of_other_group: true,
        ..scenario.record(offset, key, Some(context))
    };
    scenario.on(Event::Pending(pending));
}

#[test]
fn copy_for_another_group_is_final_at_once() {
    for policy in Policy::ALL {
        let mut scenario = Scenario::under(policy);
        // An intent that `group recover` has noted in one run with others.
        let note = CallNote {
            intents: [Offset(7)].into_iter().collect(),
            ..CallNote::default()
        };
        scenario.assign(loaded(Some(7), &note.encode(Offset(7)).expect("a note")));
        copy_of_other_group(&mut scenario, 7, "a", 2);
        scenario.check(&["skip 7", "commit 8"]).check_intents(&[]);
        let gauges = scenario.delivery.gauges();
        assert_eq!((gauges.calls_open, gauges.bytes_open), (0, 0));
        // Read again, it is known.
        copy_of_other_group(&mut scenario, 7, "a", 2);
        scenario.check(&[]);
    }
}

#[test]
fn copy_for_another_group_is_no_dead_letter() {
    let mut scenario = Scenario::started(7, "");
    // This group's API needs a field that the order lacks.
    let pending = Pending {
        key: None,
        is_of_other_group: true,
        ..scenario.record(8, "a", None)
    };
    scenario.on(Event::Pending(pending)).check(&["skip 8"]);
}

#[test]
fn copy_for_another_group_blocks_no_call_of_its_key() {
    let mut scenario = Scenario::started(7, "");
    copy_of_other_group(&mut scenario, 8, "a", 2);
    scenario.pending(9, "a").check(&["send 9"]);
}

/// Both groups have deferred the call at offset 7. The other group's copy comes first.
#[test]
fn copy_for_another_group_is_not_the_one_in_transit() {
    let mut scenario = deferral(Policy::Retry);
    scenario.respond(7, 429);
    until_deferred(&mut scenario);
    scenario.committed();
    copy_of_other_group(&mut scenario, 20, "a", 7);
    scenario.check(&["skip 20"]);
    // A later call of the key still waits for this group's own copy: it is deferred behind it, untried.
    scenario.pending(21, "a").check(&[]);
    let (copies, _) = until_deferred(&mut scenario);
    assert_eq!(
        (copies[0].call.offset, copies[0].history.attempts),
        (Offset(21), 0)
    );
}
