//! Contents of one request.

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// One request to the API, without the headers that all requests share.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) url: Url,
    /// Headers that differ from order to order.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) traceparent: HeaderValue,
    /// Header that belongs to the trace, if there is one.
    pub(crate) tracestate: Option<HeaderValue>,
    /// Key in the idempotency header and in the signature.
    pub(crate) idempotency_key: String,
    pub(crate) body: Bytes,
}
