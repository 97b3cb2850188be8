//! Single decisions of the delivery, each as a short scenario. The invariants of all scenarios are checked in
//! `crates/pipeline/tests/simulation/delivery`.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use records::{CallNote, IdempotencyKey, Offset, Partition};

use crate::delivery::*;

mod calls;
mod deferral;
mod flow_control;
mod intents;
mod membership;
mod other_group;

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
    ambiguous_attempts_max: NonZeroU32::new(4),
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
        transport_timeout: Duration::from_secs(10),
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

    fn pending_as(&mut self, offset: i64, key: &str, deferral_context: Option<DeferralContext>) -> &mut Self {
        let pending = self.record(offset, key, deferral_context);
        self.on(Event::Pending(pending))
    }

    fn record(&self, offset: i64, key: &str, deferral_context: Option<DeferralContext>) -> Pending<()> {
        Pending {
            partition: P,
            offset: Offset(offset),
            key: IdempotencyKey::new(key).ok(),
            bytes: 10,
            policy: self.policy,
            is_of_other_group: false,
            deferral_context,
            payload: (),
        }
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

    /// Checks that the last event has a call published in this state, with these attempts, and those of them that are
    /// ambiguous.
    #[track_caller]
    fn check_published(&self, offset: i64, state: &str, attempts: (u32, u32)) -> &Self {
        let published = self.actions.iter().find_map(|action| match action {
            Action::Publish {
                call,
                final_state,
                history,
                ..
            } if call.offset == Offset(offset) => Some((final_state, history)),
            _ => None,
        });
        let (final_state, history) = published.expect("a final state");
        let found = match **final_state {
            FinalState::Accepted(_) => "accepted",
            FinalState::Found(_) => "found",
            FinalState::Rejected(_) => "rejected",
            FinalState::Abandoned(_) => "abandoned",
            FinalState::Parked(_) => "parked",
            FinalState::NotACall => "no call",
        };
        let found_attempts = (history.attempts, history.attempts_ambiguous);
        assert_eq!((found, found_attempts), (state, attempts));
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
        Action::Skip(call) => format!("skip {}", call.offset),
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
        epoch_end: None,
        outbox: None,
        log_start: Offset(0),
        log_end: Offset(1_000),
    }
}

const MS: Duration = Duration::from_millis(1);
