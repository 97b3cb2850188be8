//! An answer is read: its status counts whatever becomes of the rest, which is evidence, and the field that
//! the settings ask for.

use std::time::{Duration, SystemTime};

use pipeline::delivery::{Field, HttpResponse, ResponseClassifier};
use reqwest::Response;
use reqwest::header::{HeaderValue, RETRY_AFTER};
use serde_json::Value;

/// An answer is read up to this, kept or not: to the end its connection can be used again, and a field is
/// found. What is longer ends its connection.
const READ_MAX: usize = 1024 * 1024;

/// What is read of answers.
pub(crate) struct Reading {
    /// They know which bodies have the last word.
    pub(crate) classes: ResponseClassifier,
    /// So much of a body is kept.
    pub(crate) kept_max: usize,
    /// Where the API's own transaction id stands; empty: nowhere.
    pub(crate) transaction_id: String,
}

impl Reading {
    /// Reads an answer.
    pub(crate) async fn read(&self, mut response: Response) -> HttpResponse {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .map(|value| retry_after(value, SystemTime::now()));
        let rule = self.classes.rule(status);
        let is_asked = rule.is_some() || !self.transaction_id.is_empty();
        let room = if is_asked { READ_MAX } else { self.kept_max };
        let (mut body, mut read) = (Vec::new(), 0);
        let is_whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    read += chunk.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room - body.len())]);
                    if read > READ_MAX {
                        break false;
                    }
                }
                Ok(None) => break read == body.len(),
                Err(_) => break false,
            }
        };
        let json: Option<Value> = match is_asked && is_whole {
            // Of an answer without a body the field is missing; of one with half of it nobody knows.
            true if body.trim_ascii().is_empty() => Some(Value::Null),
            true => serde_json::from_slice(&body).ok(),
            false => None,
        };
        let body_cut = !is_whole || body.len() > self.kept_max;
        body.truncate(self.kept_max);
        body.shrink_to_fit();
        HttpResponse {
            status,
            retry_after,
            body,
            body_cut,
            field: rule.map_or(Field::NotAsked, |rule| rule.field(json.as_ref())),
            transaction_id: json.and_then(|json| transaction_id(&json, &self.transaction_id)),
        }
    }
}

/// What a `Retry-After` header asks for: seconds, or a date. One that cannot be read asks for no time in
/// particular, but still says that the request was turned away.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Duration {
    let text = value.to_str().unwrap_or_default().trim();
    match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()
            .and_then(|date| date.duration_since(now).ok())
            .unwrap_or_default(),
    }
}

/// The API's own id, at a JSON pointer of its answer.
fn transaction_id(answer: &Value, pointer: &str) -> Option<String> {
    if pointer.is_empty() {
        return None;
    }
    match answer.pointer(pointer)? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let asked = |text, now| retry_after(&HeaderValue::from_static(text), at(now));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(asked("7", 0), Duration::from_secs(7));
        assert_eq!(asked(date, 784_111_770), Duration::from_secs(7));
        assert_eq!(asked(date, 784_111_778), Duration::ZERO);
        assert_eq!(asked("soon", 0), Duration::ZERO);
    }

    #[test]
    fn the_transaction_id_is_text_or_a_number_at_the_pointer() {
        let answer = r#"{"data":{"id":"t-1","number":12345678901234567890,"list":[]}}"#;
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        let id = |pointer: &str| transaction_id(&answer, pointer);
        assert_eq!(id("/data/id").as_deref(), Some("t-1"));
        assert_eq!(id("/data/number").as_deref(), Some("12345678901234567890"));
        for pointer in ["/data/list", "/nothing", ""] {
            assert_eq!(id(pointer), None, "{pointer}");
        }
    }
}
