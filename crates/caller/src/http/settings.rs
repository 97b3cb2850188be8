//! Settings of the API: its address, its limits, and the meaning of its responses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::auth::{AuthKind, AuthSettings, SignatureSettings};
use super::response::ResponseSettings;

/// Settings of the API and of the requests to it: `[api]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ApiSettings {
    /// HTTP method of the requests. It must have a body, such as `POST`, `PUT` or `PATCH`: the send latch
    /// proves nothing about a request without one.
    pub(crate) method: String,
    /// URL of the requests.
    ///
    /// In it, in `headers` and in `body`, the placeholders `{order_id}`, `{idempotency_key}` and fields of
    /// the order by JSON pointer, such as `{/customer_id}`, are replaced. An order without such a field
    /// becomes a dead letter.
    pub(crate) url: String,
    /// Body of the requests; empty: the order's bytes, unchanged, or the JSON that its schema
    /// has read it as.
    pub(crate) body: String,
    /// Media type of the body. It decides how placeholders in the body are escaped.
    pub(crate) content_type: String,
    /// Additional headers, by name.
    pub(crate) headers: BTreeMap<String, String>,
    /// Maximum duration of a request, from connecting to the end of the response. A request that takes longer
    /// is ambiguous once it was sent.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
    /// Maximum duration of connecting. A request that fails here was surely not sent and is retried.
    #[serde(with = "humantime_serde")]
    pub(crate) connect_timeout: Duration,
    /// Maximum time for which data of a request may stay unacknowledged before its connection is closed
    /// (`TCP_USER_TIMEOUT`, on Linux). Until then the kernel sends a request again, also after `timeout` or a
    /// kill. Look-ups wait for it.
    #[serde(with = "humantime_serde")]
    pub(crate) transport_timeout: Duration,
    /// Time for which the API remembers an idempotency key; none: not known. Refused together with the policy
    /// `retry` and a longer `deferral.abandon_after`; `outbox replay` leaves older calls out, unless callers look
    /// them up.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency_key_lifetime: Option<Duration>,
    /// Time after which an idle connection is closed. Keep it below the keep-alive timeout of the API's
    /// server: a request on a connection that the server is closing is ambiguous.
    #[serde(with = "humantime_serde")]
    pub(crate) pool_idle_timeout: Duration,
    /// Maximum number of idle connections that are kept open.
    pub(crate) pool_idle_max: usize,
    /// Maximum number of bytes of a response body that are kept for the outcome or dead letter; the rest is
    /// cut off. Fields are found in the first 1 MiB of the body.
    pub(crate) response_bytes_max: ByteSize,
    /// Header that carries the idempotency key; empty: not sent. An API that honours the key processes a
    /// repeated call once.
    pub(crate) idempotency_header: String,
    /// JSON pointer of the API's own transaction id in its response, for the outcome; empty: none.
    pub(crate) transaction_id: String,
    /// Obeys `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`. Off by default, since a proxy can lose a response
    /// too, which makes the call ambiguous.
    pub(crate) proxy_from_environment: bool,
    /// Credentials of the requests.
    pub(crate) auth: AuthSettings,
    /// Signature of the requests.
    pub(crate) signature: SignatureSettings,
    /// Certificate files for HTTPS.
    pub(crate) tls: TlsSettings,
    /// Response classes by status.
    pub(crate) responses: ResponseSettings,
}

/// Certificates for HTTPS: `[api.tls]`. Files are PEM, and are reloaded when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsSettings {
    /// Certificate authorities trusted for the API, in place of the system's; empty: the system's.
    pub(crate) ca_file: PathBuf,
    /// Client certificate with its chain; empty: none.
    pub(crate) client_cert_file: PathBuf,
    /// Private key of the client certificate.
    pub(crate) client_key_file: PathBuf,
}

impl ApiSettings {
    /// Returns the URL without its query, for logs.
    pub(crate) fn url_without_query(&self) -> &str {
        // Some APIs take a secret in the query.
        self.url.split('?').next().unwrap_or_default()
    }

    /// Returns the longest time a call can take, including the token request that may precede it.
    pub(crate) fn request_max(&self) -> Duration {
        match self.auth.kind {
            AuthKind::OAuth2 => self.timeout + self.auth.oauth2.timeout,
            AuthKind::None | AuthKind::Bearer | AuthKind::Basic | AuthKind::Header => self.timeout,
        }
    }
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            method: "POST".into(),
            url: "http://127.0.0.1:8080/payments".into(),
            body: String::new(),
            content_type: "application/json".into(),
            headers: BTreeMap::new(),
            // Generous: each request that times out after sending is ambiguous, and costs more than waiting.
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            // Not `timeout`: that one is as long as the slowest response, and each look-up would wait for it
            // once more. Linux sends five times within 7 s, so this loses no request that has a chance to
            // arrive.
            transport_timeout: Duration::from_secs(10),
            idempotency_key_lifetime: None,
            // Below the shortest keep-alive of common servers: 5 s in Apache httpd and Node.js.
            pool_idle_timeout: Duration::from_secs(4),
            // As many as caller.calls_in_flight_max, so that a steady load opens no connections.
            pool_idle_max: 64,
            response_bytes_max: ByteSize::kib(8),
            idempotency_header: "Idempotency-Key".into(),
            transaction_id: String::new(),
            proxy_from_environment: false,
            auth: AuthSettings::default(),
            signature: SignatureSettings::default(),
            tls: TlsSettings::default(),
            responses: ResponseSettings::default(),
        }
    }
}
