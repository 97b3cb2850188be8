//! The settings of the API: where it is, how long it may take, and what its answers mean.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::answers::AnswerSettings;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ApiSettings {
    /// The method of each request.
    pub(crate) method: String,
    /// The address of each request; `{order_id}` in it is replaced, percent-encoded.
    pub(crate) url: String,
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
    pub(crate) answer_bytes_max: ByteSize,
    /// The header that carries the idempotency key; empty: none is sent. Against an API that honours it a
    /// repeated call does no harm.
    pub(crate) idempotency_header: String,
    /// Where the API's own transaction id stands in a JSON answer, as a JSON pointer; empty: nowhere.
    pub(crate) transaction_id: String,
    /// Whether the proxy variables of the environment are obeyed. A proxy can lose an answer by itself.
    pub(crate) proxy_from_environment: bool,
    /// What each status means.
    pub(crate) answers: AnswerSettings,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            method: "POST".into(),
            url: "http://127.0.0.1:8080/payments".into(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            pool_idle_timeout: Duration::from_secs(4),
            pool_idle_max: 64,
            answer_bytes_max: ByteSize::kib(8),
            idempotency_header: "Idempotency-Key".into(),
            transaction_id: String::new(),
            proxy_from_environment: false,
            answers: AnswerSettings::default(),
        }
    }
}
