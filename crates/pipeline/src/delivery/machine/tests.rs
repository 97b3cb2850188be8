//! Single decisions of the delivery, each as a short scenario. The invariants of all scenarios are checked in
//! `tests/delivery.rs`.

use std::time::{Duration, Instant};

use records::{CallNote, IdempotencyKey, Offset, Partition};

use crate::delivery::*;

mod deferral;
mod flow_control;

const P: Partition = Partition(3);
const LIMITS: Limits = Limits {
    calls_in_flight_max: 2,
    intents_ahead_max: 1,
    calls_open_max: 4,
    bytes_open_max: 10_000,
    ownership_lease: Duration::from_secs(5),
    commit_interval: Duration::from_millis(10),
    commit_max: Duration::from_secs(10),
    drain_timeout: Duration::from_secs(35),
    deferral: DeferralLimits {
        window_max: 1_000,
        defer_after: Some(Duration::from_secs(60)),
        abandon_after: None,
    },
};

fn verify() -> Verify {
    let classifier = ResponseClassifier::new([
        (Statuses::Exactly(200), StatusClass::Accepted),
        (Statuses::Exactly(404), StatusClass::Rejected),
    ]);
    Verify {
        api_processing_max: Duration::from_secs(60),
        lookups_max: 30,
        abandon_after: Duration::from_secs(3_600),
        classifier: classifier.expect("a table"),
    }
}

/// A delivery, its clock, and the actions of the last event.
struct Scenario {
    delivery: Delivery<()>,
    policy: Policy,
    now: Instant,
    actions: Vec<Action<()>>,
}

impl Scenario {
    fn new() -> Self {
        Self::under(Policy::Retry)
    }

    /// Without partitions; all calls have this policy.
    fn under(policy: Policy) -> Self {
        Self::with(LIMITS, policy)
    }

    fn with(limits: Limits, policy: Policy) -> Self {
        let classes = ResponseClassifier::new([
            (Statuses::Hundred(2), StatusClass::Accepted),
            (Statuses::Hundred(4), StatusClass::Rejected),
            (Statuses::Exactly(429), StatusClass::Retry),
        ]);
        Self {
            delivery: Delivery::new(limits, classes.expect("a table"), verify()),
            policy,
            now: Instant::now(),
            actions: Vec::new(),
        }
    }

    /// A partition with this committed offset and note, and an ownership lease.
    fn started(committed: i64, note: &str) -> Self {
        let mut scenario = Self::new();
        scenario.assign(loaded(Some(committed), note));
        scenario.pending(committed, "first");
        scenario.on(Event::Committed(CommitResult::Committed));
        scenario
    }

    fn on(&mut self, event: Event<()>) -> &mut Self {
        self.actions = self.delivery.on(event, self.now);
        self
    }

    fn assign(&mut self, loaded: LoadedNotes) -> &mut Self {
        self.on(Event::Assigned(vec![P]));
        let [Action::Load { assignment, .. }] = self.actions[..] else {
            panic!("{:?}", self.actions);
        };
        self.on(Event::NotesLoaded {
            assignment,
            partition: P,
            loaded,
        })
    }

    fn pending(&mut self, offset: i64, key: &str) -> &mut Self {
        self.pending_as(offset, key, None)
    }

    fn pending_as(&mut self, offset: i64, key: &str, continued: Option<DeferralContext>) -> &mut Self {
        let (key, policy) = (IdempotencyKey::new(key).ok(), self.policy);
        self.on(Event::Pending(Pending {
            partition: P,
            offset: Offset(offset),
            key,
            bytes: 10,
            policy,
            continued,
            payload: (),
        }))
    }

    fn id(&self, offset: i64) -> CallId {
        let mut ids = self.delivery.calls().map(|(id, _)| id);
        ids.find(|id| id.offset == Offset(offset)).expect("an open call")
    }

    fn respond(&mut self, offset: i64, status: u16) -> &mut Self {
        let call = self.id(offset);
        self.respond_with(call, status_of(status))
    }

    fn respond_with(&mut self, call: CallId, response: Response) -> &mut Self {
        let response = self.delivery.classify(response);
        self.on(Event::ResponseReceived { call, response })
    }

    fn respond_to_look_up(&mut self, offset: i64, status: u16) -> &mut Self {
        let call = self.id(offset);
        let response = self.delivery.classify_look_up(status_of(status));
        self.on(Event::LookedUp { call, response })
    }

    fn has_commit_in_flight(&self) -> bool {
        !self.delivery.commits.is_idle()
    }

    fn committed(&mut self) -> &mut Self {
        self.on(Event::Committed(CommitResult::Committed))
    }

    /// Checks the recorded intents in the last commit.
    #[track_caller]
    fn check_intents(&self, expected: &[i64]) -> &Self {
        let commits = self.actions.iter().find_map(|action| match action {
            Action::Commit(commits) => Some(commits),
            _ => None,
        });
        let commit = &commits.expect("a commit")[0];
        let note = CallNote::decode(commit.offset, &commit.note).expect("a note");
        let intents: Vec<i64> = note
            .intents
            .runs()
            .flat_map(|(from, until)| from.0..until.0)
            .collect();
        assert_eq!(intents, expected);
        self
    }

    fn acknowledge(&mut self, offset: i64) -> &mut Self {
        let call = self.id(offset);
        self.on(Event::Published {
            call,
            acknowledged: true,
        })
    }

    fn advance(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.on(Event::Tick)
    }

    /// Checks the actions of the last event, in short.
    #[track_caller]
    fn check(&self, expected: &[&str]) -> &Self {
        let actions: Vec<String> = self.actions.iter().map(short).collect();
        assert_eq!(actions, expected, "{:?}", self.actions);
        self
    }
}

fn status_of(status: u16) -> Response {
    Response::Status(HttpResponse {
        status,
        ..HttpResponse::default()
    })
}

fn short(action: &Action<()>) -> String {
    match action {
        Action::Load { .. } => "load".into(),
        Action::Start {
            offset,
            is_first: false,
            ..
        } => format!("start at {offset}"),
        Action::Start {
            offset,
            is_first: true,
            ..
        } => format!("start for the first time at {offset}"),
        Action::Halt { .. } => "halt".into(),
        Action::Pause(_) => "pause".into(),
        Action::Resume(_) => "resume".into(),
        Action::ExtendLease(_) => "extend lease".into(),
        Action::Withhold(_) => "withhold".into(),
        Action::Send {
            call, repeats: None, ..
        } => format!("send {}", call.offset),
        Action::Send {
            call,
            repeats: Some(ambiguity),
            ..
        } => format!("send {} again: {}", call.offset, ambiguity.as_str()),
        Action::LookUp { call, .. } => format!("look up {}", call.offset),
        Action::Wait { call, what, .. } => format!("wait {} {what:?}", call.offset),
        Action::Publish { call, .. } => format!("publish {}", call.offset),
        Action::Commit(commits) => format!("commit {}", commits[0].offset),
        Action::Defer { copies, commits } => {
            let offsets: Vec<i64> = copies.iter().map(|copy| copy.call.offset.0).collect();
            format!("defer {offsets:?}, commit {}", commits[0].offset)
        }
        Action::Release { abandoned, .. } => format!("release, {} abandoned", abandoned.len()),
        Action::Outage(outage) => format!("outage, {} failed", outage.failures),
        Action::OutageOver => "outage is over".into(),
        Action::Rejoin(_) => "rejoin".into(),
        Action::Finish => "finish".into(),
    }
}

fn loaded(committed: Option<i64>, note: &str) -> LoadedNotes {
    LoadedNotes {
        committed: committed.map(Offset),
        metadata: note.into(),
        log_start: Offset(0),
        log_end: Offset(1_000),
    }
}

const MS: Duration = Duration::from_millis(1);

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
    check(loaded(Some(7), "2:rAQE:"), "halt");
    check(loaded(Some(7), "\u{fffd}"), "halt");
    let mut scenario = Scenario::new();
    // A first offset is committed at once.
    scenario
        .assign(with_log(None, 0, 9))
        .check(&["start for the first time at 0", "commit 0"]);
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
        // One slot is free; one more intent goes ahead, because a slot came free while a commit was in flight.
        scenario
            .committed()
            .check(&["extend lease", "send 8", "commit 7"])
            .check_intents(&[7, 8, 9, 10]);
        scenario.committed().check(&["extend lease", "send 9"]);
        scenario.respond(8, 201).check(&["publish 8", "send 10"]);
    }
}

/// Returns `true` if each slot that comes free is filled at once, and not with the next commit's acknowledgement, when
/// all calls end while a commit is in flight.
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

/// Scenario: the last owner recorded the intent for 7 and died. It may still be sending, as long as its lease lasts.
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
    let processing = verify().api_processing_max;
    let mut scenario = with_intents(Policy::Verify, &[7]);
    scenario.pending(7, "a").check(&["wait 7 Quiescence"]);
    let call = scenario.id(7);
    scenario.now += LIMITS.ownership_lease + processing - MS;
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["wait 7 Quiescence"]);
    scenario.now += MS;
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    scenario.respond_to_look_up(7, 503).check(&["wait 7 LookUp"]);
    scenario.on(Event::WaitElapsed(call)).check(&["look up 7"]);
    scenario
        .respond_to_look_up(7, 404)
        .check(&["commit 7"])
        .check_intents(&[7]);
    scenario.committed().check(&["extend lease", "send 7"]);
    // Its response is lost: the API may process the request for its longest processing time from then on.
    scenario
        .respond_with(call, Response::Lost(Lost::TimedOut))
        .check(&["wait 7 Quiescence"]);
    scenario.now += processing;
    scenario
        .on(Event::WaitElapsed(call))
        .check(&["look up 7", "commit 7"]);
    scenario.respond_to_look_up(7, 200).check(&["publish 7"]);
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
