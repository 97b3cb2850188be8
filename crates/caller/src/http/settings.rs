//! The settings of the API: where it is, how long it may take, and what its answers mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::auth::{AuthKind, AuthSettings, SignatureSettings};
use super::response::ResponseSettings;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ApiSettings {
    /// The method of each request.
    pub(crate) method: String,
    /// The address of each request. Here, in `headers` and in `body`, `{order_id}`, `{idempotency_key}` and
    /// fields of the order by JSON pointer, such as `{/customer_id}`, are replaced.
    pub(crate) url: String,
    /// The body; empty: the order's bytes, unchanged.
    pub(crate) body: String,
    /// The media type of the body, which also says how places in it are escaped.
    pub(crate) content_type: String,
    /// More headers.
    pub(crate) headers: BTreeMap<String, String>,
    /// How long one request may take, connecting and answer included. What takes longer is ambiguous.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
    /// How long connecting may take. What takes longer was surely not sent.
    #[serde(with = "humantime_serde")]
    pub(crate) connect_timeout: Duration,
    /// An idle connection is closed after this. Below the keep-alive of common servers (5 s), since a request
    /// on a connection that the server just closes is ambiguous.
    #[serde(with = "humantime_serde")]
    pub(crate) pool_idle_timeout: Duration,
    /// Idle connections that are kept.
    pub(crate) pool_idle_max: usize,
    /// So much of an answer's body is kept for the outcome or the dead letter. Fields are looked for in up to
    /// 1 MiB of it.
    pub(crate) response_bytes_max: ByteSize,
    /// The header that carries the idempotency key; empty: none is sent. Against an API that honours it a
    /// repeated call does no harm.
    pub(crate) idempotency_header: String,
    /// Where the API's own transaction id stands in a JSON answer, as a JSON pointer; empty: nowhere.
    pub(crate) transaction_id: String,
    /// Whether the proxy variables of the environment are obeyed. A proxy can lose an answer by itself.
    pub(crate) proxy_from_environment: bool,
    /// How requests prove who sends them.
    pub(crate) auth: AuthSettings,
    /// How requests are signed.
    pub(crate) signature: SignatureSettings,
    /// The certificates of HTTPS.
    pub(crate) tls: TlsSettings,
    /// What each status means.
    pub(crate) responses: ResponseSettings,
}

/// The settings of TLS. Files are PEM, and read anew when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsSettings {
    /// The certificate authorities that the API is believed by, and no others; empty: the system's.
    pub(crate) ca_file: PathBuf,
    /// The certificate that is shown to the API, with its chain; empty: none.
    pub(crate) client_cert_file: PathBuf,
    /// Its key.
    pub(crate) client_key_file: PathBuf,
}

impl ApiSettings {
    /// The address as it may stand in a log: some APIs want a secret in the query.
    pub(crate) fn url_without_query(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    /// The longest that a request may take, with the token that it may need first.
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
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            pool_idle_timeout: Duration::from_secs(4),
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
