//! HTTP client of the legacy API: one call makes at most one request, and returns what came back.
//!
//! | file | does |
//! | --- | --- |
//! | `settings.rs` | the settings of `[api]` |
//! | `mapping.rs`, `template.rs` | make a [`Request`] from an order |
//! | `auth/` | adds credentials and a signature |
//! | `client.rs` | builds the reqwest client, which never retries or redirects |
//! | `send_latch/` | decides whether the request leaves, and proves when it has not |
//! | `response/` | reads the response, and classifies failures |
//! | `look_up.rs` | asks the API about an order whose outcome is unknown |

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pipeline::delivery::{NotSent, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Client, Method};

mod auth;
mod client;
#[cfg(test)]
mod fuzz;
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

use auth::{Credentials, Signature};
use look_up::LookUp;
use mapping::Mapping;
use response::ResponseReader;
use send_latch::{Latch, LatchedBody};
use service::secrets::Watched;

/// Client of the legacy API.
pub(crate) struct Api {
    client: Arc<Watched<Client>>,
    mapping: Mapping,
    credentials: Credentials,
    signature: Option<Signature>,
    reader: ResponseReader,
    look_up: Option<LookUp>,
}

impl Api {
    /// Creates the client of these settings. Connects to nothing.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(settings: &ApiSettings) -> anyhow::Result<Self> {
        let client = Arc::new(client::watched(settings)?);
        // Token requests use the same TLS settings and connection pool.
        let for_tokens = Arc::clone(&client);
        Ok(Self {
            client,
            mapping: Mapping::new(settings)?,
            credentials: Credentials::new(&settings.auth, move || for_tokens.get())?,
            signature: Signature::new(&settings.signature)?,
            reader: ResponseReader {
                classifier: settings.responses.classifier()?,
                kept_max: usize::try_from(settings.response_bytes_max.as_u64()).unwrap_or(usize::MAX),
                transaction_id: settings.transaction_id.clone(),
            },
            look_up: None,
        })
    }

    /// Returns the request for an order.
    ///
    /// # Errors
    /// The order lacks a field that the settings ask for, or a header cannot carry its value.
    pub(crate) fn request(
        &self,
        facts: &Facts<'_>,
        order: &Bytes,
        traceparent: Option<&[u8]>,
    ) -> Result<Request, String> {
        self.mapping.request(facts, order, traceparent)
    }

    /// Returns the method of the requests.
    pub(crate) fn method(&self) -> &Method {
        &self.mapping.method
    }

    /// Returns a request as text, with all headers but those of credentials and signature, which it only names. Sends
    /// nothing.
    pub(crate) fn shown(&self, request: &Request) -> String {
        let headers = self.mapping.headers(request);
        let open = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        let signature = self.signature.iter().flat_map(Signature::headers);
        let hidden = self
            .credentials
            .header()
            .into_iter()
            .chain(signature)
            .map(|name| format!("{name}: (hidden)\n"));
        format!(
            "{} {}\n{}\n{}",
            self.mapping.method,
            request.url,
            open.chain(hidden).collect::<String>(),
            String::from_utf8_lossy(&request.body)
        )
    }

    /// Sends a request at most once, and only while `permit` is valid.
    pub(crate) async fn call(&self, request: Request, permit: SendPermit) -> Response {
        let Some(headers) = self.headers(&self.mapping.method, &request).await else {
            return Response::NotSent(NotSent::NoCredentials);
        };
        // Kept, because a newer token may be in use by the time the API refuses this one.
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
            // Cancelling comes first: the connection's task may still be running, and could send the request
            // after it was reported as not sent.
            Err(error) => return response::failure(&error, latch.cancel()),
        };
        let mut response = self.reader.read(response).await;
        if response.status == 401 {
            self.credentials.refused(authorization.as_ref());
        }
        // The body is published in outcomes and dead letters, and some APIs echo the request in their errors.
        self.credentials.mask_secrets(&mut response.body);
        Response::Status(response)
    }

    /// Returns all headers of a request, or `None` if its credentials are not available.
    async fn headers(&self, method: &Method, request: &Request) -> Option<HeaderMap> {
        let mut headers = self.mapping.headers(request);
        // The token source has logged why there is no token.
        self.credentials.add(&mut headers).await.ok()?;
        // Signed last: a signature with a timestamp must not grow old while a token is fetched.
        if let Some(signature) = &self.signature {
            signature
                .sign(method.as_str(), request, &mut headers, SystemTime::now())
                .inspect_err(|error| {
                    tracing::error!(%error, "request cannot be signed, calls wait; operator action required");
                })
                .ok()?;
        }
        Some(headers)
    }
}

/// Kills the process shortly after the request was sent, unless the response arrives first. For the tests.
#[cfg(feature = "failpoints")]
async fn or_killed<T>(sent: impl Future<Output = T>, latch: &Latch) -> T {
    let killed = async {
        while !latch.is_sent() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The body is claimed just before its bytes are written; the connection's task does both in one poll.
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
