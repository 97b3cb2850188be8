//! Verification of the topics, which each program makes before anything else.

use crate::admin::Admin;
use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::topics::{self, ExistingTopics, Finding, Requirements, Severity};

/// Reason why a program must not start.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The cluster cannot be reached, or does not describe the topics.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A guarantee would not hold with these topics.
    #[error(
        "the topics do not fulfil the requirements; `outbox topics verify` reports all findings:{}",
        list(.0)
    )]
    Refused(Vec<Finding>),
}

/// Describes the topics that `required` names, and verifies them. Findings that do not break a guarantee are
/// logged as warnings.
///
/// # Errors
/// The cluster cannot be reached, or a guarantee would not hold.
pub fn check(
    settings: &KafkaSettings,
    client_id: &str,
    required: &Requirements<'_>,
) -> Result<ExistingTopics, PreflightError> {
    let existing = describe(&Admin::connect(settings, client_id)?, required)?;
    let (refused, warnings): (Vec<Finding>, Vec<Finding>) = topics::verify(required, &existing)
        .into_iter()
        .partition(|finding| finding.severity == Severity::Refuse);
    for Finding {
        topic,
        what,
        why,
        repair,
        ..
    } in warnings
    {
        tracing::warn!(topic, what, why, repair, "topic settings are risky, continuing");
    }
    if refused.is_empty() {
        Ok(existing)
    } else {
        Err(PreflightError::Refused(refused))
    }
}

fn describe(admin: &Admin, required: &Requirements<'_>) -> Result<ExistingTopics, ClientError> {
    let names = required.role.names(required.topics);
    let mut attempts_left = DESCRIBE_ATTEMPTS_MAX;
    loop {
        attempts_left -= 1;
        match admin.describe(&names) {
            // librdkafka keeps asking a broker that has just gone until it notices; the next attempt goes to
            // another.
            Err(error) if error.class == ErrorClass::Retriable && attempts_left > 0 => {
                tracing::warn!(%error, "topics not described, trying again");
            }
            result => return result,
        }
    }
}

/// Maximum number of attempts to describe the topics. Each takes up to 20 s.
const DESCRIBE_ATTEMPTS_MAX: u32 = 3;

fn list(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n{finding}")).collect()
}
