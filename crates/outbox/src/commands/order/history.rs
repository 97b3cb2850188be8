//! Events of an order's history, from the records of each topic.

use kafka::Headers;
use kafka::group_offsets::TopicRecord;
use records::operation::REPLAY;
use records::outcome::Outcome;
use records::settlement::{Decision, Settlement};
use records::{Timestamp, call_dead_letter, continuation, dead_letter, parked, pending};
use serde::Serialize;

use crate::call_records::{number, text};

/// Maximum number of characters of a response that are shown; `--json` has as many.
const RESPONSE_CHARS_MAX: usize = 200;

/// Event of an order's history. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    /// Time of the record; `None` if it has none.
    pub(super) at: Option<Timestamp>,
    /// What happened.
    pub(super) what: &'static str,
    /// Position of the record, or the group and partition of the notes.
    pub(super) place: String,
    /// What the record says of it.
    pub(super) detail: String,
}

impl Event {
    pub(super) fn of(record: &TopicRecord<'_>, place: String, what: &'static str, detail: String) -> Self {
        Self {
            at: record.at,
            what,
            place,
            detail,
        }
    }
}

/// Returns the event of an order that a producer has sent.
pub(super) fn sent(record: &TopicRecord<'_>, place: String) -> Event {
    let detail = format!("{} bytes", record.value.len());
    Event::of(record, place, "sent by a producer", detail)
}

/// Returns the event of an order that a validator has refused.
pub(super) fn refused(record: &TopicRecord<'_>, place: String) -> Event {
    Event::of(record, place, "refused by a validator", reason(&record.headers))
}

/// Returns the event of a record of the outbox.
pub(super) fn appended(record: &TopicRecord<'_>, place: String) -> Event {
    let headers = &record.headers;
    let before = headers.last(continuation::CONTINUES).flatten();
    let before = before.map(records::Continuation::parse);
    match (before, text(headers, REPLAY)) {
        (None, _) => {
            let source = text(headers, pending::SOURCE).unwrap_or("an unknown order");
            Event::of(record, place, "admitted", format!("from {source}"))
        }
        (Some(Err(error)), _) => Event::of(record, place, "copied", error.to_string()),
        (Some(Ok(before)), Some(plan)) if before.attempts == 0 => {
            let what = match before.repeats {
                true => "replayed, although accepted",
                false => "replayed",
            };
            Event::of(record, place, what, format!("plan {plan}, of {}", before.call))
        }
        (Some(Ok(before)), _) => Event::of(
            record,
            place,
            "deferred or sent again",
            format!(
                "copy {} of {}, after {}",
                before.deferrals,
                before.call,
                requests(before.attempts.into(), before.attempts_ambiguous.into())
            ),
        ),
    }
}

/// Returns the event of an outcome, as its record has it.
pub(super) fn accepted(record: &TopicRecord<'_>, outcome: &Outcome, place: String) -> Event {
    if let Some(by) = &outcome.settled_by {
        let because = outcome.settled_because.as_deref().unwrap_or_default();
        return Event::of(
            record,
            place,
            "settled as accepted",
            format!("by {by}: {because}"),
        );
    }
    let what = match outcome.found_by_look_up {
        true => "found by a look-up",
        false => "accepted",
    };
    let transaction = outcome
        .transaction_id
        .as_ref()
        .map_or(String::new(), |id| format!(", transaction {id}"));
    let detail = format!(
        "status {}{transaction}, {}: {}",
        outcome.status,
        requests(outcome.attempts.into(), outcome.attempts_ambiguous.into()),
        shortened(&outcome.response)
    );
    Event::of(record, place, what, detail)
}

/// Returns the event of a call's dead letter.
pub(super) fn rejected(record: &TopicRecord<'_>, place: String) -> Event {
    Event::of(record, place, "dead letter", evidence(&record.headers))
}

/// Returns the event of a parked record, or of a settlement.
pub(super) fn parked(record: &TopicRecord<'_>, place: String) -> Event {
    if text(&record.headers, call_dead_letter::CALL).is_some() {
        return Event::of(record, place, "parked", evidence(&record.headers));
    }
    match Settlement::parse(record.value) {
        Ok(settlement) => {
            let what = match settlement.decision {
                Decision::Accepted => "settled: accepted",
                Decision::Rejected => "settled: rejected",
                Decision::SendAgain => "settled: sent again",
            };
            Event::of(
                record,
                place,
                what,
                format!("by {}: {}", settlement.by, settlement.reason),
            )
        }
        Err(error) => Event::of(record, place, "settled", error.to_string()),
    }
}

fn evidence(headers: &Headers<'_>) -> String {
    let number = |name| number(headers, name).unwrap_or(0);
    let status = text(headers, call_dead_letter::STATUS).map(|status| format!(", status {status}"));
    let lost = text(headers, parked::LOST).map(|lost| format!(", {lost}"));
    let response = text(headers, call_dead_letter::RESPONSE)
        .filter(|response| !response.is_empty())
        .map(|response| format!(": {}", shortened(response)));
    format!(
        "{}{}, {}{}",
        reason(headers),
        status.or(lost).unwrap_or_default(),
        requests(
            number(call_dead_letter::ATTEMPTS),
            number(call_dead_letter::ATTEMPTS_AMBIGUOUS)
        ),
        response.unwrap_or_default()
    )
}

fn requests(attempts: u64, ambiguous: u64) -> String {
    match ambiguous {
        0 => format!("{attempts} requests"),
        // A copy of a parked call, or of a replay: those before are not counted.
        _ if ambiguous > attempts => {
            format!("{attempts} requests, and an earlier one with an unknown outcome")
        }
        _ => format!("{attempts} requests, {ambiguous} of them with an unknown outcome"),
    }
}

fn reason(headers: &Headers<'_>) -> String {
    let reason = text(headers, dead_letter::REASON).unwrap_or("no reason");
    match text(headers, dead_letter::DETAIL) {
        Some(detail) => format!("{reason} ({detail})"),
        None => reason.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(RESPONSE_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use records::Continuation;

    use super::*;
    use crate::call_records::record_with as record;

    #[test]
    fn copies_are_told_apart() {
        let call: records::Position = "outbox/0@1".parse().expect("a position");
        let mut before = Continuation::new(call, "g".into(), Timestamp(1));
        let what = |before: &Continuation, replay: bool| {
            let json = before.to_json();
            let mut headers = vec![(continuation::CONTINUES, json.as_slice())];
            if replay {
                headers.push((REPLAY, b"p1"));
            }
            appended(&record(&headers, b"{}"), "outbox/0@3".into())
        };
        assert_eq!(what(&before, true).what, "replayed");
        before.repeats = true;
        let repeated = what(&before, true);
        assert_eq!(
            (repeated.what, repeated.detail.as_str()),
            ("replayed, although accepted", "plan p1, of outbox/0@1")
        );
        before.attempts = 4;
        before.attempts_ambiguous = 1;
        let deferred = what(&before, true);
        assert!(
            deferred
                .detail
                .contains("after 4 requests, 1 of them with an unknown outcome"),
            "{deferred:?}"
        );
        before.attempts = 0;
        let sent_again = what(&before, false);
        assert!(
            sent_again
                .detail
                .contains("after 0 requests, and an earlier one with an unknown outcome"),
            "{sent_again:?}"
        );
        let admitted = appended(&record(&[(pending::SOURCE, b"orders/0@9")], b"{}"), String::new());
        assert_eq!(
            (admitted.what, admitted.detail.as_str()),
            ("admitted", "from orders/0@9")
        );
    }

    #[test]
    fn evidence_is_told() {
        let headers: [(&str, &[u8]); 6] = [
            (dead_letter::REASON, b"rejected"),
            (dead_letter::DETAIL, b"the API rejected it with status 422"),
            (call_dead_letter::CALL, b"outbox/0@1"),
            (call_dead_letter::STATUS, b"422"),
            (call_dead_letter::ATTEMPTS, b"2"),
            (call_dead_letter::RESPONSE, b"no such account"),
        ];
        let event = rejected(&record(&headers, b"{}"), "dead/0@3".into());
        assert_eq!(
            event.detail,
            "rejected (the API rejected it with status 422), status 422, 2 requests: no such account"
        );
        let mut outcome = Outcome::new("k".into(), "k".into(), "outbox/0@1".into());
        (outcome.status, outcome.attempts) = (201, 1);
        let event = accepted(&record(&[], b""), &outcome, String::new());
        assert_eq!(event.detail, "status 201, 1 requests: ");
        assert_eq!(
            shortened(&"ä".repeat(300)).chars().count(),
            RESPONSE_CHARS_MAX + 1
        );
    }
}
