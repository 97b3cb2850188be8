//! One request to the API, and what it came to.
//!
//! `mapping.rs` makes it (`request.rs`) from the order, with `template.rs`; `credentials.rs`, `oauth2.rs` and `signature.rs`
//! let it prove who sends it; `client.rs` sends it, and does nothing by itself that might call twice.
//! `reading.rs` reads the answer. What is left to decide after a failure is whether the request left, and that
//! the send latch knows ([`send_latch`]); `report.rs` puts it into the pipeline's words.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pipeline::delivery::{NotSent, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Client, Method};

mod auth;
mod client;
mod look_up;
mod mapping;
mod request;
mod response;
mod send_latch;
mod settings;
mod template;

pub(crate) use look_up::VerifySettings;
pub(crate) use request::Request;
pub(crate) use send_latch::SendPermit;
pub(crate) use settings::ApiSettings;
pub(crate) use template::Facts;

use auth::{Credentials, Signature, Watched};
use look_up::LookUp;
use mapping::Mapping;
use response::Reading;
use send_latch::{Latch, LatchedBody};

/// The API, as the settings describe it.
pub(crate) struct Api {
    client: Arc<Watched<Client>>,
    mapping: Mapping,
    credentials: Credentials,
    signature: Option<Signature>,
    reading: Reading,
    lookup: Option<LookUp>,
}

impl Api {
    /// The API of these settings.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn new(settings: &ApiSettings) -> anyhow::Result<Self> {
        let client = Arc::new(client::watched(settings)?);
        let for_tokens = Arc::clone(&client);
        Ok(Self {
            client,
            mapping: Mapping::new(settings)?,
            credentials: Credentials::new(&settings.auth, move || for_tokens.get())?,
            signature: Signature::new(&settings.signature)?,
            reading: Reading {
                classes: settings.responses.classes()?,
                kept_max: usize::try_from(settings.response_bytes_max.as_u64()).unwrap_or(usize::MAX),
                transaction_id: settings.transaction_id.clone(),
            },
            lookup: None,
        })
    }

    /// The request for an order.
    ///
    /// # Errors
    /// Says what the order lacks.
    pub(crate) fn request(
        &self,
        facts: &Facts<'_>,
        order: &Bytes,
        traceparent: Option<&[u8]>,
    ) -> Result<Request, String> {
        self.mapping.request(facts, order, traceparent)
    }

    /// Makes one request, at most once, and only as long as `permit` allows.
    pub(crate) async fn call(&self, request: Request, permit: SendPermit) -> Response {
        let Some(headers) = self.headers(&self.mapping.method, &request).await else {
            return Response::NotSent(NotSent::NoCredentials);
        };
        let authorization = headers.get(AUTHORIZATION).cloned();
        let latch = Latch::new(permit);
        let body = reqwest::Body::wrap(LatchedBody::new(request.body, latch.clone()));
        let sent = self
            .client
            .get()
            .request(self.mapping.method.clone(), request.url)
            .headers(headers)
            .body(body)
            .send();
        #[cfg(feature = "failpoints")]
        let sent = or_killed(sent, &latch);
        let response = match sent.await {
            Ok(response) => response,
            Err(error) => return response::report(&error, latch.cancel()),
        };
        let mut reply = self.reading.read(response).await;
        if reply.status == 401 {
            self.credentials.refused(authorization.as_ref());
        }
        self.credentials.scrub(&mut reply.body);
        Response::Status(reply)
    }

    /// All headers of a request; `None` if it cannot prove who sends it.
    async fn headers(&self, method: &Method, request: &Request) -> Option<HeaderMap> {
        let mut headers = self.mapping.headers(request);
        self.credentials.show(&mut headers).await.ok()?;
        if let Some(signature) = &self.signature {
            signature
                .sign(method.as_str(), request, &mut headers, SystemTime::now())
                .inspect_err(|error| tracing::error!(%error, "a request cannot be signed"))
                .ok()?;
        }
        Some(headers)
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

#[cfg(test)]
mod tests;
