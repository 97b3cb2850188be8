//! The check of the topics that each program makes before it does anything else.

use crate::admin::Admin;
use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::topics::{self, Existing, Finding, Required, Severity};

/// Why a program must not start.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The cluster cannot be reached.
    #[error(transparent)]
    ClientError(#[from] ClientError),
    /// A guarantee would not hold.
    #[error("the topics are not as they must be; `outbox topics verify` tells all about them:{}", listed(.0))]
    Refused(Vec<Finding>),
}

/// Describes the topics that `required` asks for; what may wait is logged, once.
///
/// # Errors
/// The cluster cannot be reached, or a guarantee would not hold.
pub fn check(
    settings: &KafkaSettings,
    client_id: &str,
    required: &Required<'_>,
) -> Result<Existing, PreflightError> {
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
        tracing::warn!(topic, what, why, repair, "a topic is not as it should be");
    }
    if refused.is_empty() {
        Ok(existing)
    } else {
        Err(PreflightError::Refused(refused))
    }
}

/// A broker that has just gone is asked until it is known to be gone; then another one answers.
fn describe(admin: &Admin, required: &Required<'_>) -> Result<Existing, ClientError> {
    let names = required.role.names(required.topics);
    let mut tries_left = DESCRIBE_TRIES_MAX;
    loop {
        tries_left -= 1;
        match admin.describe(&names) {
            Err(fault) if fault.class == ErrorClass::Retriable && tries_left > 0 => {
                tracing::warn!(error = %fault, "the topics are asked for again");
            }
            described => return described,
        }
    }
}

/// Each takes up to 20 s.
const DESCRIBE_TRIES_MAX: u32 = 3;

fn listed(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n{finding}")).collect()
}
