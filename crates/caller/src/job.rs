//! From a record of the outbox to a request, and back to the records that it ends in.

use std::time::Instant;

use bytes::Bytes;
use kafka::producer::Outgoing;
use pipeline::delivery::{Doubt, Evidence, History, Pending, Reply, Report};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use records::call_dead_letter::{self, Reason};
use records::outcome::Outcome;
use records::{
    IdempotencyKey, Offset, Order, Partition, Position, Timestamp, Topics, dead_letter, parked, pending,
};

use crate::http::{Api, Facts, Request};
use crate::policies::Policies;

/// What is kept of a record until its call is final.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) position: Position,
    key: Bytes,
    value: Bytes,
    headers: Option<OwnedHeaders>,
    admitted_at: Option<Timestamp>,
    /// The call, or why the record is none.
    pub(crate) call: Result<Callable, NotACall>,
}

/// Why the API is not called for a record.
#[derive(Clone, Debug)]
pub(crate) struct NotACall {
    reason: Reason,
    detail: String,
}

/// What a call is made of.
#[derive(Debug)]
pub(crate) struct Callable {
    pub(crate) key: IdempotencyKey,
    order_id: String,
    pub(crate) request: Request,
}

/// Turns the loop's times into those of the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    started: Instant,
    started_at: Timestamp,
}

/// Beside its bytes a call takes about this much: the maps that hold it, its address, its headers.
const OVERHEAD_BYTES: usize = 1_024;

impl Job {
    /// Reads a record of the outbox.
    pub(crate) fn read(record: &BorrowedMessage<'_>, api: &Api, policies: &Policies) -> Pending<Self> {
        let position = Position {
            topic: record.topic().to_owned(),
            partition: Partition(record.partition()),
            offset: Offset(record.offset()),
        };
        let value = Bytes::copy_from_slice(record.payload().unwrap_or_default());
        let job = Self {
            key: Bytes::copy_from_slice(record.key().unwrap_or_default()),
            admitted_at: admitted_at(record),
            call: Callable::read(record, &value, api),
            headers: record.headers().map(|headers| headers.detach()),
            value,
            position,
        };
        let headers_bytes: usize = record.headers().map_or(0, |headers| {
            headers
                .iter()
                .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len))
                .sum()
        });
        Pending {
            partition: job.position.partition,
            offset: job.position.offset,
            key: job.call.as_ref().ok().map(|call| call.key.clone()),
            bytes: job.key.len() + job.value.len() + headers_bytes + OVERHEAD_BYTES,
            policy: policies.of(record),
            payload: job,
        }
    }

    /// The key as it stands in logs.
    pub(crate) fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// The outcome of a call that the API accepted, or that was `found` when the API was asked for it.
    pub(crate) fn outcome(
        &self,
        reply: &Reply,
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
        outcome.first_attempt_at = calendar.at(history.first_attempt_at.or(history.answered_at));
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

    /// The dead letter of a call that the API rejected, or of a record that is no call: the record, and why.
    pub(crate) fn dead_letter<'a>(
        &'a self,
        topics: &'a Topics,
        reply: Option<&Reply>,
        history: &History,
        calendar: Calendar,
        token: usize,
    ) -> Outgoing<'a> {
        let (reason, detail) = match (reply, &self.call) {
            (Some(reply), _) => (
                Reason::Rejected,
                format!("the API answered with status {}", reply.status),
            ),
            (None, Err(why)) => (why.reason, why.detail.clone()),
            (None, Ok(_)) => (Reason::NotAPendingCall, "the record cannot be called".to_owned()),
        };
        let mut headers = self
            .headers
            .clone()
            .unwrap_or_default()
            .insert(text(dead_letter::REASON, reason.as_str()))
            .insert(text(dead_letter::DETAIL, &detail))
            .insert(text(dead_letter::AT, &Timestamp::now().to_string()))
            .insert(text(call_dead_letter::CALL, &self.position.to_string()))
            .insert(text(call_dead_letter::ATTEMPTS, &history.attempts.to_string()))
            .insert(text(
                call_dead_letter::ATTEMPTS_AMBIGUOUS,
                &history.attempts_ambiguous.to_string(),
            ));
        if let Some(reply) = reply {
            headers = headers
                .insert(text(call_dead_letter::STATUS, &reply.status.to_string()))
                .insert(Header {
                    key: call_dead_letter::ANSWER,
                    value: Some(&reply.body),
                })
                .insert(text(
                    call_dead_letter::FIRST_ATTEMPT_AT,
                    &calendar.at(history.first_attempt_at).to_string(),
                ))
                .insert(text(
                    call_dead_letter::ANSWERED_AT,
                    &calendar.at(history.answered_at).to_string(),
                ));
        }
        Outgoing {
            topic: &topics.call_dead_letters,
            partition: None,
            key: &self.key,
            value: &self.value,
            headers,
            token,
        }
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
        let (reason, detail) = match (evidence.lookups, evidence.doubt) {
            (1.., _) => (
                parked::Reason::NotSettled,
                format!(
                    "the API was asked for it {} times, and did not tell",
                    evidence.lookups
                ),
            ),
            (0, Doubt::Ambiguous) => (
                parked::Reason::Ambiguous,
                "the answer to its request does not tell whether it was processed".to_owned(),
            ),
            (0, Doubt::Redelivered) => (
                parked::Reason::Begun,
                "an earlier caller noted that it was about to send it, and noted no end; look first for its \
                 outcome"
                    .to_owned(),
            ),
        };
        let mut headers = self
            .headers
            .clone()
            .unwrap_or_default()
            .insert(text(dead_letter::REASON, reason.as_str()))
            .insert(text(dead_letter::DETAIL, &detail))
            .insert(text(dead_letter::AT, &Timestamp::now().to_string()))
            .insert(text(call_dead_letter::CALL, &self.position.to_string()))
            .insert(text(call_dead_letter::ATTEMPTS, &history.attempts.to_string()))
            .insert(text(
                call_dead_letter::ATTEMPTS_AMBIGUOUS,
                &history.attempts_ambiguous.to_string(),
            ))
            .insert(text(parked::LOOKUPS, &evidence.lookups.to_string()))
            .insert(text(parked::PARKED_BY, by));
        for (name, at) in [
            (call_dead_letter::FIRST_ATTEMPT_AT, history.first_attempt_at),
            (call_dead_letter::ANSWERED_AT, history.answered_at),
        ] {
            if at.is_some() {
                headers = headers.insert(text(name, &calendar.at(at).to_string()));
            }
        }
        headers = match &evidence.last {
            Some(Report::Status(reply)) => headers
                .insert(text(call_dead_letter::STATUS, &reply.status.to_string()))
                .insert(Header {
                    key: call_dead_letter::ANSWER,
                    value: Some(&reply.body),
                }),
            Some(report @ (Report::Lost(_) | Report::NotSent(_))) => {
                headers.insert(text(parked::LOST, report.kind()))
            }
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

    /// The request that asks the API for the order.
    ///
    /// # Errors
    /// The record is no call, or the order lacks what the address needs.
    pub(crate) fn look_up_request(&self, api: &Api) -> Result<Request, String> {
        let call = self.call.as_ref().map_err(|why| why.detail.clone())?;
        let facts = Facts {
            order_id: &call.order_id,
            idempotency_key: &call.key.to_string(),
            order: std::str::from_utf8(&self.value).map_err(|error| error.to_string())?,
        };
        api.look_up_request(&facts, &call.request)
    }

    /// Why the API was not called, if it was not.
    pub(crate) fn no_call_reason(&self) -> Reason {
        self.call
            .as_ref()
            .map_or_else(|why| why.reason, |_| Reason::NotAPendingCall)
    }

    fn traceparent(&self) -> Option<&[u8]> {
        Some(self.call.as_ref().ok()?.request.traceparent.as_bytes())
    }
}

impl Callable {
    fn read(record: &BorrowedMessage<'_>, value: &Bytes, api: &Api) -> Result<Self, NotACall> {
        let because = |reason: Reason| move |detail: String| NotACall { reason, detail };
        let not_pending = because(Reason::NotAPendingCall);
        let key = IdempotencyKey::from_bytes(record.key().unwrap_or_default())
            .map_err(|error| not_pending(error.to_string()))?;
        let order = Order::parse(value).map_err(|error| not_pending(error.to_string()))?;
        let text = std::str::from_utf8(value).map_err(|error| not_pending(error.to_string()))?;
        let facts = Facts {
            order_id: &order.order_id,
            idempotency_key: &key.to_string(),
            order: text,
        };
        let request = api
            .request(&facts, value, header(record, pending::TRACEPARENT))
            .map_err(because(Reason::NoRequest))?;
        Ok(Self {
            order_id: order.order_id.into_owned(),
            request,
            key,
        })
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

fn admitted_at(record: &BorrowedMessage<'_>) -> Option<Timestamp> {
    let text = std::str::from_utf8(header(record, pending::ADMITTED_AT)?).ok()?;
    text.parse().ok().map(Timestamp)
}

/// The last header of a name.
fn header<'a>(record: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let headers = record.headers()?;
    (0..headers.count())
        .rev()
        .map(|at| headers.get(at))
        .find(|header| header.key == name)?
        .value
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a [u8]> {
    Header {
        key,
        value: Some(value.as_bytes()),
    }
}
