//! Reads a response: its status, which counts even if the rest is lost, its body as evidence, and the fields
//! that the settings ask for.

use std::time::{Duration, SystemTime};

use pipeline::delivery::{Field, HttpResponse, ResponseClassifier};
use reqwest::Response;
use reqwest::header::{HeaderValue, RETRY_AFTER};
use serde_json::Value;

/// Maximum number of body bytes that are read, kept or not. A body read to its end leaves its connection
/// reusable; a longer one closes it.
const READ_MAX: usize = 1024 * 1024;

/// Reads responses as the settings say.
pub(crate) struct ResponseReader {
    /// Classifier of the responses. Its field rules say which bodies must be parsed.
    pub(crate) classifier: ResponseClassifier,
    /// Maximum number of body bytes that are kept.
    pub(crate) kept_max: usize,
    /// JSON pointer of the API's own transaction id; empty: none.
    pub(crate) transaction_id: String,
}

impl ResponseReader {
    /// Reads a response. An error while the body is read only marks it as cut.
    pub(crate) async fn read(&self, mut response: Response) -> HttpResponse {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .map(|value| retry_after(value, SystemTime::now()));
        let rule = self.classifier.rule(status);
        let is_parsed = rule.is_some() || !self.transaction_id.is_empty();
        // A field may stand behind the part of the body that is kept.
        let buffer_max = if is_parsed { READ_MAX } else { self.kept_max };
        let (mut body, mut read) = (Vec::new(), 0);
        let is_whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    read += chunk.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(buffer_max - body.len())]);
                    // A limit on memory and time: the server decides how long a body is.
                    if read > READ_MAX {
                        break false;
                    }
                }
                Ok(None) => break read == body.len(),
                // The status has arrived and says whether the order was processed. Treating a broken body as
                // a lost response would repeat calls that were accepted.
                Err(_) => break false,
            }
        };
        let json: Option<Value> = match is_parsed && is_whole {
            // An empty body has no fields. A truncated body is unreadable, since the field may be in the
            // rest.
            true if body.trim_ascii().is_empty() => Some(Value::Null),
            true => serde_json::from_slice(&body).ok(),
            false => None,
        };
        let body_cut = !is_whole || body.len() > self.kept_max;
        body.truncate(self.kept_max);
        // The call holds the body until its outcome is published: up to READ_MAX per call otherwise.
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

/// Returns the wait that a `Retry-After` header asks for, in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue, now: SystemTime) -> Duration {
    let text = value.to_str().unwrap_or_default().trim();
    match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // An unreadable value still says that the request was refused unprocessed, so it counts as zero and
        // not as a missing header.
        Err(_) => httpdate::parse_http_date(text)
            .ok()
            .and_then(|date| date.duration_since(now).ok())
            .unwrap_or_default(),
    }
}

/// Returns the API's own transaction id from a JSON body.
fn transaction_id(body: &Value, pointer: &str) -> Option<String> {
    // The empty JSON pointer means the whole document, which is no id.
    if pointer.is_empty() {
        return None;
    }
    match body.pointer(pointer)? {
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
        let wait = |text, now| retry_after(&HeaderValue::from_static(text), at(now));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait("7", 0), Duration::from_secs(7));
        assert_eq!(wait(date, 784_111_770), Duration::from_secs(7));
        assert_eq!(wait(date, 784_111_778), Duration::ZERO);
        assert_eq!(wait("soon", 0), Duration::ZERO);
    }

    #[test]
    fn transaction_id_is_text_or_a_number() {
        let body = r#"{"data":{"id":"t-1","number":12345678901234567890,"list":[]}}"#;
        let body: Value = serde_json::from_str(body).expect("JSON");
        let id = |pointer: &str| transaction_id(&body, pointer);
        assert_eq!(id("/data/id").as_deref(), Some("t-1"));
        assert_eq!(id("/data/number").as_deref(), Some("12345678901234567890"));
        for pointer in ["/data/list", "/nothing", ""] {
            assert_eq!(id(pointer), None, "{pointer}");
        }
    }
}
