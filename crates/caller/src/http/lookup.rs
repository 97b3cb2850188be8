//! Look-ups: the API is asked for an order of which nobody knows whether it has processed it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use pipeline::delivery::{Lost, Response, ResponseClassifier, StatusClass, Verify};
use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use super::answers::{FieldSettings, parse};
use super::mapping::Address;
use super::reading::Reading;
use super::report;
use super::request::Request;
use super::template::Facts;
use super::{Api, ApiSettings};
use crate::latch::Fate;

/// The settings of look-ups, which the policy `verify` makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VerifySettings {
    /// The address that is asked by GET, with the places that `api.url` has; empty: there are no look-ups.
    pub(crate) url: String,
    /// The API's longest processing time: so long after the last moment at which a request may have left,
    /// nothing of it can be at work any more. An order that is not found before that may be found later.
    #[serde(with = "humantime_serde")]
    pub(crate) api_processing_max: Duration,
    /// So many look-ups in a row that tell nothing, and the call is parked.
    pub(crate) lookups_max: u32,
    /// So long after the first of them, the call is parked.
    #[serde(with = "humantime_serde")]
    pub(crate) park_after: Duration,
    /// Statuses that say: the API has processed the order.
    pub(crate) found: Vec<String>,
    /// Statuses that say: it never saw the order. What stands in neither list tells nothing.
    pub(crate) not_found: Vec<String>,
    /// Answers whose status does not tell: fields of their bodies, where `accepted` means found and
    /// `rejected` not found.
    pub(crate) body: Vec<FieldSettings>,
}

/// Where the API is asked, and how its answers are read.
pub(super) struct LookUp {
    address: Address,
    reading: Reading,
}

impl VerifySettings {
    /// What the pipeline needs of them.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn verify(&self) -> anyhow::Result<Verify> {
        Ok(Verify {
            api_processing_max: self.api_processing_max,
            lookups_max: self.lookups_max,
            abandon_after: self.park_after,
            classifier: self.classes()?,
        })
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.api_processing_max.is_zero(),
            "the setting verify.api_processing_max is 0; it must be the API's longest processing time, or a look-up says \
             \"not found\" of an order that is being processed"
        );
        ensure!(
            self.lookups_max > 0,
            "the setting verify.lookups_max is 0; it must be at least 1"
        );
        self.classes()?;
        if !self.url.is_empty() {
            Address::new("verify.url", &self.url)?;
        }
        Ok(())
    }

    fn classes(&self) -> anyhow::Result<ResponseClassifier> {
        let wrong = "the settings in [verify] are wrong";
        let mut settings = Vec::new();
        for (list, class) in [
            (&self.found, StatusClass::Accepted),
            (&self.not_found, StatusClass::Rejected),
        ] {
            settings.extend(
                parse(list)
                    .context(wrong)?
                    .into_iter()
                    .map(|statuses| (statuses, class)),
            );
        }
        let rules: anyhow::Result<Vec<_>> = self.body.iter().map(FieldSettings::rule).collect();
        ResponseClassifier::new(settings)
            .context(wrong)?
            .with_fields(rules.context(wrong)?)
            .context(wrong)
    }
}

impl Default for VerifySettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            api_processing_max: Duration::from_secs(60),
            lookups_max: 30,
            park_after: Duration::from_secs(3_600),
            found: vec!["200".into()],
            not_found: vec!["404".into()],
            body: Vec::new(),
        }
    }
}

impl LookUp {
    /// The look-ups of these settings; `None` if there are none.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(super) fn new(verify: &VerifySettings, api: &ApiSettings) -> anyhow::Result<Option<Self>> {
        if verify.url.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            address: Address::new("verify.url", &verify.url)?,
            reading: Reading {
                classes: verify.classes()?,
                kept_max: usize::try_from(api.response_bytes_max.as_u64()).unwrap_or(usize::MAX),
                transaction_id: api.transaction_id.clone(),
            },
        }))
    }
}

impl Api {
    /// The same API, which can be asked for orders if the settings say how.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn with_look_ups(self, verify: &VerifySettings, api: &ApiSettings) -> anyhow::Result<Self> {
        let lookup = LookUp::new(verify, api)?;
        Ok(Self { lookup, ..self })
    }

    /// The request that asks for an order.
    ///
    /// # Errors
    /// Says what the order lacks.
    pub(crate) fn look_up_request(&self, facts: &Facts<'_>, call: &Request) -> Result<Request, String> {
        let lookup = self.lookup.as_ref().ok_or("the settings have no verify.url")?;
        Ok(Request {
            url: lookup.address.fill(facts)?,
            body: Bytes::new(),
            ..call.clone()
        })
    }

    /// Asks for an order. Whatever goes wrong tells nothing; there is no harm in asking again.
    pub(crate) async fn look_up(&self, request: Request) -> Response {
        let nothing = Response::Lost(Lost::Other);
        let Some(lookup) = &self.lookup else {
            return nothing;
        };
        let Some(headers) = self.headers(&Method::GET, &request).await else {
            return nothing;
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
            Err(error) => return report::report(&error, Fate::Sent),
        };
        let mut reply = lookup.reading.read(response).await;
        if reply.status == 401 {
            self.credentials.refused(authorization.as_ref());
        }
        self.credentials.scrub(&mut reply.body);
        Response::Status(reply)
    }
}
