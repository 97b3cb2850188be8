//! What went wrong with Kafka, and the one next step that each kind has.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A failed request: what was attempted, and what it means.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} failed: {}", describe(error))]
pub struct ClientError {
    /// What was attempted, with topic, partition and offset where there are any.
    pub attempted: String,
    /// What it means for the one who asked.
    pub class: ErrorClass,
    /// What librdkafka said. Not a `source`: it stands in the message, shortened.
    error: KafkaError,
}

/// What a fault means; each class has exactly one next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Nothing changed; the same request may be made again.
    Retriable,
    /// The open transaction will not be committed: abort it and go back to the committed offsets.
    Abortable,
    /// Another member has taken the identity: let go of everything without a commit, and look whose it is.
    Fenced,
    /// This client cannot go on; a new one may.
    Fatal,
    /// What the program asks for can not be had until a person acts.
    Permanent,
}

impl ClientError {
    /// A fault of the class that librdkafka's error tells.
    #[must_use]
    pub fn new(attempted: impl Into<String>, error: KafkaError) -> Self {
        Self {
            attempted: attempted.into(),
            class: classify(&error),
            error,
        }
    }

    /// A fault of a client that is not there.
    #[must_use]
    pub fn unavailable(attempted: impl Into<String>) -> Self {
        Self {
            attempted: attempted.into(),
            class: ErrorClass::Fatal,
            error: KafkaError::Canceled,
        }
    }

    /// Something that this program itself refuses to go on with.
    #[must_use]
    pub fn refused(what: impl Into<String>) -> Self {
        Self {
            attempted: what.into(),
            class: ErrorClass::Permanent,
            error: KafkaError::Canceled,
        }
    }

    /// Whether the next record is not there: deleted before it was read, or never written.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        matches!(
            self.code(),
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        )
    }

    /// librdkafka's code, where it has given one.
    #[must_use]
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        self.error.rdkafka_error_code()
    }
}

fn classify(error: &KafkaError) -> ErrorClass {
    let by_code = |code: RDKafkaErrorCode| match code {
        RDKafkaErrorCode::FencedInstanceId => ErrorClass::Fenced,
        // A record or batch that cannot be read would be passed over, and with it an order or a key.
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::NotImplemented
        | RDKafkaErrorCode::InvalidTransactionTimeout
        | RDKafkaErrorCode::MessageSizeTooLarge
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        | RDKafkaErrorCode::AutoOffsetReset
        | RDKafkaErrorCode::OffsetOutOfRange => ErrorClass::Permanent,
        _ => ErrorClass::Retriable,
    };
    match error {
        KafkaError::Transaction(error) => {
            let class = by_code(error.code());
            if matches!(class, ErrorClass::Fenced | ErrorClass::Permanent) {
                class
            } else if error.is_fatal() {
                // A fenced epoch does not tell whether another process took the transactional id or the
                // broker timed the transaction out. Both mean a new producer; if there is another process,
                // the group tells by FENCED_INSTANCE_ID.
                ErrorClass::Fatal
            } else if error.txn_requires_abort() {
                ErrorClass::Abortable
            } else if error.is_retriable() {
                ErrorClass::Retriable
            } else {
                class
            }
        }
        KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId) => ErrorClass::Fenced,
        KafkaError::MessageConsumptionFatal(_) => ErrorClass::Fatal,
        other => other.rdkafka_error_code().map_or(ErrorClass::Retriable, by_code),
    }
}

/// librdkafka's own words, shortened: some of its texts hold a whole partition list.
fn describe(error: &KafkaError) -> String {
    let text = match error {
        KafkaError::Transaction(error) => format!("{} ({})", error.string(), error.name()),
        other => other.to_string(),
    };
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}
