//! One request to the API, and what it came to.
//!
//! The client does nothing by itself that might call twice: HTTP/1.1 only (an HTTP/2 GOAWAY is retried
//! silently), no retries, no redirects (a 307 repeats the POST elsewhere). What is left to decide after a
//! failure is whether the request left, and that the send latch knows ([`crate::latch`]).

use anyhow::Context as _;
use bytes::Bytes;
use pipeline::delivery::Report;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};

use crate::latch::{Latch, LatchedBody, Permit};

mod answers;
mod reading;
mod report;
mod settings;

pub(crate) use settings::ApiSettings;

use reading::Reading;

/// The API, as the settings describe it.
pub(crate) struct Api {
    client: Client,
    method: Method,
    url: Template,
    key_header: Option<HeaderName>,
    reading: Reading,
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
            reading: Reading {
                classes: settings.answers.classes()?,
                kept_max: usize::try_from(settings.answer_bytes_max.as_u64()).unwrap_or(usize::MAX),
                transaction_id: settings.transaction_id.clone(),
            },
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
            Ok(response) => Report::Status(self.reading.read(response).await),
            Err(error) => report::report(&error, latch.cancel()),
        }
    }
}

/// For the tests: ends the process a moment after the request left, if there is no answer by then.
#[cfg(feature = "failpoints")]
async fn or_killed<T>(sent: impl Future<Output = T>, latch: &Latch) -> T {
    let killed = async {
        while !latch.is_sent() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The claim comes just before the bytes; the connection's task writes them in the same turn.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        service::failpoint::kill_at!("after-send");
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        done = sent => done,
        never = killed => never,
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
