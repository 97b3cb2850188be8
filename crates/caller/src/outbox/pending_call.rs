//! A record of the outbox as a pending call with its HTTP request. `terminal_records.rs` leads back, to the
//! record that the call ends in.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use kafka::Headers;
use pipeline::delivery::{Ambiguity, DeferralContext, Pending};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use records::call_dead_letter::Reason;
use records::continuation::{self, Continuation, InvalidContinuation};
use records::{IdempotencyKey, Offset, Partition, Position, Timestamp, order_id, pending};
use service::failpoint::guard_removed;

use crate::effects::await_schema::OrderDocument;
use crate::http::{Api, Facts, Request};
use crate::outbox::call_span::{CallSpan, CallSpans};
use crate::outbox::policies::Policies;

/// Record of the outbox, kept until its call is final.
#[derive(Debug)]
pub(crate) struct PendingCall {
    pub(crate) position: Position,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Document that the schema of the order has read it as; `None`: the order is read as it is.
    pub(crate) document: Option<Bytes>,
    pub(crate) headers: Option<OwnedHeaders>,
    pub(crate) admitted_at: Option<Timestamp>,
    /// Time when a caller first read the call, at its first position in the outbox.
    pub(crate) seen_at: Timestamp,
    /// Span of the call, if its trace is recorded.
    pub(crate) span: Option<CallSpan>,
    /// State from before the call was deferred, if it was.
    pub(crate) continuation: Option<Continuation>,
    /// Request, or the reason why the record is no valid pending call.
    pub(crate) call: Result<Callable, NotACall>,
}

/// Reason why the API is not called for a record.
#[derive(Clone, Debug)]
pub(crate) struct NotACall {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

/// Order and request of a valid pending call.
#[derive(Debug)]
pub(crate) struct Callable {
    pub(crate) key: IdempotencyKey,
    /// Id in the order, or else the idempotency key.
    pub(crate) order_id: String,
    pub(crate) request: Request,
}

/// Estimated memory per call beyond its bytes: map entries, URL, headers.
const OVERHEAD_BYTES: usize = 1_024;

impl PendingCall {
    /// Reads a record of the outbox for a caller of this group.
    pub(crate) fn read(
        record: &BorrowedMessage<'_>,
        document: OrderDocument,
        group: &str,
        api: &Api,
        policies: &Policies,
        spans: Option<&CallSpans>,
    ) -> Pending<Self> {
        let position = Position {
            topic: record.topic().to_owned(),
            partition: Partition(record.partition()),
            offset: Offset(record.offset()),
        };
        // Copied, like the headers below: the message borrows librdkafka's fetch buffer and would keep all of
        // it in memory until the call is final.
        let value = Bytes::copy_from_slice(record.payload().unwrap_or_default());
        let (document, unread) = match document {
            Ok(document) => (document.map(|text| Bytes::from(String::from(text))), None),
            Err(why) => (None, Some(why)),
        };
        let headers = Headers::of(record);
        let record_key = record.key().unwrap_or_default();
        let span = spans.and_then(|spans| spans.start(record_key, &position, &headers.readable));
        let traceparent = match &span {
            Some(span) => Some(Cow::Owned(span.traceparent().to_vec())),
            None => pending::trace_context(record_key, &headers.readable),
        };
        let (now, continuation) = (Timestamp::now(), continuation(&headers));
        let not_pending = |detail| NotACall {
            reason: Reason::NotAPendingCall,
            detail,
        };
        let call = match (&continuation, headers.unreadable) {
            // A dead letter, not a fresh call: the unreadable state may be that of a request that was
            // processed.
            (Err(error), _) => Err(not_pending(error.to_string())),
            // The validator admits no such record, so this one is not from it.
            (Ok(_), Some(number)) => Err(not_pending(format!("the name of header {number} is not UTF-8"))),
            (Ok(_), None) => match unread {
                // The validator has read it: the schema was deleted since, or this is another registry. The call can be
                // made again, by `outbox replay`.
                Some(detail) => Err(NotACall {
                    reason: Reason::NoRequest,
                    detail,
                }),
                None => Callable::new(record_key, &value, document.as_ref(), traceparent.as_deref(), api),
            },
        };
        let continuation = continuation.unwrap_or_default();
        let is_of_other_group = is_of_other_group(continuation.as_ref(), group);
        let pending = Self {
            key: Bytes::copy_from_slice(record_key),
            admitted_at: admitted_at(&headers),
            seen_at: continuation.as_ref().map_or(now, |before| before.first_seen_at),
            continuation,
            // The callers of its own group have one.
            span: span.filter(|_| !is_of_other_group),
            call,
            headers: match headers.unreadable {
                None => record.headers().map(|headers| headers.detach()),
                // rust-rdkafka panics when it reads such a name, and the headers are read once more for the
                // dead letter.
                Some(_) => Some(readable(&headers)),
            },
            value,
            document,
            position,
        };
        let headers_bytes: usize = headers
            .readable
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum();
        Pending {
            partition: pending.position.partition,
            offset: pending.position.offset,
            key: pending.call.as_ref().ok().map(|call| call.key.clone()),
            bytes: pending.key.len()
                + pending.value.len()
                + pending.document.as_ref().map_or(0, Bytes::len)
                + headers_bytes
                + OVERHEAD_BYTES,
            policy: policies.of(&headers),
            is_of_other_group,
            deferral_context: pending.deferral_context(now),
            payload: pending,
        }
    }

    /// Returns what the delivery needs to know of the call's earlier positions.
    fn deferral_context(&self, now: Timestamp) -> Option<DeferralContext> {
        let before = self.continuation.as_ref()?;
        // Clocks of two machines may disagree; a negative age counts as none.
        let seen_before_ms = u64::try_from(now.0.saturating_sub(before.first_seen_at.0)).unwrap_or_default();
        Some(DeferralContext {
            // An offset means nothing on another partition, where a replay may have put the copy.
            origin: match before.first(&self.position) {
                first if first.partition == self.position.partition => first.offset,
                _ => self.position.offset,
            },
            attempts: before.attempts,
            attempts_ambiguous: before.attempts_ambiguous,
            lookups: before.lookups,
            ambiguity: before.ambiguity.map(|ambiguity| match ambiguity {
                continuation::Ambiguity::AmbiguousResponse => Ambiguity::AmbiguousResponse,
                continuation::Ambiguity::Redelivered => Ambiguity::Redelivered,
            }),
            seen_before: Duration::from_millis(seen_before_ms),
        })
    }

    /// Notes in the call's span how it has ended.
    pub(crate) fn ended(&self, end: &'static str) {
        if let Some(span) = &self.span {
            span.ended(end);
        }
    }

    /// Returns the key for logs; invalid UTF-8 is replaced.
    pub(crate) fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// Returns the look-up request for the order.
    ///
    /// # Errors
    /// The record is no valid pending call, or the order lacks a field that the look-up URL needs.
    pub(crate) fn look_up_request(&self, api: &Api) -> Result<Request, String> {
        let call = self.call.as_ref().map_err(|why| why.detail.clone())?;
        let facts = Facts {
            order_id: &call.order_id,
            idempotency_key: &call.key.to_string(),
            order: json_of(self.document.as_ref().unwrap_or(&self.value)),
        };
        api.look_up_request(&facts, &call.request)
    }
}

impl Callable {
    /// Reads a pending call. Its order has the form that the validator's settings ask for, which this program
    /// does not know: of the order it needs what its templates name.
    pub(crate) fn new(
        key: &[u8],
        value: &Bytes,
        document: Option<&Bytes>,
        traceparent: Option<&[u8]>,
        api: &Api,
    ) -> Result<Self, NotACall> {
        let because = |reason: Reason| move |detail: String| NotACall { reason, detail };
        let not_pending = because(Reason::NotAPendingCall);
        let key = IdempotencyKey::from_bytes(key).map_err(|error| not_pending(error.to_string()))?;
        // The validator admits no such record, so this one is not from it.
        if value.is_empty() {
            return Err(not_pending("the record has no value".into()));
        }
        // What the API gets unless the settings have a body: no API reads what only a registry explains.
        let order = document.unwrap_or(value);
        let order_id = order_id(order)
            .map_err(|error| not_pending(error.to_string()))?
            .map_or_else(|| key.to_string(), Cow::into_owned);
        let facts = Facts {
            order_id: &order_id,
            idempotency_key: &key.to_string(),
            order: json_of(order),
        };
        // Built once, here: every attempt sends the same bytes, and an order without a request is found
        // before its intent is committed.
        let request = api
            .request(&facts, order, traceparent)
            .map_err(because(Reason::NoRequest))?;
        Ok(Self {
            order_id,
            request,
            key,
        })
    }
}

/// Returns the text in which templates look for fields.
// Bytes that are no text have no fields: such an order can be called if the templates name none.
fn json_of(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

/// Copies the headers whose name is UTF-8.
fn readable(headers: &Headers<'_>) -> OwnedHeaders {
    let copy = OwnedHeaders::new_with_capacity(headers.readable.len());
    headers
        .readable
        .iter()
        .fold(copy, |copy, &(key, value)| copy.insert(Header { key, value }))
}

fn continuation(headers: &Headers<'_>) -> Result<Option<Continuation>, InvalidContinuation> {
    // A header without a value counts as present, and is then invalid: dropping it could repeat a payment.
    headers
        .last(continuation::CONTINUES)
        .map(|value| Continuation::parse(value.unwrap_or_default()))
        .transpose()
}

/// Returns `true` for a copy that another group of callers has appended for itself.
fn is_of_other_group(continuation: Option<&Continuation>, group: &str) -> bool {
    if guard_removed!("guard-copy-group") {
        // A test removes the guard: each group then calls the copies of all groups, at its own API.
        return false;
    }
    continuation.is_some_and(|copy| copy.group != group)
}

fn admitted_at(headers: &Headers<'_>) -> Option<Timestamp> {
    let text = std::str::from_utf8(headers.last(pending::ADMITTED_AT)??).ok()?;
    text.parse().ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::http::ApiSettings;

    fn call(url: &str, value: &[u8]) -> Result<(String, String), Reason> {
        let settings = ApiSettings {
            url: url.into(),
            ..ApiSettings::default()
        };
        let api = Api::new(&settings).expect("an API");
        let value = Bytes::copy_from_slice(value);
        let call = Callable::new(b"k-1", &value, None, None, &api).map_err(|why| why.reason)?;
        assert_eq!(call.request.body, value, "the order's bytes");
        Ok((call.order_id, call.request.url.path().to_owned()))
    }

    #[test]
    fn order_of_any_form_is_called() {
        let called = |id: &str, path: &str| Ok((id.to_owned(), path.to_owned()));
        let by_id = "http://h/{order_id}";
        for (value, id) in [
            (br#"{"order_id":"o-1","amount":"12.50"}"#.as_slice(), "o-1"),
            (br#"{"order_id":7,"amount":12.50}"#, "7"),
            (br#"{"reference":"r-1"}"#, "k-1"),
            (b"12.50 EUR to C-7", "k-1"),
            (b"\xff\x00", "k-1"),
        ] {
            assert_eq!(call(by_id, value), called(id, &format!("/{id}")));
        }
        let by_field = "http://h/{/customer/id}";
        assert_eq!(
            call(by_field, br#"{"order_id":"o-1","customer":{"id":"c-1"}}"#),
            called("o-1", "/c-1")
        );
        for value in [
            br#"{"order_id":"o-1"}"#.as_slice(),
            br#"{"customer":{"id":"c-1""#,
            br#"{"customer":{"id":"c-1","id":"c-2"}}"#,
            br#"{"customer":{"id":"c-1"},"customer":{"id":"c-2"}}"#,
            b"12.50 EUR to C-7",
            b"\xff\x00",
        ] {
            assert_eq!(call(by_field, value), Err(Reason::NoRequest));
        }
        for value in [b"".as_slice(), br#"{"order_id":"a","order_id":"b"}"#] {
            assert_eq!(call(by_id, value), Err(Reason::NotAPendingCall));
        }
    }

    #[test]
    fn copy_is_called_by_its_own_group_only() {
        let call = "pending-api-calls/3@17".parse().expect("a position");
        let copy = Continuation::new(call, "api-caller".into(), Timestamp(1));
        assert!(!is_of_other_group(Some(&copy), "api-caller"));
        assert!(is_of_other_group(Some(&copy), "api-caller-2"));
        // The validator's record is for each group.
        assert!(!is_of_other_group(None, "api-caller-2"));
    }

    #[test]
    fn readable_headers_are_copied_in_order() {
        let headers = Headers {
            readable: vec![("a", Some(b"1")), ("none", None), ("a", Some(b"\xff"))],
            unreadable: Some(2),
        };
        let copy = readable(&headers);
        let copied: Vec<_> = copy.iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(copied, headers.readable);
    }
}
