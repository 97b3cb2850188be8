use std::sync::OnceLock;

use bytes::Bytes;
use pipeline::delivery::{Response, ResponseClass};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use serde_json::Value;

use super::template::{Escaping, Template};
use super::*;
use crate::outbox::pending_call::Callable;

/// A value of an order stays one value in the syntax around it. The first line is an order id, the second a template,
/// the rest an order.
#[test]
fn template() {
    const TOKENS: &[&str] = &[
        "{",
        "}",
        "{{",
        "}}",
        "{order_id}",
        "{idempotency_key}",
        "{/a}",
        "{/a/0}",
        "{/~1}",
        "{/~}",
        "{total}",
        "\"",
        "\\",
        "\n",
        "/",
        "..",
        "%2e",
        "?",
        "#",
        "&",
        "=",
        "<",
        "]]>",
        "\r",
        "\u{0}",
        "\u{202e}",
        "é",
        "null",
        "[",
        "1e400",
    ];
    fuzzing::check!("template", TOKENS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        let (order_id, rest) = text.split_once('\n').unwrap_or((text, ""));
        let (template, order) = rest.split_once('\n').unwrap_or((rest, ""));
        let facts = Facts {
            order_id,
            idempotency_key: order_id,
            order,
        };
        values_stay_values(&facts);
        for escaping in [
            Escaping::Url,
            Escaping::Header,
            Escaping::Json,
            Escaping::Form,
            Escaping::Xml,
            Escaping::Text,
        ] {
            let Ok(template) = Template::new(template, escaping) else {
                continue;
            };
            let filled = template.fill(&facts, escaping);
            if template.is_fixed() {
                let other = Facts {
                    order_id: "other",
                    idempotency_key: "other",
                    order: "{}",
                };
                assert_eq!(
                    template.fill(&other, escaping),
                    filled,
                    "a fixed text depends on the order"
                );
            }
        }
    });
}

fn values_stay_values(facts: &Facts<'_>) {
    let fill = |text: &str, escaping| {
        let template = Template::new(text, escaping).expect("a template");
        template.fill(facts, escaping)
    };
    let id = facts.order_id;
    let json = fill(r#"{"a":{order_id},"b":"<{idempotency_key}>"}"#, Escaping::Json).expect("text is JSON");
    let json: Value = serde_json::from_str(&json).expect("the body is JSON");
    assert_eq!(json, serde_json::json!({"a": id, "b": format!("<{id}>")}));

    let of_url = "https://api.test/v1/{order_id}/pay?k={idempotency_key}";
    if let Ok(url) = fill(of_url, Escaping::Url) {
        let url = reqwest::Url::parse(&url).expect("a URL");
        let segments: Vec<&str> = url.path_segments().expect("a path").collect();
        assert_eq!(
            (url.host_str(), segments.len(), segments[0], segments[2]),
            (Some("api.test"), 3, "v1", "pay")
        );
        assert_eq!(url.query_pairs().collect::<Vec<_>>(), [("k".into(), id.into())]);
        assert_eq!(url.fragment(), None);
    } else {
        assert!(matches!(id, "" | "." | ".."), "{id:?} has no URL");
    }

    let form = fill("a={order_id}&b=1", Escaping::Form).expect("any text");
    let url = reqwest::Url::parse(&format!("http://h/?{form}")).expect("a URL");
    assert_eq!(
        url.query_pairs().collect::<Vec<_>>(),
        [("a".into(), id.into()), ("b".into(), "1".into())]
    );

    if let Ok(xml) = fill("<a b='{order_id}'>{order_id}</a>", Escaping::Xml) {
        assert_eq!(xml.matches(['<', '>', '\'']).count(), 6, "{xml}");
    }

    // A field of the order is in the JSON of the body as it is in the order.
    if let Ok(json) = fill(r#"{"a":{/a}}"#, Escaping::Json)
        && let Ok(order) = serde_json::from_str::<Value>(facts.order)
    {
        let body: Value = serde_json::from_str(&json).expect("the body is JSON");
        assert_eq!(body["a"], order["a"]);
    }
}

/// A response counts as accepted by its status and its field alone, and no more of it is kept than the settings say.
/// The first line is the status, the second `Retry-After`, the rest the body.
#[test]
fn response() {
    const TOKENS: &[&str] = &[
        "200",
        "503",
        "404",
        "\n",
        "{",
        "}",
        "\"result\":\"OK\"",
        "\"result\":",
        "\"ERROR\"",
        "null",
        "[",
        "\"id\":",
        ",",
        "18446744073709551615",
        "-1",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "1e999",
    ];
    fuzzing::check!("response", TOKENS, |bytes| {
        let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
        let mut line = || lines.next().unwrap_or_default();
        let (status, wait, body) = (line(), line(), line());
        let Ok(status) = reqwest::StatusCode::from_bytes(status) else {
            return;
        };
        for api in apis() {
            let mut received = http::Response::new(reqwest::Body::from(body.to_vec()));
            *received.status_mut() = status;
            if let Ok(value) = HeaderValue::from_bytes(wait) {
                received.headers_mut().insert(RETRY_AFTER, value);
            }
            let response = runtime().block_on(api.reader.read(received.into()));
            assert!(
                response.body.len() <= api.reader.kept_max,
                "{} bytes are kept",
                response.body.len()
            );
            assert!(body.starts_with(&response.body), "another body");
            assert_eq!(response.body_cut, body.len() > response.body.len());
            let class = api.reader.classifier.class_of(&Response::Status(response));
            let says_ok = match api.reader.classifier.rule(status.as_u16()) {
                None => true,
                Some(_) => serde_json::from_slice::<Value>(body).is_ok_and(|json| json["result"] == "OK"),
            };
            let is_accepted = status.is_success() && says_ok;
            assert_eq!(
                class == ResponseClass::Accepted,
                is_accepted,
                "{status} is {class:?}"
            );
            if status.is_redirection() || status.is_server_error() || status.is_informational() {
                assert_eq!(class, ResponseClass::Ambiguous, "{status}");
            }
        }
    });
}

/// Clients of an API whose status decides, and of one whose field `result` does.
fn apis() -> &'static [Api; 2] {
    static APIS: OnceLock<[Api; 2]> = OnceLock::new();
    APIS.get_or_init(|| {
        let by_status = r#"{"response_bytes_max": "16B"}"#;
        let by_field = r#"{"transaction_id": "/id", "response_bytes_max": "64B", "responses": {"body": [
            {"statuses": ["2xx"], "pointer": "/result", "accepted": ["OK"], "rejected": ["ERROR"]}
        ]}}"#;
        [by_status, by_field].map(api)
    })
}

fn api(settings: &str) -> Api {
    let settings: ApiSettings = serde_json::from_str(settings).expect("settings");
    Api::new(&settings).expect("an API")
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().expect("a runtime")
    })
}

/// A record of the outbox is a request with its bytes, or no call. The first line is its key, the second a trace
/// context, the rest the order.
#[test]
fn pending_call() {
    const TOKENS: &[&str] = &[
        "{",
        "}",
        "\"order_id\":",
        "\"a\":",
        "\"o-1\"",
        ",",
        "\n",
        "\r\n",
        "..",
        "/",
        "%",
        "\\n",
        "\\u0000",
        "null",
        "17",
        "é",
        "00-78319aa8023aeb586f520bc6bcb64e36-1a0c4506c7b00412-01",
    ];
    static API: OnceLock<Api> = OnceLock::new();
    fuzzing::check!("pending_call", TOKENS, |bytes| {
        let api = API.get_or_init(|| {
            api(r#"{"url": "http://api.test/v1/{order_id}/{/a}", "headers": {"x-order": "{order_id}"}}"#)
        });
        let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
        let mut line = || lines.next().unwrap_or_default();
        let (key, trace, value) = (line(), line(), Bytes::copy_from_slice(line()));
        let Ok(call) = Callable::new(key, &value, None, Some(trace), api) else {
            return;
        };
        assert_eq!(call.request.body, value, "other bytes than the order's");
        assert_eq!(call.key.as_bytes(), key, "another key");
        assert_eq!(call.request.idempotency_key.as_bytes(), key, "another key");
        let url = &call.request.url;
        let segments = url.path_segments().map(Iterator::count);
        assert_eq!((url.host_str(), segments), (Some("api.test"), Some(3)), "{url}");
        let headers = api.mapping.headers(&call.request);
        let sent = headers.get("x-order").map(HeaderValue::as_bytes);
        assert_eq!(sent, Some(call.order_id.as_bytes()));
    });
}
