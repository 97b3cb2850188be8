//! The OTLP receiver: one request per batch.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};

use super::TracesSettings;

/// Maximum time of one request.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Part of a response's body that is read, in bytes: a number and a sentence.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Client of a receiver.
pub(super) struct Receiver {
    client: Client,
    url: Url,
    settings: TracesSettings,
    resource: ResourceAttributesWithSchema,
}

/// Reason why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The receiver may take it later.
    #[error("{0}")]
    Transient(String),
    /// It never will.
    #[error("{0}")]
    Permanent(String),
}

impl Receiver {
    pub(super) fn new(
        settings: &TracesSettings,
        url: Url,
        resource: &opentelemetry_sdk::Resource,
    ) -> anyhow::Result<Self> {
        let client = Client::builder()
            .http1_only()
            .retry(reqwest::retry::never())
            // The headers may carry a secret, which is meant for this address alone.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // Where the spans go is said by the settings alone.
            .no_proxy()
            .timeout(REQUEST_MAX)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("outbox/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("building the HTTP client of the traces")?;
        Ok(Self {
            client,
            url,
            settings: settings.clone(),
            resource: resource.into(),
        })
    }

    /// Returns the address, for the log.
    pub(super) fn endpoint(&self) -> &str {
        self.url.as_str()
    }

    /// Returns the body of a request with these spans.
    pub(super) fn encode(&self, spans: Vec<SpanData>) -> Vec<u8> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    /// Sends a body. Returns the number of spans that the receiver rejected.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<u64, ExportError> {
        // Each time: tokens are replaced while the program runs.
        let headers = self
            .settings
            .headers()
            .map_err(|error| ExportError::Transient(format!("{error:#}")))?;
        let request = self
            .client
            .post(self.url.clone())
            .headers(headers)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let failed = |error: reqwest::Error| ExportError::Transient(chain(&error.without_url()));
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            let text = format!("the receiver answered {status}");
            // OTLP 1.x, "OTLP/HTTP Response": these and no others are worth a retry.
            let is_transient = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            return Err(match is_transient {
                true => ExportError::Transient(text),
                false => ExportError::Permanent(text),
            });
        }
        let mut read = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            read.extend_from_slice(&chunk);
            if read.len() > RESPONSE_BYTES_MAX {
                return Ok(0);
            }
        }
        // It has taken the batch, whatever else it says.
        let rejected = ExportTraceServiceResponse::decode(read.as_slice())
            .ok()
            .and_then(|response| response.partial_success)
            .map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or_default())
    }
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
