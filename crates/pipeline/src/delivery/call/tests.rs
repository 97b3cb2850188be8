use super::*;
use crate::delivery::response::{Lost, ResponseClassifier, StatusClass, Statuses};

fn classes() -> ResponseClassifier {
    ResponseClassifier::new([
        (Statuses::Hundred(2), StatusClass::Accepted),
        (Statuses::Hundred(4), StatusClass::Rejected),
        (Statuses::Exactly(429), StatusClass::Retry),
    ])
    .expect("a table")
}

fn status(status: u16) -> Response {
    let retry_after = (status == 429).then_some(Duration::from_secs(7));
    Response::Status(HttpResponse {
        status,
        retry_after,
        ..HttpResponse::default()
    })
}

fn call(policy: Policy, now: Instant) -> Call<()> {
    Call {
        key: None,
        payload: Arc::new(()),
        bytes: 0,
        policy,
        state: CallState::Ready,
        history: History::default(),
        ambiguity: None,
        inconclusive: None,
        lookups: 0,
        looked_up_first_at: None,
        origin: Offset(0),
        inherited_until: None,
        taken_at: now,
        seen_before: Duration::ZERO,
        failed_at: None,
        publications_failed: 0,
        since: now,
    }
}

/// Plays reports one after the other; returns what the last one leads to, and the call.
fn play(policy: Policy, reports: &[Response]) -> (Next, Call<()>) {
    let now = Instant::now();
    let mut call = call(policy, now);
    let mut last = Next::Ready;
    for report in reports {
        call.enter(CallState::Ready, now);
        call.start_attempt(now);
        last = call.responded(classes().classify(report.clone()), SETTLE, now);
    }
    (last, call)
}

fn check(reports: &[Response]) -> (Next, Call<()>) {
    play(Policy::Retry, reports)
}

const SETTLE: Duration = Duration::from_secs(9);

#[test]
fn attempts_are_counted_and_told_apart() {
    let (next, call) = check(&[
        Response::NotSent(NotSent::NoConnection),
        Response::Lost(Lost::TimedOut),
        status(500),
        status(429),
        status(201),
    ]);
    assert!(
        matches!(next, Next::Publish(ending) if matches!(&*ending, FinalState::Accepted(reply) if reply.status == 201))
    );
    assert_eq!((call.history.attempts, call.history.attempts_ambiguous), (5, 2));
    assert_eq!(call.ambiguity, Some(Ambiguity::AmbiguousResponse));
}

#[test]
fn a_surely_unprocessed_call_raises_no_doubt() {
    let (next, call) = check(&[Response::NotSent(NotSent::NotWritten), status(429)]);
    assert_eq!(next, Next::Wait(Duration::from_secs(7)));
    assert!(!call.is_ambiguous());
}

#[test]
fn an_ambiguous_answer_leaves_a_doubt_that_stays() {
    let (next, call) = check(&[Response::Lost(Lost::Closed), status(429)]);
    assert_eq!(next, Next::Wait(Duration::from_secs(7)));
    assert!(call.is_ambiguous());
}

#[test]
fn a_withheld_request_is_no_attempt() {
    let (next, call) = check(&[Response::NotSent(NotSent::Withheld)]);
    assert_eq!(next, Next::Ready);
    assert_eq!(call.history, History::default());
    assert!(!call.is_ambiguous());
}

#[test]
fn a_rejected_call_is_a_dead_letter() {
    let (next, _) = check(&[status(422)]);
    assert!(matches!(next, Next::Publish(ending) if matches!(*ending, FinalState::Rejected(_))));
}

#[test]
fn under_park_what_nobody_can_know_waits_for_a_person() {
    for report in [Response::Lost(Lost::Closed), status(500)] {
        let (next, call) = play(Policy::Park, &[status(429), report.clone()]);
        let Next::Publish(ending) = next else {
            panic!("{next:?}");
        };
        let expected = Evidence {
            ambiguity: Ambiguity::AmbiguousResponse,
            last: Some(report),
            lookups: 0,
        };
        assert_eq!(*ending, FinalState::Parked(expected));
        assert!(call.is_ambiguous(), "until the parked record is acknowledged");
    }
}

#[test]
fn under_park_and_verify_only_what_was_surely_not_processed_is_sent_again() {
    for policy in [Policy::Park, Policy::Verify] {
        let (next, call) = play(policy, &[Response::NotSent(NotSent::NoConnection), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(!call.is_ambiguous(), "the next owner may call it");
    }
}

/// Story: an earlier owner had begun the call, too, and nobody knows what came of that.
#[test]
fn with_another_request_about_only_an_acceptance_is_an_answer() {
    let now = Instant::now();
    let answered = |policy, report| {
        let mut call = call(policy, now);
        call.ambiguity = Some(Ambiguity::Redelivered);
        call.start_attempt(now);
        call.responded(classes().classify(report), SETTLE, now)
    };
    for report in [status(429), status(422), Response::NotSent(NotSent::Withheld)] {
        let parked = answered(Policy::Park, report.clone());
        assert!(matches!(parked, Next::Publish(ending) if matches!(*ending, FinalState::Parked(_))));
        assert_eq!(answered(Policy::Verify, report), Next::AwaitQuiescence);
    }
    let accepted = answered(Policy::Park, status(201));
    assert!(matches!(accepted, Next::Publish(ending) if matches!(*ending, FinalState::Accepted(_))));
}

#[test]
fn a_look_up_settles_it_or_is_given_up() {
    let now = Instant::now();
    let verify = Verify {
        api_processing_max: SETTLE,
        lookups_max: 3,
        abandon_after: Duration::from_secs(60),
        classifier: ResponseClassifier::new([
            (Statuses::Exactly(200), StatusClass::Accepted),
            (Statuses::Exactly(404), StatusClass::Rejected),
        ])
        .expect("a table"),
    };
    let doubtful = || {
        let (next, mut call) = play(Policy::Verify, &[Response::Lost(Lost::TimedOut)]);
        assert_eq!(next, Next::AwaitQuiescence);
        call.enter(CallState::LookingUp, now);
        call
    };
    let found = doubtful().looked_up(verify.classify(status(200)), &verify, false, now);
    assert!(matches!(found, Next::Publish(ending) if matches!(*ending, FinalState::Found(_))));
    let mut call = doubtful();
    assert_eq!(
        call.looked_up(verify.classify(status(404)), &verify, false, now),
        Next::Ready
    );
    assert!(!call.is_ambiguous());
    let mut call = doubtful();
    for _ in 0..2 {
        let next = call.looked_up(verify.classify(status(500)), &verify, false, now);
        assert_eq!(next, Next::Wait(Duration::ZERO));
        assert!(call.is_ambiguous());
        call.enter(CallState::LookingUp, now);
    }
    let given_up = call.looked_up(verify.classify(status(500)), &verify, false, now);
    assert!(
        matches!(&given_up, Next::Publish(ending) if matches!(&**ending, FinalState::Parked(evidence) if evidence.lookups == 3))
    );
    let mut call = doubtful();
    call.looked_up(verify.classify(status(500)), &verify, false, now);
    call.enter(CallState::LookingUp, now);
    let late = call.looked_up(
        verify.classify(status(500)),
        &verify,
        false,
        now + verify.abandon_after,
    );
    assert!(matches!(late, Next::Publish(ending) if matches!(*ending, FinalState::Parked(_))));
}
