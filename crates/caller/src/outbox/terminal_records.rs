//! The records that calls end in: outcomes, dead letters and parked calls; and the copies that continue them.

use std::time::Instant;

use kafka::OutgoingHeaders;
use kafka::producer::Outgoing;
use pipeline::delivery::{Ambiguity, DeferredCopy, Evidence, History, HttpResponse, Response};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use records::call_dead_letter::{self, Reason};
use records::continuation::{self, Continuation};
use records::outcome::Outcome;
use records::{Timestamp, Topics, dead_letter, parked, pending};

use crate::outbox::pending_call::Job;

/// Why a call becomes a dead letter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why<'a> {
    /// The API rejected it.
    Rejected(&'a HttpResponse),
    /// It was tried for too long; with its last report.
    GivenUp(Option<&'a Response>),
    /// The record is no call.
    NotACall,
}

/// Turns the loop's times into those of the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    started: Instant,
    started_at: Timestamp,
}

impl Job {
    /// The outcome of a call that the API accepted, or that was `found` when the API was asked for it.
    pub(crate) fn outcome(
        &self,
        reply: &HttpResponse,
        found: bool,
        history: &History,
        calendar: Calendar,
    ) -> Vec<u8> {
        let call = self.call.as_ref();
        let (order_id, key) = call.map_or_else(
            |_| (String::new(), self.key_text()),
            |call| (call.order_id.clone(), call.key.to_string()),
        );
        let mut outcome = Outcome::new(order_id, key, self.position.to_string());
        outcome.status = reply.status;
        outcome.answer = String::from_utf8_lossy(&reply.body).into_owned();
        outcome.answer_cut = reply.body_cut;
        outcome.transaction_id = reply.transaction_id.clone();
        outcome.attempts = history.attempts;
        outcome.attempts_ambiguous = history.attempts_ambiguous;
        outcome.admitted_at = self.admitted_at;
        outcome.found_by_look_up = found;
        outcome.first_attempt_at = self
            .first_attempt_at(history, calendar)
            .unwrap_or_else(|| calendar.at(history.answered_at));
        outcome.continues = self.continuation.as_ref().map(|before| before.call.to_string());
        outcome.answered_at = calendar.at(history.answered_at);
        outcome.to_json()
    }

    /// The record that carries an outcome.
    pub(crate) fn outcome_record<'a>(
        &'a self,
        topics: &'a Topics,
        json: &'a [u8],
        token: usize,
    ) -> Outgoing<'a> {
        let position = self.position.to_string();
        let headers = OwnedHeaders::new().insert(text(call_dead_letter::CALL, &position));
        let headers = match self.traceparent() {
            Some(value) => headers.insert(Header {
                key: pending::TRACEPARENT,
                value: Some(value),
            }),
            None => headers,
        };
        Outgoing {
            topic: &topics.processed,
            partition: None,
            key: self
                .call
                .as_ref()
                .map_or(&self.key[..], |call| call.key.as_bytes()),
            value: json,
            headers,
            token,
        }
    }

    /// The dead letter of a call that the API rejected or that is given up, or of a record that is no call: the
    /// record, and why.
    pub(crate) fn dead_letter<'a>(
        &'a self,
        topics: &'a Topics,
        why: Why<'_>,
        history: &History,
        calendar: Calendar,
        token: usize,
    ) -> (Reason, Outgoing<'a>) {
        let (reason, detail) = match (why, &self.call) {
            (Why::Rejected(reply), _) => (
                Reason::Rejected,
                format!("the API answered with status {}", reply.status),
            ),
            (Why::GivenUp(_), _) => (
                Reason::Abandoned,
                format!(
                    "it was seen first at {} and tried {} times, and was surely not processed",
                    self.seen_at, history.attempts
                ),
            ),
            (Why::NotACall, Err(why)) => (why.reason, why.detail.clone()),
            (Why::NotACall, Ok(_)) => (Reason::NotAPendingCall, "the record cannot be called".to_owned()),
        };
        let headers = self.evidence((reason.as_str(), &detail), history);
        let headers = self.times(headers, history, calendar);
        let headers = match why {
            Why::Rejected(reply) => answer(headers, reply),
            Why::GivenUp(Some(report)) => told(headers, report),
            Why::GivenUp(None) | Why::NotACall => headers,
        };
        let outgoing = Outgoing {
            topic: &topics.call_dead_letters,
            partition: None,
            key: &self.key,
            value: &self.value,
            headers,
            token,
        };
        (reason, outgoing)
    }

    /// The parked record of a call of which nobody can know whether it was processed: the record, and what
    /// is known.
    pub(crate) fn parked<'a>(
        &'a self,
        topics: &'a Topics,
        evidence: &Evidence,
        history: &History,
        calendar: Calendar,
        (by, token): (&str, usize),
    ) -> (parked::Reason, Outgoing<'a>) {
        let (reason, detail) = match (evidence.lookups, evidence.ambiguity) {
            (1.., _) => (
                parked::Reason::NotSettled,
                format!(
                    "the API was asked for it {} times, and did not tell",
                    evidence.lookups
                ),
            ),
            (0, Ambiguity::AmbiguousResponse) => (
                parked::Reason::Ambiguous,
                "the answer to its request does not tell whether it was processed".to_owned(),
            ),
            (0, Ambiguity::Redelivered) => (
                parked::Reason::Begun,
                "an earlier caller noted that it was about to send it, and noted no end; look first for its \
                 outcome"
                    .to_owned(),
            ),
        };
        let headers = self
            .evidence((reason.as_str(), &detail), history)
            .insert(text(parked::LOOKUPS, &evidence.lookups.to_string()))
            .insert(text(parked::PARKED_BY, by));
        let headers = self.times(headers, history, calendar);
        let headers = match &evidence.last {
            Some(report) => told(headers, report),
            None => headers,
        };
        let outgoing = Outgoing {
            topic: &topics.parked,
            partition: None,
            key: &self.key,
            value: &self.value,
            headers,
            token,
        };
        (reason, outgoing)
    }

    /// The record's headers, and behind them what a person has to know of its call, whatever its end.
    fn evidence(&self, (reason, detail): (&str, &str), history: &History) -> OwnedHeaders {
        let headers = self.headers.clone().unwrap_or_default();
        [
            (dead_letter::REASON, reason),
            (dead_letter::DETAIL, detail),
            (dead_letter::AT, &Timestamp::now().to_string()),
            (call_dead_letter::CALL, &self.position.to_string()),
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

    /// Its times, as far as there are any.
    fn times(&self, headers: OwnedHeaders, history: &History, calendar: Calendar) -> OwnedHeaders {
        let first = self.first_attempt_at(history, calendar);
        let last = history.answered_at.map(|at| calendar.at(Some(at)));
        [
            (call_dead_letter::FIRST_ATTEMPT_AT, first),
            (call_dead_letter::RESPONDED_AT, last),
        ]
        .into_iter()
        .filter_map(|(name, at)| Some((name, at?.to_string())))
        .fold(headers, |headers, (name, at)| headers.insert(text(name, &at)))
    }

    /// When its first request was made, in whatever place.
    fn first_attempt_at(&self, history: &History, calendar: Calendar) -> Option<Timestamp> {
        let before = self
            .continuation
            .as_ref()
            .and_then(|before| before.first_attempt_at);
        before.or_else(|| history.first_attempt_at.map(|at| calendar.at(Some(at))))
    }

    /// The copy that continues this call at the outbox's end: its key, its bytes, and its headers.
    pub(crate) fn copy(
        &self,
        copied: &DeferredCopy<Self>,
        calendar: Calendar,
    ) -> (&[u8], &[u8], OutgoingHeaders) {
        let before = self.continuation.as_ref();
        let call = before.map_or(&self.position, |before| &before.call);
        let mut continuation = Continuation::new(call.clone(), self.seen_at);
        continuation.deferrals = before.map_or(1, |before| before.deferrals.saturating_add(1));
        continuation.first_attempt_at = self.first_attempt_at(&copied.history, calendar);
        continuation.attempts = copied.history.attempts;
        continuation.attempts_ambiguous = copied.history.attempts_ambiguous;
        continuation.lookups = copied.lookups;
        continuation.ambiguity = copied.ambiguity.map(|ambiguity| match ambiguity {
            Ambiguity::AmbiguousResponse => continuation::Ambiguity::AmbiguousResponse,
            Ambiguity::Redelivered => continuation::Ambiguity::Redelivered,
        });
        let own = self.headers.as_ref();
        let mut headers = OutgoingHeaders::with_capacity(own.map_or(1, |own| own.count() + 1));
        for header in own.into_iter().flat_map(OwnedHeaders::iter) {
            if header.key != continuation::CONTINUES {
                headers.add(header.key, header.value);
            }
        }
        headers.add(continuation::CONTINUES, Some(&continuation.to_json()));
        (&self.key, &self.value, headers)
    }

    fn traceparent(&self) -> Option<&[u8]> {
        Some(self.call.as_ref().ok()?.request.traceparent.as_bytes())
    }
}

impl Calendar {
    /// Begins with now.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            started_at: Timestamp::now(),
        }
    }

    fn at(self, instant: Option<Instant>) -> Timestamp {
        let since = instant.map(|instant| instant.saturating_duration_since(self.started));
        let ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Timestamp(self.started_at.0.saturating_add(ms))
    }
}

/// What a report says, as far as there is one.
fn told(headers: OwnedHeaders, report: &Response) -> OwnedHeaders {
    match report {
        Response::Status(reply) => answer(headers, reply),
        Response::Lost(_) | Response::NotSent(_) => headers.insert(text(parked::LOST, report.kind())),
    }
}

fn answer(headers: OwnedHeaders, reply: &HttpResponse) -> OwnedHeaders {
    headers
        .insert(text(call_dead_letter::STATUS, &reply.status.to_string()))
        .insert(Header {
            key: call_dead_letter::RESPONSE,
            value: Some(&reply.body),
        })
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a [u8]> {
    Header {
        key,
        value: Some(value.as_bytes()),
    }
}
