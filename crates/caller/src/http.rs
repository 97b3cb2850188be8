//! One request to the API, and what it came to.
//!
//! The client does nothing by itself that might call twice: HTTP/1.1 only (an HTTP/2 GOAWAY is retried
//! silently), no retries, no redirects (a 307 repeats the POST elsewhere). What is left to decide after a
//! failure is whether the request left, and that the send latch knows ([`crate::latch`]).

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use pipeline::delivery::{Lost, NotSent, Reply, Report};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};

use crate::latch::{Fate, Latch, LatchedBody, Permit};

mod settings;

pub(crate) use settings::ApiSettings;

/// The API, as the settings describe it.
pub(crate) struct Api {
    client: Client,
    method: Method,
    url: Template,
    key_header: Option<HeaderName>,
    answer_bytes_max: usize,
}

/// What one request is made of.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) url: Url,
    pub(crate) idempotency_key: HeaderValue,
    pub(crate) traceparent: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl Api {
    /// The API of these settings.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn new(settings: &ApiSettings) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .http1_only()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .pool_idle_timeout(settings.pool_idle_timeout)
            .pool_max_idle_per_host(settings.pool_idle_max)
            .tcp_nodelay(true)
            .user_agent(concat!("outbox-caller/", env!("CARGO_PKG_VERSION")));
        if !settings.proxy_from_environment {
            client = client.no_proxy();
        }
        let method = Method::from_bytes(settings.method.as_bytes()).with_context(|| {
            format!(
                "the setting api.method is {:?}; it must be a method such as \"POST\"",
                settings.method
            )
        })?;
        let key_header = match settings.idempotency_header.as_str() {
            "" => None,
            name => Some(HeaderName::from_bytes(name.as_bytes()).with_context(|| {
                format!("the setting api.idempotency_header is {name:?}; it must be the name of a header, or empty")
            })?),
        };
        Ok(Self {
            client: client.build().context("the HTTP client could not be set up")?,
            method,
            url: Template::new(&settings.url)?,
            key_header,
            answer_bytes_max: usize::try_from(settings.answer_bytes_max.as_u64()).unwrap_or(usize::MAX),
        })
    }

    /// The address for an order.
    ///
    /// # Errors
    /// The order id cannot stand in a URL.
    pub(crate) fn url(&self, order_id: &str) -> Result<Url, String> {
        self.url.fill(order_id)
    }

    /// Makes one request, at most once, and only as long as `permit` allows.
    pub(crate) async fn call(&self, request: Request, permit: Permit) -> Report {
        let latch = Latch::new(permit);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(name) = &self.key_header {
            headers.insert(name, request.idempotency_key);
        }
        if let Some(traceparent) = request.traceparent {
            headers.insert(
                HeaderName::from_static(records::pending::TRACEPARENT),
                traceparent,
            );
        }
        let body = reqwest::Body::wrap(LatchedBody::new(request.body, latch.clone()));
        let sent = self
            .client
            .request(self.method.clone(), request.url)
            .headers(headers)
            .body(body)
            .send();
        #[cfg(feature = "failpoints")]
        let sent = or_killed(sent, &latch);
        match sent.await {
            Ok(response) => Report::Status(self.read(response).await),
            Err(error) => report(&error, latch.cancel()),
        }
    }

    /// Reads the answer's body, up to the cap. The status is known, so what happens to the body changes
    /// nothing.
    async fn read(&self, mut response: Response) -> Reply {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .map(|value| retry_after(value, SystemTime::now()));
        let mut body = Vec::new();
        let body_cut = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = self.answer_bytes_max - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        break true;
                    }
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        Reply {
            status,
            retry_after,
            body,
            body_cut,
        }
    }
}

/// For the tests: ends the process a moment after the request left, if there is no answer by then.
#[cfg(feature = "failpoints")]
async fn or_killed<T>(sent: impl Future<Output = T>, latch: &Latch) -> T {
    let killed = async {
        while !latch.is_sent() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The claim comes just before the bytes; the connection's task writes them in the same turn.
        tokio::time::sleep(Duration::from_millis(2)).await;
        service::failpoint::kill_at!("after-send");
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        done = sent => done,
        never = killed => never,
    }
}

/// What a failed request came to.
fn report(error: &reqwest::Error, fate: Fate) -> Report {
    match fate {
        Fate::Withheld => Report::NotSent(NotSent::Withheld),
        // A time-out before the body was asked for is one of connecting.
        Fate::NotSent if error.is_connect() || error.is_timeout() => Report::NotSent(NotSent::NoConnection),
        Fate::NotSent => Report::NotSent(NotSent::NotWritten),
        Fate::Sent if error.is_timeout() => Report::Lost(Lost::TimedOut),
        Fate::Sent => Report::Lost(lost(error)),
    }
}

fn lost(error: &reqwest::Error) -> Lost {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse() {
                return Lost::NotHttp;
            }
            if error.is_incomplete_message() || error.is_closed() {
                return Lost::Closed;
            }
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Lost::Closed,
                io::ErrorKind::TimedOut => Lost::TimedOut,
                _ => Lost::Other,
            };
        }
        cause = error.source();
    }
    Lost::Other
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

/// The API's address, with `{order_id}` where the order's id goes.
#[derive(Clone, Debug)]
struct Template {
    text: String,
    /// The address, if it is the same for all orders.
    fixed: Option<Url>,
}

const ORDER_ID: &str = "{order_id}";

impl Template {
    fn new(text: &str) -> anyhow::Result<Self> {
        let template = Self {
            text: text.to_owned(),
            fixed: None,
        };
        let url = template.fill("1").map_err(|why| {
            anyhow::anyhow!(
                "the setting api.url is {text:?}, which is no URL with {ORDER_ID} in it or without: {why}"
            )
        })?;
        anyhow::ensure!(
            matches!(url.scheme(), "http" | "https") && url.has_host(),
            "the setting api.url is {text:?}; it must begin with http:// or https:// and name a host"
        );
        anyhow::ensure!(
            url.username().is_empty() && url.password().is_none(),
            "the setting api.url holds a user name or a password, which would end up in logs"
        );
        let is_fixed = !text.contains(ORDER_ID);
        Ok(Self {
            fixed: is_fixed.then_some(url),
            ..template
        })
    }

    fn fill(&self, order_id: &str) -> Result<Url, String> {
        if let Some(url) = &self.fixed {
            return Ok(url.clone());
        }
        // They would climb to another resource, also when they are encoded.
        if matches!(order_id, "." | "..") {
            return Err(format!("the order id {order_id:?} cannot stand in a URL"));
        }
        let text = self.text.replace(ORDER_ID, &encode(order_id));
        Url::parse(&text).map_err(|error| format!("{text:?} is no URL: {error}"))
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
