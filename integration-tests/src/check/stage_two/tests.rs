//! Breaks each rule once and expects its violation.

use super::*;
use records::{Fingerprint, Offset, Partition};

/// Topics and requests after a faultless run of ten calls, the last of them rejected.
struct Fixture {
    pending: Vec<Record>,
    processed: Vec<Record>,
    dead_letters: Vec<Record>,
    requests: Vec<RequestLine>,
    interruptions: Vec<Interruption>,
}

impl Fixture {
    fn faultless() -> Self {
        let pending: Vec<Record> = (0..10).map(record).collect();
        let mut rejected = record(9);
        rejected
            .headers
            .push((CALL.into(), Some(b"pending/0@9".to_vec())));
        Self {
            processed: pending[..9].to_vec(),
            dead_letters: vec![rejected],
            requests: (0..10)
                .map(|n| match n {
                    9 => request(9, 422, Decision::Rejected),
                    n => request(n, 200, Decision::Charged),
                })
                .collect(),
            pending,
            interruptions: Vec::new(),
        }
    }

    fn check(&self) -> (Counts, Vec<Violation>) {
        StageTwo {
            pending_topic: "pending",
            pending: &self.pending,
            processed: &self.processed,
            dead_letters: &self.dead_letters,
            parked: &[],
            requests: &self.requests,
            interruptions: &self.interruptions,
            policy: Policy::Retry,
            api_timeout: Duration::from_secs(1),
        }
        .check()
    }

    fn check_finds(&self, guarantee: Guarantee, words: &str) {
        let (_, violations) = self.check();
        assert!(
            violations
                .iter()
                .any(|found| found.guarantee == guarantee && found.finding.contains(words)),
            "no {guarantee} with {words:?} among {violations:?}"
        );
    }
}

fn record(number: u32) -> Record {
    Record {
        partition: Partition(0),
        offset: Offset(i64::from(number)),
        timestamp_ms: 10_000 + i64::from(number),
        key: Some(format!("o-{number}").into_bytes()),
        fingerprint: Some(Fingerprint::of(&number.to_be_bytes())),
        value: None,
        headers: Vec::new(),
    }
}

fn request(number: u32, status: u16, decision: Decision) -> RequestLine {
    RequestLine {
        sequence: number,
        order_id: format!("o-{number}"),
        idempotency_key: Some(format!("o-{number}")),
        nth: 1,
        arrived_at: 10_000,
        fault: None,
        slow: false,
        processed: true,
        decision: Some(decision),
        processed_at: Some(10_001),
        answered: Some(status),
        cut: None,
        finished_at: Some(10_001),
    }
}

#[test]
fn faultless_run_has_no_violation() {
    let (counts, violations) = Fixture::faultless().check();
    assert_eq!(violations, []);
    assert_eq!((counts.accepted, counts.rejected, counts.requests), (9, 1, 10));
    assert_eq!(
        (counts.charged, counts.charged_again, counts.undecided),
        (9, 0, 0)
    );
}

#[test]
fn charged_and_undecided_orders_are_counted() {
    let mut fixture = Fixture::faultless();
    fixture.requests.push(request(0, 201, Decision::Charged));
    fixture.requests[1].decision = None;
    let (counts, _) = fixture.check();
    assert_eq!(
        (counts.charged, counts.charged_again, counts.undecided),
        (8, 1, 1)
    );
}

#[test]
fn skipped_call_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.processed.pop();
    fixture.check_finds(Guarantee::G4, "was skipped");
}

#[test]
fn two_final_states_are_found() {
    let mut fixture = Fixture::faultless();
    fixture.processed.push(record(9));
    fixture.check_finds(Guarantee::G4, "two final states");
}

#[test]
fn repeated_outcome_needs_an_interruption() {
    let mut fixture = Fixture::faultless();
    fixture.processed.push(Record {
        timestamp_ms: 15_000,
        ..record(0)
    });
    fixture.check_finds(Guarantee::G4, "outcome twice");
    fixture.interruptions.push(Interruption {
        from: Timestamp(11_000),
        until: Timestamp(11_010),
    });
    let (counts, violations) = fixture.check();
    assert_eq!(violations, []);
    assert_eq!(counts.outcomes_repeated, 1);
}

#[test]
fn outcome_without_the_apis_decision_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.requests[0].decision = None;
    fixture.check_finds(Guarantee::G4, "never charged");
    let mut fixture = Fixture::faultless();
    fixture.requests[9].decision = Some(Decision::Charged);
    fixture.check_finds(Guarantee::G4, "never rejected");
}

#[test]
fn outcome_and_request_without_call_are_found() {
    let mut fixture = Fixture::faultless();
    fixture.processed.push(record(77));
    fixture.requests.push(request(77, 200, Decision::Charged));
    fixture.check_finds(Guarantee::G4, "is not in the outbox");
    fixture.check_finds(Guarantee::G5, "is not in the outbox");
}

#[test]
fn changed_dead_letter_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.dead_letters[0].fingerprint = None;
    fixture.check_finds(Guarantee::G4, "has another value");
    fixture.dead_letters[0].headers.clear();
    fixture.check_finds(Guarantee::G4, "instead of pending/0@9");
}

#[test]
fn call_never_sent_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.requests.remove(0);
    fixture.check_finds(Guarantee::G5, "never called");
}

#[test]
fn request_without_its_key_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.requests[0].idempotency_key = None;
    fixture.check_finds(Guarantee::G5, "idempotency key");
}

#[test]
fn repeated_request_needs_an_explanation() {
    let mut fixture = Fixture::faultless();
    fixture.requests.push(RequestLine {
        nth: 2,
        arrived_at: 12_000,
        ..request(0, 200, Decision::Charged)
    });
    fixture.check_finds(Guarantee::G5, "without a reason");
    fixture.requests[0].answered = Some(502);
    let (counts, violations) = fixture.check();
    assert_eq!(violations, []);
    assert_eq!(counts.repeats, [(Explanation::Ambiguous(502), 1)].into());
    assert_eq!(counts.charged_again, 1);
}
