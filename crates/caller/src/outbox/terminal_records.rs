//! Terminal records: the outcome, dead letter or parked record that a call ends in.

use kafka::OutgoingRecord;
use pipeline::delivery::{Ambiguity, Evidence, History, HttpResponse, Response};
use rdkafka::message::{Header, OwnedHeaders};
use records::call_dead_letter::{self, Reason};
use records::outcome::Outcome;
use records::{Timestamp, Topics, dead_letter, parked, pending};

use crate::outbox::pending_call::PendingCall;
use crate::outbox::wall_clock::WallClock;

/// Cause of a dead letter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeadLetterCause<'a> {
    /// Rejection by the API.
    Rejected(&'a HttpResponse),
    /// Retry limit reached; with the last response.
    Abandoned(Option<&'a Response>),
    /// Record that is no valid pending call.
    NotACall,
}

impl PendingCall {
    /// Returns the outcome, as JSON, of a call that the API accepted, or that was `found` by a look-up.
    pub(crate) fn outcome(
        &self,
        response: &HttpResponse,
        found: bool,
        history: &History,
        group: &str,
        clock: WallClock,
    ) -> Vec<u8> {
        let call = self.call.as_ref();
        let (order_id, key) = call.map_or_else(
            |_| (String::new(), self.key_text()),
            |call| (call.order_id.clone(), call.key.to_string()),
        );
        let mut outcome = Outcome::new(order_id, key, self.position.to_string());
        outcome.group = Some(group.to_owned());
        outcome.status = response.status;
        // Lossy: the body is evidence for people, and JSON has no bytes.
        outcome.response = String::from_utf8_lossy(&response.body).into_owned();
        outcome.response_truncated = response.body_cut;
        outcome.transaction_id = response.transaction_id.clone();
        outcome.attempts = history.attempts;
        outcome.attempts_ambiguous = history.attempts_ambiguous;
        outcome.admitted_at = self.admitted_at;
        outcome.found_by_look_up = found;
        // A call found by its first look-up has had no attempt of this caller's.
        outcome.first_attempt_at = self
            .first_attempt_at(history, clock)
            .unwrap_or_else(|| clock.at(history.responded_at));
        outcome.continues = self
            .continuation
            .as_ref()
            .filter(|before| !before.repeats)
            .map(|before| before.call.to_string());
        outcome.responded_at = clock.at(history.responded_at);
        outcome.to_json()
    }

    /// Returns the record that carries an outcome.
    pub(crate) fn outcome_record<'a>(&'a self, topics: &'a Topics, json: &'a [u8]) -> OutgoingRecord<'a> {
        let position = self.position.to_string();
        let headers = OwnedHeaders::new().insert(text(call_dead_letter::CALL, &position));
        // The request's trace goes on to whoever reads the outcome.
        let headers = match self.traceparent() {
            Some(value) => headers.insert(Header {
                key: pending::TRACEPARENT,
                value: Some(value),
            }),
            None => headers,
        };
        OutgoingRecord {
            topic: &topics.processed,
            // By the key: consumers of outcomes see those of one order in order.
            partition: None,
            key: Some(
                self.call
                    .as_ref()
                    .map_or(&self.key[..], |call| call.key.as_bytes()),
            ),
            value: Some(json),
            headers: Some((&headers).into()),
            at: None,
        }
    }

    /// Returns the dead letter of a call, the record unchanged with the reason in its headers.
    pub(crate) fn dead_letter<'a>(
        &'a self,
        topics: &'a Topics,
        cause: DeadLetterCause<'_>,
        history: &History,
        group: &str,
        clock: WallClock,
    ) -> (Reason, OutgoingRecord<'a>) {
        let (reason, detail) = match (cause, &self.call) {
            (DeadLetterCause::Rejected(response), _) => (
                Reason::Rejected,
                format!("the API rejected it with status {}", response.status),
            ),
            (DeadLetterCause::Abandoned(_), _) => (
                Reason::Abandoned,
                format!(
                    "retry limit reached: first seen at {}, {} attempts, surely not processed",
                    self.seen_at, history.attempts
                ),
            ),
            (DeadLetterCause::NotACall, Err(why)) => (why.reason, why.detail.clone()),
            // Unreachable: the delivery uses this cause only for records without a request.
            (DeadLetterCause::NotACall, Ok(_)) => (
                Reason::NotAPendingCall,
                "the record is no valid pending call".to_owned(),
            ),
        };
        let headers = self.evidence((reason.as_str(), &detail), history, group);
        let headers = self.times(headers, history, clock);
        let headers = match cause {
            DeadLetterCause::Rejected(response) => http_response(headers, response),
            DeadLetterCause::Abandoned(Some(response)) => last_response(headers, response),
            DeadLetterCause::Abandoned(None) | DeadLetterCause::NotACall => headers,
        };
        let outgoing = OutgoingRecord {
            topic: &topics.call_dead_letters,
            partition: None,
            key: Some(&self.key),
            value: Some(&self.value),
            headers: Some((&headers).into()),
            at: None,
        };
        (reason, outgoing)
    }

    /// Returns the parked record of a call whose outcome is unknown, the record unchanged with the evidence
    /// in its headers: among them the group, and the instance `by` that parks it.
    pub(crate) fn parked<'a>(
        &'a self,
        topics: &'a Topics,
        evidence: &Evidence,
        history: &History,
        (group, by): (&str, &str),
        clock: WallClock,
    ) -> (parked::Reason, OutgoingRecord<'a>) {
        let (reason, detail) = match (evidence.lookups, evidence.ambiguity) {
            (1.., _) => (
                parked::Reason::Unverified,
                format!("{} look-ups were inconclusive", evidence.lookups),
            ),
            (0, Ambiguity::AmbiguousResponse) => (
                parked::Reason::Ambiguous,
                "the response to its request leaves open whether it was processed".to_owned(),
            ),
            (0, Ambiguity::Redelivered) => (
                parked::Reason::Redelivered,
                "an earlier caller recorded the intent to send it, but no final state; search for its \
                 outcome first"
                    .to_owned(),
            ),
        };
        let headers = self
            .evidence((reason.as_str(), &detail), history, group)
            .insert(text(parked::LOOKUPS, &evidence.lookups.to_string()))
            .insert(text(parked::PARKED_BY, by));
        let headers = self.times(headers, history, clock);
        let headers = match &evidence.last {
            Some(response) => last_response(headers, response),
            None => headers,
        };
        let outgoing = OutgoingRecord {
            topic: &topics.parked,
            partition: None,
            key: Some(&self.key),
            value: Some(&self.value),
            headers: Some((&headers).into()),
            at: None,
        };
        (reason, outgoing)
    }

    /// Returns the record's headers, followed by those that explain the final state to an operator.
    fn evidence(&self, (reason, detail): (&str, &str), history: &History, group: &str) -> OwnedHeaders {
        let headers = self.headers.clone().unwrap_or_default();
        // Appended: readers take the last header of a name, so an order that carries one of these cannot
        // forge it.
        [
            (dead_letter::REASON, reason),
            (dead_letter::DETAIL, detail),
            (dead_letter::AT, &Timestamp::now().to_string()),
            (call_dead_letter::CALL, &self.position.to_string()),
            (call_dead_letter::GROUP, group),
            (call_dead_letter::ATTEMPTS, &history.attempts.to_string()),
            (
                call_dead_letter::ATTEMPTS_AMBIGUOUS,
                &history.attempts_ambiguous.to_string(),
            ),
        ]
        .into_iter()
        .fold(headers, |headers, (name, value)| {
            headers.insert(text(name, value))
        })
    }

    fn times(&self, headers: OwnedHeaders, history: &History, clock: WallClock) -> OwnedHeaders {
        let first = self.first_attempt_at(history, clock);
        let last = history.responded_at.map(|at| clock.at(Some(at)));
        [
            (call_dead_letter::FIRST_ATTEMPT_AT, first),
            (call_dead_letter::RESPONDED_AT, last),
        ]
        .into_iter()
        .filter_map(|(name, at)| Some((name, at?.to_string())))
        .fold(headers, |headers, (name, at)| headers.insert(text(name, &at)))
    }

    /// Returns the time of the first attempt, at whichever position of the outbox it was made.
    pub(super) fn first_attempt_at(&self, history: &History, clock: WallClock) -> Option<Timestamp> {
        let before = self
            .continuation
            .as_ref()
            .and_then(|before| before.first_attempt_at);
        before.or_else(|| history.first_attempt_at.map(|at| clock.at(Some(at))))
    }

    fn traceparent(&self) -> Option<&[u8]> {
        Some(self.call.as_ref().ok()?.request.traceparent.as_bytes())
    }
}

/// Adds the last response, or the kind of error that came instead of one.
fn last_response(headers: OwnedHeaders, response: &Response) -> OwnedHeaders {
    match response {
        Response::Status(response) => http_response(headers, response),
        Response::Lost(_) | Response::NotSent(_) => headers.insert(text(parked::LOST, response.kind())),
    }
}

fn http_response(headers: OwnedHeaders, response: &HttpResponse) -> OwnedHeaders {
    headers
        .insert(text(call_dead_letter::STATUS, &response.status.to_string()))
        .insert(Header {
            key: call_dead_letter::RESPONSE,
            value: Some(&response.body),
        })
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a [u8]> {
    Header {
        key,
        value: Some(value.as_bytes()),
    }
}
