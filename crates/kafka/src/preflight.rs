//! Verification of the topics, which each program makes before anything else.

use crate::admin::Admin;
use crate::client::config::KafkaSettings;
use crate::client::error::{ClientError, ErrorClass};
use crate::topics::{
    self, ExistingTopics, Finding, Requirements, Severity, TransactionVerification, UnverifiedBroker,
};

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

/// Describes the topics that `required` names, and verifies them; the brokers too, if the program
/// `writes_transactions`. Findings that do not break a guarantee are logged as warnings.
///
/// # Errors
/// The cluster cannot be reached, or a guarantee would not hold.
pub fn check(
    settings: &KafkaSettings,
    client_id: &str,
    required: &Requirements<'_>,
    writes_transactions: bool,
) -> Result<ExistingTopics, PreflightError> {
    let admin = Admin::connect(settings, client_id)?;
    let existing = describe(&admin, required)?;
    let unverified = if writes_transactions {
        unverified_brokers(&admin, |why| {
            tracing::warn!(
                why,
                "transaction verification of the brokers not checked, continuing"
            );
        })
    } else {
        Vec::new()
    };
    let required = Requirements {
        unverified_brokers: &unverified,
        ..*required
    };
    let (refused, warnings): (Vec<Finding>, Vec<Finding>) = topics::verify(&required, &existing)
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

/// Returns the brokers that do not verify transactions. `warn` gets the reason where a broker does not say: a
/// user may lack the permission to ask, and some services hide the settings of their brokers.
pub fn unverified_brokers(admin: &Admin, mut warn: impl FnMut(String)) -> Vec<UnverifiedBroker> {
    let described = admin.transaction_verification().unwrap_or_else(|error| {
        warn(error.to_string());
        Vec::new()
    });
    let mut unverified = Vec::new();
    for broker in described {
        let is_disabled = match broker.verification {
            Ok(TransactionVerification::Enabled) => continue,
            Ok(TransactionVerification::Disabled) => true,
            Ok(TransactionVerification::Unsupported) => false,
            Ok(TransactionVerification::NotReported) => {
                warn(format!(
                    "broker {} does not report transaction.partition.verification.enable, without which late \
                     records of an aborted transaction may be read, and late call notes be kept; make sure \
                     that it is true",
                    broker.id
                ));
                continue;
            }
            Err(error) => {
                warn(error.to_string());
                continue;
            }
        };
        unverified.push(UnverifiedBroker {
            id: broker.id,
            is_disabled,
        });
    }
    unverified
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
