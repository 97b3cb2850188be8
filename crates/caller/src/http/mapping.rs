//! Makes a request from an order: URL, headers and body, as the settings say.

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use rand::RngExt as _;
use records::TraceContext;
use reqwest::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::request::Request;
use super::settings::ApiSettings;
use super::template::{Escaping, Facts, Template};

/// Mapping of orders to requests, parsed from the settings once.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(super) method: Method,
    url: RequestUrl,
    /// Headers that are the same for all orders.
    fixed: HeaderMap,
    /// Headers with placeholders, filled for each order.
    headers: Vec<(HeaderName, Template)>,
    key_header: Option<HeaderName>,
    body: Body,
}

/// URL of requests, with or without placeholders.
#[derive(Debug)]
pub(super) enum RequestUrl {
    Fixed(Url),
    Template(Template),
}

#[derive(Debug)]
enum Body {
    /// The order: its bytes, or the document that its schema has read them as.
    Order,
    Template(Template, Escaping),
}

/// Headers that `api.headers` must not set. The HTTP connection sets most of them, and a second value could
/// let the server and a proxy disagree on where a request ends (request smuggling); the others have settings
/// of their own.
const RESERVED: [HeaderName; 11] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
];

impl Mapping {
    /// Parses the mapping of these settings.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(settings: &ApiSettings) -> anyhow::Result<Self> {
        let mut fixed = HeaderMap::new();
        let content_type = HeaderValue::from_str(&settings.content_type)
            .with_context(|| format!("the setting api.content_type is {:?}", settings.content_type))?;
        fixed.insert(CONTENT_TYPE, content_type);
        let key_header = match settings.idempotency_header.as_str() {
            "" => None,
            name => Some(HeaderName::from_bytes(name.as_bytes()).with_context(|| {
                format!(
                    "the setting api.idempotency_header is {name:?}; it must be the name of a header, or \
                     empty"
                )
            })?),
        };
        let mut headers = Vec::new();
        for (name, text) in &settings.headers {
            let invalid = |why: String| anyhow!("the setting api.headers has {name:?} = {text:?}: {why}");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(error.to_string()))?;
            if RESERVED.contains(&name) || Some(&name) == key_header.as_ref() || name == TRACEPARENT {
                return Err(invalid(
                    "this header is set by another setting, or by the HTTP connection".into(),
                ));
            }
            let template = Template::new(text, Escaping::Header).map_err(invalid)?;
            // A constant header is checked here, at the start, and not when the first order arrives.
            if template.is_fixed() {
                let text = template.fill(&EXAMPLE, Escaping::Header).map_err(invalid)?;
                let value =
                    HeaderValue::from_bytes(text.as_bytes()).map_err(|error| invalid(error.to_string()))?;
                fixed.insert(name, value);
            } else {
                headers.push((name, template));
            }
        }
        Ok(Self {
            method: method(&settings.method)?,
            url: RequestUrl::new("api.url", &settings.url)?,
            fixed,
            headers,
            key_header,
            body: Body::new(settings)?,
        })
    }

    /// Returns the request for an order.
    ///
    /// # Errors
    /// The order lacks a field that the settings ask for, or a header or URL cannot carry its value.
    pub(crate) fn request(
        &self,
        facts: &Facts<'_>,
        order: &Bytes,
        traceparent: Option<&[u8]>,
    ) -> Result<Request, String> {
        let value = |text: &str, name: &HeaderName| {
            // From bytes, not `from_str`: keys may contain UTF-8, which most servers accept.
            HeaderValue::from_bytes(text.as_bytes())
                .map_err(|_| format!("the header {name} cannot carry {text:?}"))
        };
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        if let Some(name) = &self.key_header {
            headers.push((name.clone(), value(facts.idempotency_key, name)?));
        }
        for (name, template) in &self.headers {
            headers.push((
                name.clone(),
                value(&template.fill(facts, Escaping::Header)?, name)?,
            ));
        }
        Ok(Request {
            url: self.url.fill(facts)?,
            headers,
            traceparent: trace_context(traceparent),
            tracestate: None,
            idempotency_key: facts.idempotency_key.to_owned(),
            body: match &self.body {
                Body::Order => order.clone(),
                Body::Template(template, escaping) => template.fill(facts, *escaping)?.into(),
            },
        })
    }

    /// Returns all headers of a request except those of credentials and signature.
    pub(super) fn headers(&self, request: &Request) -> HeaderMap {
        let mut headers = self.fixed.clone();
        headers.reserve(request.headers.len() + 4);
        headers.extend(request.headers.iter().cloned());
        headers.insert(TRACEPARENT, request.traceparent.clone());
        if let Some(state) = &request.tracestate {
            headers.insert(TRACESTATE, state.clone());
        }
        headers
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static(records::trace_context::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(records::trace_context::TRACESTATE);

/// Example order, with which templates are checked at the start.
const EXAMPLE: Facts<'_> = Facts {
    order_id: "1",
    idempotency_key: "1",
    order: "{}",
};

/// Maximum length of a URL in the HTTP client.
const URL_BYTES_MAX: usize = u16::MAX as usize - 1;

fn method(text: &str) -> anyhow::Result<Method> {
    let invalid = || {
        format!(
            "the setting api.method is {text:?}; it must be a method with a body, such as \"POST\", \"PUT\" \
             or \"PATCH\""
        )
    };
    let method = Method::from_bytes(text.as_bytes()).with_context(invalid)?;
    // The send latch sits in the body: without one it would report each request as not sent, and an ambiguous
    // call would be repeated as if it were safe.
    let has_body = ![
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ]
    .contains(&method);
    ensure!(has_body && text == text.to_ascii_uppercase(), invalid());
    Ok(method)
}

impl RequestUrl {
    pub(super) fn new(setting: &str, text: &str) -> anyhow::Result<Self> {
        let authority = text.split('/').nth(2).unwrap_or_default();
        // The URL may contain the password, so the error does not quote it.
        ensure!(
            !authority.contains('@'),
            "the setting {setting} contains a user name or password, which would appear in logs; use \
             [api.auth]"
        );
        let invalid = |why: String| anyhow!("the setting {setting} is {text:?}: {why}");
        let template = Template::new(text, Escaping::Url).map_err(invalid)?;
        // Without its braces a placeholder is plain text: what remains checks the fixed parts.
        let example = text.replace(['{', '}'], "");
        let url = Url::parse(&example).map_err(|error| invalid(error.to_string()))?;
        // A placeholder in the host would let an order choose the server that gets our credentials.
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || authority.contains(['{', '}']) {
            return Err(invalid(
                "it must start with http:// or https:// and name a fixed host".into(),
            ));
        }
        match template.is_fixed() {
            true => {
                let text = template.fill(&EXAMPLE, Escaping::Url).map_err(invalid)?;
                Ok(Self::Fixed(
                    Url::parse(&text).map_err(|error| invalid(error.to_string()))?,
                ))
            }
            false => Ok(Self::Template(template)),
        }
    }

    pub(super) fn fill(&self, facts: &Facts<'_>) -> Result<Url, String> {
        match self {
            Self::Fixed(url) => Ok(url.clone()),
            Self::Template(template) => {
                let text = template.fill(facts, Escaping::Url)?;
                let url = Url::parse(&text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
                // Refused here, as an order without a request: the HTTP client would refuse it at each attempt.
                match url.as_str().len() {
                    bytes if bytes > URL_BYTES_MAX => Err(format!(
                        "the URL has {bytes} bytes and may have {URL_BYTES_MAX}: {text:.80}…"
                    )),
                    _ => Ok(url),
                }
            }
        }
    }
}

impl Body {
    fn new(settings: &ApiSettings) -> anyhow::Result<Self> {
        if settings.body.is_empty() {
            return Ok(Self::Order);
        }
        let escaping = escaping(&settings.content_type);
        let invalid = |why: String| anyhow!("the setting api.body is not a valid template: {why}");
        let template = Template::new(&settings.body, escaping).map_err(invalid)?;
        // A body without an order in it would charge the same payment each time.
        ensure!(
            !template.is_fixed(),
            "the setting api.body is the same for all orders; it must contain a placeholder, such as \
             {{order_id}}"
        );
        Ok(Self::Template(template, escaping))
    }
}

/// Returns the escaping rules of a body, from its media type.
fn escaping(content_type: &str) -> Escaping {
    let media = content_type.split(';').next().unwrap_or_default();
    match media.trim().to_ascii_lowercase().as_str() {
        media if media.ends_with("/json") || media.ends_with("+json") => Escaping::Json,
        media if media.ends_with("/xml") || media.ends_with("+xml") => Escaping::Xml,
        "application/x-www-form-urlencoded" => Escaping::Form,
        _ => Escaping::Text,
    }
}

/// Returns the record's W3C trace context, or a new one if the record has none or an invalid one.
fn trace_context(traceparent: Option<&[u8]>) -> HeaderValue {
    let given = traceparent.filter(|text| TraceContext::parse(text).is_some());
    if let Some(value) = given.and_then(|text| HeaderValue::from_bytes(text).ok()) {
        return value;
    }
    // All zeros is an invalid id (W3C Trace Context, section 3.2.2).
    let mut random = rand::rng();
    let (trace, parent) = (
        random.random_range(1..=u128::MAX),
        random.random_range(1..=u64::MAX),
    );
    let text = format!("00-{trace:032x}-{parent:016x}-01");
    // Hex digits and dashes always make a header. A missing trace must not stop a payment.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r#"{"order_id":"o/1","amount":12,"customer_id":"c-1"}"#;

    fn request(change: impl FnOnce(&mut ApiSettings)) -> Result<Request, String> {
        let mut settings = ApiSettings::default();
        change(&mut settings);
        let mapping = Mapping::new(&settings).map_err(|error| format!("{error:#}"))?;
        let facts = Facts {
            order_id: "o/1",
            idempotency_key: "k-1",
            order: ORDER,
        };
        mapping.request(&facts, &Bytes::from_static(ORDER.as_bytes()), None)
    }

    fn refused(change: impl FnOnce(&mut ApiSettings), names: &str) {
        let why = request(change).expect_err(names);
        assert!(why.contains(names), "{why}");
    }

    #[test]
    fn order_is_sent_unchanged_by_default() {
        let request = request(|_| {}).expect("a request");
        assert_eq!(request.body, ORDER);
        assert_eq!(request.url.as_str(), "http://127.0.0.1:8080/payments");
        let key = HeaderName::from_static("idempotency-key");
        assert_eq!(request.headers, [(key, HeaderValue::from_static("k-1"))]);
    }

    #[test]
    fn url_headers_and_body_are_filled_from_the_order() {
        let request = request(|api| {
            api.url = "https://host/orders/{order_id}?by={/customer_id}".into();
            api.headers = [
                ("X-Customer".into(), "c={/customer_id}".into()),
                ("X-Fixed".into(), "{{1}}".into()),
            ]
            .into();
            api.body = "<pay id='{order_id}'>{/amount}</pay>".into();
            api.content_type = "text/xml; charset=utf-8".into();
        })
        .expect("a request");
        assert_eq!(request.url.as_str(), "https://host/orders/o%2F1?by=c-1");
        assert_eq!(request.headers[1].1, "c=c-1");
        assert_eq!(request.body, "<pay id='o/1'>12</pay>");
    }

    #[test]
    fn missing_order_field_is_named() {
        refused(|api| api.url = "http://host/{/region}".into(), "no field /region");
        refused(|api| api.body = "{\"to\":{/iban}}".into(), "no field /iban");
    }

    #[test]
    fn order_with_too_long_url_is_no_request() {
        let mapping = |id: &str| {
            let settings = ApiSettings {
                url: "http://host/{order_id}".into(),
                ..ApiSettings::default()
            };
            let facts = Facts {
                order_id: id,
                idempotency_key: "k-1",
                order: ORDER,
            };
            let mapping = Mapping::new(&settings).expect("valid settings");
            mapping.request(&facts, &Bytes::from_static(ORDER.as_bytes()), None)
        };
        let fits = "x".repeat(URL_BYTES_MAX - "http://host/".len());
        let request = mapping(&fits).expect("a request");
        let client = reqwest::Client::new();
        assert!(client.post(request.url).build().is_ok());
        assert!(mapping(&(fits + "x")).is_err_and(|why| why.contains("65535 bytes")));
        // Escaped, each of these takes three bytes.
        assert!(mapping(&"/".repeat(30_000)).is_err_and(|why| why.contains("90012 bytes")));
    }

    #[test]
    fn invalid_settings_are_refused() {
        for url in [
            "http://{order_id}/",
            "http://host/{order}",
            "http://host/{",
            "mailto:x",
            "http://",
        ] {
            refused(|api| api.url = url.into(), "api.url");
        }
        for method in ["GET", "HEAD", "post", "PO ST", ""] {
            refused(|api| api.method = method.into(), "api.method");
        }
        for (name, value) in [
            ("a b", "x"),
            ("X-A", "{x}"),
            ("X-A", "line\nbreak"),
            ("Authorization", "Bearer x"),
            ("idempotency-key", "x"),
            ("Content-Length", "1"),
        ] {
            refused(
                |api| api.headers = [(name.into(), value.into())].into(),
                "api.headers",
            );
        }
        refused(|api| api.body = "{\"to\":{account}}".into(), "api.body");
        refused(|api| api.body = "always the same".into(), "api.body");
        refused(|api| api.content_type = "a\nb".into(), "api.content_type");
    }

    #[test]
    fn trace_context_is_continued_or_created() {
        let given = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            trace_context(Some(given)),
            HeaderValue::from_bytes(given).expect("a header")
        );
        for none in [None, Some(&b"00-1-2-01"[..]), Some(b""), Some(b"\xff")] {
            let (one, other) = (trace_context(none), trace_context(none));
            assert!(TraceContext::parse(one.as_bytes()).is_some(), "{one:?}");
            assert_ne!(one, other);
        }
    }
}
