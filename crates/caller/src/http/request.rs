//! What one request is made of.

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// What one request is made of, beside the headers that all have.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) url: Url,
    /// The headers that are this order's.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) traceparent: HeaderValue,
    pub(crate) idempotency_key: String,
    pub(crate) body: Bytes,
}
