//! Look-ups: asking the API whether it has processed an order whose outcome is unknown.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use pipeline::delivery::{Lost, Response, ResponseClassifier, StatusClass, Verify};
use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use super::mapping::RequestUrl;
use super::request::Request;
use super::response::{FieldSettings, ResponseReader, failure, parse};
use super::send_latch::SendState;
use super::template::Facts;
use super::{Api, ApiSettings};

/// Settings of look-ups, which the ambiguity policy `verify` makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VerifySettings {
    /// URL of the look-up, requested by GET, with the placeholders of `api.url`; empty: no look-ups, and the
    /// policy `verify` cannot be used.
    pub(crate) url: String,
    /// Longest time the API takes to process a request that has arrived, with all that may hold it back on
    /// the way, such as a proxy. No look-up is made until it and `api.transport_timeout` have passed since the
    /// last moment at which a request may have left, or at which a look-up found the API unresponsive. If it
    /// is too short, an order that is still being processed counts as not found and is sent again.
    #[serde(with = "humantime_serde")]
    pub(crate) api_processing_max: Duration,
    /// Maximum number of inconclusive look-ups in a row; then the call is parked.
    pub(crate) lookups_max: u32,
    /// Maximum time from the first inconclusive look-up; then the call is parked.
    #[serde(with = "humantime_serde")]
    pub(crate) park_after: Duration,
    /// Statuses that mean: the API has processed the order.
    pub(crate) found: Vec<String>,
    /// Statuses that mean: the API never saw the order. All statuses in neither list are inconclusive.
    pub(crate) not_found: Vec<String>,
    /// Rules for responses whose status does not say enough: `accepted` means found, `rejected` means not
    /// found.
    pub(crate) body: Vec<FieldSettings>,
}

/// Look-up endpoint, and the reader of its responses.
pub(super) struct LookUp {
    url: RequestUrl,
    reader: ResponseReader,
}

impl VerifySettings {
    /// Returns the part of the settings that the pipeline decides with.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn verify(&self, api: &ApiSettings) -> anyhow::Result<Verify> {
        Ok(Verify {
            transport_timeout: api.transport_timeout,
            api_processing_max: self.api_processing_max,
            lookups_max: self.lookups_max,
            abandon_after: self.park_after,
            classifier: self.classifier()?,
        })
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the setting that is invalid, and the values it may have.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.api_processing_max.is_zero(),
            "the setting verify.api_processing_max is 0; it must be the API's longest processing time, or a \
             look-up reports \"not found\" for an order that is still being processed"
        );
        ensure!(
            self.lookups_max > 0,
            "the setting verify.lookups_max is 0; it must be at least 1"
        );
        self.classifier()?;
        if !self.url.is_empty() {
            RequestUrl::new("verify.url", &self.url)?;
        }
        Ok(())
    }

    fn classifier(&self) -> anyhow::Result<ResponseClassifier> {
        let invalid = "the settings in [verify] are invalid";
        let mut settings = Vec::new();
        for (list, class) in [
            (&self.found, StatusClass::Accepted),
            (&self.not_found, StatusClass::Rejected),
        ] {
            settings.extend(
                parse(list)
                    .context(invalid)?
                    .into_iter()
                    .map(|statuses| (statuses, class)),
            );
        }
        let rules: anyhow::Result<Vec<_>> = self.body.iter().map(FieldSettings::rule).collect();
        ResponseClassifier::new(settings)
            .context(invalid)?
            .with_fields(rules.context(invalid)?)
            .context(invalid)
    }
}

impl Default for VerifySettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            // Twice `api.timeout`, for an API that goes on processing after its client has left.
            api_processing_max: Duration::from_secs(60),
            // About ten minutes with the default backoff, and half an hour if the API does not respond. Look-ups
            // that fail in an outage do not count.
            lookups_max: 30,
            park_after: Duration::from_secs(3_600),
            // Single statuses, not hundreds: a 204 or a 410 may mean anything.
            found: vec!["200".into()],
            not_found: vec!["404".into()],
            body: Vec::new(),
        }
    }
}

impl LookUp {
    /// Returns the look-ups of these settings, or `None` if there is no `verify.url`.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(super) fn new(verify: &VerifySettings, api: &ApiSettings) -> anyhow::Result<Option<Self>> {
        if verify.url.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            url: RequestUrl::new("verify.url", &verify.url)?,
            reader: ResponseReader {
                classifier: verify.classifier()?,
                kept_max: usize::try_from(api.response_bytes_max.as_u64()).unwrap_or(usize::MAX),
                transaction_id: api.transaction_id.clone(),
            },
        }))
    }
}

impl Api {
    /// Adds the look-ups of the settings, if there are any.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn with_look_ups(self, verify: &VerifySettings, api: &ApiSettings) -> anyhow::Result<Self> {
        let look_up = LookUp::new(verify, api)?;
        Ok(Self { look_up, ..self })
    }

    /// Returns the look-up request for the order of a call.
    ///
    /// # Errors
    /// The settings have no look-up, or the order lacks a field that its URL needs.
    pub(crate) fn look_up_request(&self, facts: &Facts<'_>, call: &Request) -> Result<Request, String> {
        let look_up = self.look_up.as_ref().ok_or("the settings have no verify.url")?;
        // The call's headers go along, so that key and trace of both requests are the same.
        Ok(Request {
            url: look_up.url.fill(facts)?,
            body: Bytes::new(),
            ..call.clone()
        })
    }

    /// Makes one look-up. All errors are inconclusive responses.
    pub(crate) async fn look_up(&self, request: Request) -> Response {
        // A GET changes nothing, so a failed look-up may be repeated and needs no latch. That it was sent is
        // the safe assumption.
        let inconclusive = Response::Lost(Lost::Other);
        let Some(look_up) = &self.look_up else {
            return inconclusive;
        };
        let Some(headers) = self.headers(&Method::GET, &request).await else {
            return inconclusive;
        };
        let authorization = headers.get(AUTHORIZATION).cloned();
        let sent = self
            .client
            .get()
            .request(Method::GET, request.url)
            .headers(headers)
            .send();
        let response = match sent.await {
            Ok(response) => response,
            Err(error) => return failure(&error, SendState::Sent),
        };
        let mut response = look_up.reader.read(response).await;
        if response.status == 401 {
            self.credentials.refused(authorization.as_ref());
        }
        self.credentials.mask_secrets(&mut response.body);
        Response::Status(response)
    }
}
