//! Settings that classify responses: `[api.responses]`.

use anyhow::Context as _;
use pipeline::delivery::{FieldRule, Otherwise, ResponseClassifier, StatusClass, Statuses};
use serde::{Deserialize, Serialize};

/// Response classes by HTTP status.
///
/// An entry is a status such as `503`, a range such as `520-527`, or a hundred such as `5xx`. The narrower
/// entry takes precedence. A status in no list is ambiguous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResponseSettings {
    /// Statuses that mean: the order is processed.
    pub(crate) accepted: Vec<String>,
    /// Statuses that mean: the order is not processed and never will be. The call becomes a dead letter.
    pub(crate) rejected: Vec<String>,
    /// Statuses that mean: the order was surely not processed. The call is retried.
    pub(crate) retry: Vec<String>,
    /// Statuses that are `retry` with a `Retry-After` header, and `ambiguous` without one.
    pub(crate) retry_if_retry_after: Vec<String>,
    /// Statuses that leave the outcome unknown. `caller.on_ambiguous` decides.
    pub(crate) ambiguous: Vec<String>,
    /// Rules for responses whose status does not say enough, such as `200 {"result":"ERROR"}`.
    pub(crate) body: Vec<FieldSettings>,
}

/// Rule that classifies a response by a field of its JSON body, in place of its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldSettings {
    /// Statuses whose bodies are read.
    #[serde(default = "hundred_two")]
    pub(crate) statuses: Vec<String>,
    /// JSON pointer of the field.
    pub(crate) pointer: String,
    /// Values that mean: the order is processed.
    #[serde(default)]
    pub(crate) accepted: Vec<String>,
    /// Values that mean: the order is not processed and never will be.
    #[serde(default)]
    pub(crate) rejected: Vec<String>,
    /// Values that mean: the order was surely not processed, and the call may be retried.
    #[serde(default)]
    pub(crate) retry: Vec<String>,
    /// Values that leave the outcome unknown.
    #[serde(default)]
    pub(crate) ambiguous: Vec<String>,
    /// Class of a body with another value, or without the field.
    #[serde(default)]
    pub(crate) otherwise: OtherwiseSetting,
}

/// Fallback of a [`FieldSettings`] rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OtherwiseSetting {
    /// Ambiguous, whatever the status.
    // The default, because an unforeseen value must neither lose an order nor pay it twice.
    #[default]
    Ambiguous,
    /// Class of the status, as without the rule.
    Status,
}

impl ResponseSettings {
    /// Returns the classifier of these settings.
    ///
    /// # Errors
    /// An entry is not a status, a status is in two classes, or a rule could never match.
    pub(crate) fn classifier(&self) -> anyhow::Result<ResponseClassifier> {
        let lists = [
            (&self.accepted, StatusClass::Accepted),
            (&self.rejected, StatusClass::Rejected),
            (&self.retry, StatusClass::Retry),
            (&self.retry_if_retry_after, StatusClass::RetryIfRetryAfter),
            (&self.ambiguous, StatusClass::Ambiguous),
        ];
        let mut settings = Vec::new();
        for (list, class) in lists {
            settings.extend(parse(list)?.into_iter().map(|statuses| (statuses, class)));
        }
        let rules: anyhow::Result<Vec<FieldRule>> = self.body.iter().map(FieldSettings::rule).collect();
        ResponseClassifier::new(settings)
            .context(INVALID)?
            .with_fields(rules?)
            .context(INVALID)
    }
}

impl FieldSettings {
    /// Returns the pipeline's rule for these settings.
    ///
    /// # Errors
    /// An entry of `statuses` is not a status.
    pub(crate) fn rule(&self) -> anyhow::Result<FieldRule> {
        // No `retry_if_retry_after`: the header belongs to the status, not to the field.
        let lists = [
            (&self.accepted, StatusClass::Accepted),
            (&self.rejected, StatusClass::Rejected),
            (&self.retry, StatusClass::Retry),
            (&self.ambiguous, StatusClass::Ambiguous),
        ];
        let values = lists
            .into_iter()
            .flat_map(|(list, class)| list.iter().map(move |value| (value.clone(), class)));
        Ok(FieldRule {
            statuses: parse(&self.statuses)?,
            pointer: self.pointer.clone(),
            values: values.collect(),
            otherwise: match self.otherwise {
                OtherwiseSetting::Ambiguous => Otherwise::Ambiguous,
                OtherwiseSetting::Status => Otherwise::Status,
            },
        })
    }
}

/// Parses a list of statuses, ranges and hundreds.
///
/// # Errors
/// An entry is none of them.
pub(crate) fn parse(list: &[String]) -> anyhow::Result<Vec<Statuses>> {
    list.iter()
        .map(|statuses| statuses.parse().context(INVALID))
        .collect()
}

const INVALID: &str = "the settings in [api.responses] are invalid";

fn hundred_two() -> Vec<String> {
    vec!["2xx".into()]
}

impl Default for ResponseSettings {
    fn default() -> Self {
        let list = |statuses: &[&str]| statuses.iter().map(|&status| status.into()).collect();
        Self {
            accepted: list(&["2xx"]),
            rejected: list(&["4xx"]),
            // 401 and 407 mean that our credentials are wrong, not the order, and that the request was not
            // applied (RFC 9110, sections 15.5.2 and 15.5.8). As `rejected`, an expired password would turn
            // the whole outbox into dead letters.
            retry: list(&["401", "407", "425", "429"]),
            // Proxies and gateways add the header to a 503 of their own, also after the server behind them has
            // processed the request and failed. Only who knows the API can tell that it sends the header for
            // nothing but requests that it turned away.
            retry_if_retry_after: Vec::new(),
            // Redirects are not followed: a 307 would repeat the POST at another address. A 303 is the usual
            // response to a form that was processed, and any other may come from a proxy, so none says that
            // the order was not processed.
            // 409 often means that an earlier request for the order was processed.
            ambiguous: list(&["3xx", "408", "409", "5xx"]),
            body: Vec::new(),
        }
    }
}
