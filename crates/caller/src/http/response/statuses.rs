//! The settings of what answers mean.

use anyhow::Context as _;
use pipeline::delivery::{FieldRule, Otherwise, ResponseClassifier, StatusClass, Statuses};
use serde::{Deserialize, Serialize};

/// Statuses such as `503`, ranges such as `520-527`, and hundreds such as `5xx`; the narrower goes before the
/// wider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResponseSettings {
    /// The order is processed.
    pub(crate) accepted: Vec<String>,
    /// The order is not processed, and will not be: a dead letter.
    pub(crate) rejected: Vec<String>,
    /// The order was surely not processed: the call is made again. Among them are 401 and 407: they say that
    /// our credentials are wrong, not the order, and that the request was not applied (RFC 9110). As dead
    /// letters an expired password would cost a whole outbox.
    pub(crate) retry: Vec<String>,
    /// With a `Retry-After` header as `retry`, without as `ambiguous`.
    pub(crate) retry_if_retry_after: Vec<String>,
    /// Nobody can know: `caller.on_ambiguous` decides. Statuses that stand nowhere belong here.
    pub(crate) ambiguous: Vec<String>,
    /// Answers whose status does not tell.
    pub(crate) body: Vec<FieldSettings>,
}

/// A field of the answer's JSON body that has the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldSettings {
    /// The statuses whose bodies are read.
    #[serde(default = "hundred_two")]
    pub(crate) statuses: Vec<String>,
    /// Where the field stands: a JSON pointer.
    pub(crate) pointer: String,
    /// Values that mean: the order is processed.
    #[serde(default)]
    pub(crate) accepted: Vec<String>,
    /// Values that mean: it is not, and will not be.
    #[serde(default)]
    pub(crate) rejected: Vec<String>,
    /// Values that mean: it was surely not processed, and the call may be made again.
    #[serde(default)]
    pub(crate) retry: Vec<String>,
    /// Values that mean: nobody can know.
    #[serde(default)]
    pub(crate) ambiguous: Vec<String>,
    /// What another value means, or no such field.
    #[serde(default)]
    pub(crate) otherwise: OtherwiseSetting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OtherwiseSetting {
    /// Nobody can know.
    #[default]
    Ambiguous,
    /// The status decides.
    Status,
}

impl ResponseSettings {
    /// The table that they make.
    ///
    /// # Errors
    /// Names what is no status, what stands in two classes, and rules that could never do what they are for.
    pub(crate) fn classes(&self) -> anyhow::Result<ResponseClassifier> {
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
            .context(ANSWERS)?
            .with_fields(rules?)
            .context(ANSWERS)
    }
}

impl FieldSettings {
    pub(crate) fn rule(&self) -> anyhow::Result<FieldRule> {
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

pub(crate) fn parse(list: &[String]) -> anyhow::Result<Vec<Statuses>> {
    list.iter()
        .map(|statuses| statuses.parse().context(ANSWERS))
        .collect()
}

const ANSWERS: &str = "the settings in [api.responses] are wrong";

fn hundred_two() -> Vec<String> {
    vec!["2xx".into()]
}

impl Default for ResponseSettings {
    fn default() -> Self {
        let list = |statuses: &[&str]| statuses.iter().map(|&status| status.into()).collect();
        Self {
            accepted: list(&["2xx"]),
            rejected: list(&["3xx", "4xx"]),
            retry: list(&["401", "407", "425", "429"]),
            retry_if_retry_after: list(&["503"]),
            ambiguous: list(&["408", "409", "5xx"]),
            body: Vec::new(),
        }
    }
}
