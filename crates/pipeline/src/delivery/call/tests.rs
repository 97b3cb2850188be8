use super::*;
use crate::delivery::response::{HttpResponse, Lost, ResponseClassifier, StatusClass, Statuses};

fn classifier() -> ResponseClassifier {
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

/// Takes in responses one after the other. Returns the step that follows the last one, and the call.
fn respond_all(policy: Policy, responses: &[Response]) -> (Next, Call<()>) {
    let now = Instant::now();
    let mut call = call(policy, now);
    let mut last = Next::Ready;
    for response in responses {
        call.enter(CallState::Ready, now);
        call.start_attempt(now);
        let response = classifier().classify(response.clone());
        last = call.responded(response, PROCESSING_MAX, NonZeroU32::new(3), now);
    }
    (last, call)
}

fn check(responses: &[Response]) -> (Next, Call<()>) {
    respond_all(Policy::Retry, responses)
}

const PROCESSING_MAX: Duration = Duration::from_secs(9);

#[test]
fn attempts_are_counted_by_class() {
    let (next, call) = check(&[
        Response::NotSent(NotSent::NoConnection),
        Response::Lost(Lost::TimedOut),
        status(500),
        status(429),
        status(201),
    ]);
    let Next::Publish(final_state) = next else {
        panic!("{next:?}");
    };
    assert!(matches!(&*final_state, FinalState::Accepted(http) if http.status == 201));
    assert_eq!((call.history.attempts, call.history.attempts_ambiguous), (5, 2));
    assert_eq!(call.ambiguity, Some(Ambiguity::AmbiguousResponse));
}

#[test]
fn retryable_response_is_not_ambiguous() {
    let (next, call) = check(&[Response::NotSent(NotSent::NotWritten), status(429)]);
    assert_eq!(next, Next::Wait(Duration::from_secs(7)));
    assert!(!call.is_ambiguous());
}

#[test]
fn ambiguity_outlasts_a_later_retryable_response() {
    let (next, call) = check(&[Response::Lost(Lost::Closed), status(429)]);
    assert_eq!(next, Next::Wait(Duration::from_secs(7)));
    assert!(call.is_ambiguous());
}

#[test]
fn withheld_request_is_no_attempt() {
    let (next, call) = check(&[Response::NotSent(NotSent::Withheld)]);
    assert_eq!(next, Next::Ready);
    assert_eq!(call.history, History::default());
    assert!(!call.is_ambiguous());
}

#[test]
fn rejected_call_is_a_dead_letter() {
    let (next, _) = check(&[status(422)]);
    assert!(matches!(next, Next::Publish(final_state) if matches!(*final_state, FinalState::Rejected(_))));
}

#[test]
fn ambiguous_call_is_parked_under_park() {
    for response in [Response::Lost(Lost::Closed), status(500)] {
        let (next, call) = respond_all(Policy::Park, &[status(429), response.clone()]);
        let Next::Publish(final_state) = next else {
            panic!("{next:?}");
        };
        let expected = Evidence {
            ambiguity: Ambiguity::AmbiguousResponse,
            last: Some(response),
            lookups: 0,
        };
        assert_eq!(*final_state, FinalState::Parked(expected));
        assert!(call.is_ambiguous(), "until the parked record is acknowledged");
    }
}

#[test]
fn retry_parks_after_too_many_ambiguous_responses() {
    let lost = || Response::Lost(Lost::TimedOut);
    // Only ambiguous responses count.
    let (next, _) = check(&[lost(), status(429), status(500), status(429), status(429)]);
    assert_eq!(next, Next::Wait(Duration::from_secs(7)));
    let (next, call) = check(&[lost(), status(429), status(500), status(429), status(503)]);
    let Next::Publish(final_state) = next else {
        panic!("{next:?}");
    };
    let expected = Evidence {
        ambiguity: Ambiguity::AmbiguousResponse,
        last: Some(status(503)),
        lookups: 0,
    };
    assert_eq!(*final_state, FinalState::Parked(expected));
    assert_eq!((call.history.attempts, call.history.attempts_ambiguous), (5, 3));
    // A definite response decides at the limit too.
    let (next, _) = check(&[lost(), status(500), status(201)]);
    assert!(matches!(next, Next::Publish(final_state) if matches!(*final_state, FinalState::Accepted(_))));
}

#[test]
fn retry_without_a_limit_never_parks() {
    let now = Instant::now();
    let mut call = call(Policy::Retry, now);
    for _ in 0..1_000 {
        call.enter(CallState::Ready, now);
        call.start_attempt(now);
        let response = classifier().classify(status(500));
        let next = call.responded(response, PROCESSING_MAX, None, now);
        assert_eq!(next, Next::Wait(Duration::ZERO));
    }
}

#[test]
fn retryable_call_is_sent_again_under_each_policy() {
    for policy in [Policy::Park, Policy::Verify] {
        let (next, call) = respond_all(policy, &[Response::NotSent(NotSent::NoConnection), status(429)]);
        assert_eq!(next, Next::Wait(Duration::from_secs(7)));
        assert!(!call.is_ambiguous(), "the next owner may call it");
    }
}

/// Scenario: an earlier owner recorded an intent for the call, and the outcome of its request is unknown.
#[test]
fn only_acceptance_decides_beside_another_request() {
    let now = Instant::now();
    let respond = |policy, response| {
        let mut call = call(policy, now);
        call.ambiguity = Some(Ambiguity::Redelivered);
        call.start_attempt(now);
        call.responded(classifier().classify(response), PROCESSING_MAX, None, now)
    };
    for response in [status(429), status(422), Response::NotSent(NotSent::Withheld)] {
        let parked = respond(Policy::Park, response.clone());
        assert!(
            matches!(parked, Next::Publish(final_state) if matches!(*final_state, FinalState::Parked(_)))
        );
        assert_eq!(respond(Policy::Verify, response), Next::AwaitQuiescence);
    }
    let accepted = respond(Policy::Park, status(201));
    assert!(
        matches!(accepted, Next::Publish(final_state) if matches!(*final_state, FinalState::Accepted(_)))
    );
}

#[test]
fn look_up_decides_the_call_or_parks_it() {
    let now = Instant::now();
    let verify = Verify {
        transport_timeout: Duration::from_secs(2),
        api_processing_max: PROCESSING_MAX,
        lookups_max: 3,
        abandon_after: Duration::from_secs(60),
        classifier: ResponseClassifier::new([
            (Statuses::Exactly(200), StatusClass::Accepted),
            (Statuses::Exactly(404), StatusClass::Rejected),
        ])
        .expect("a table"),
    };
    let ambiguous = || {
        let (next, mut call) = respond_all(Policy::Verify, &[Response::Lost(Lost::TimedOut)]);
        assert_eq!(next, Next::AwaitQuiescence);
        call.enter(CallState::LookingUp, now);
        call
    };
    let found = ambiguous().looked_up(verify.classify(status(200)), &verify, false, now);
    assert!(matches!(found, Next::Publish(final_state) if matches!(*final_state, FinalState::Found(_))));
    let mut call = ambiguous();
    assert_eq!(
        call.looked_up(verify.classify(status(404)), &verify, false, now),
        Next::Ready
    );
    assert!(!call.is_ambiguous());
    let mut call = ambiguous();
    for _ in 0..2 {
        let next = call.looked_up(verify.classify(status(500)), &verify, false, now);
        assert_eq!(next, Next::Wait(Duration::ZERO));
        assert!(call.is_ambiguous());
        call.enter(CallState::LookingUp, now);
    }
    let abandoned = call.looked_up(verify.classify(status(500)), &verify, false, now);
    let Next::Publish(final_state) = abandoned else {
        panic!("{abandoned:?}");
    };
    assert!(matches!(&*final_state, FinalState::Parked(evidence) if evidence.lookups == 3));
    let mut call = ambiguous();
    call.looked_up(verify.classify(status(500)), &verify, false, now);
    call.enter(CallState::LookingUp, now);
    let late = call.looked_up(
        verify.classify(status(500)),
        &verify,
        false,
        now + verify.abandon_after,
    );
    assert!(matches!(late, Next::Publish(final_state) if matches!(*final_state, FinalState::Parked(_))));
}
