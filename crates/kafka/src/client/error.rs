//! Errors of Kafka clients, each with a class that decides the next step.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A failed request: the attempted operation, and the class of the failure.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} failed: {}", describe(error))]
pub struct ClientError {
    /// Attempted operation, with topic, partition and offset where there are any.
    pub attempted: String,
    /// Class of the failure.
    pub class: ErrorClass,
    // Not a `source`: it is part of the message, shortened.
    error: KafkaError,
}

/// Class of an error. Each class has exactly one next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Nothing changed; the same request may be repeated.
    Retriable,
    /// The open transaction cannot be committed: abort it, and return to the committed offsets.
    Abortable,
    /// Another member has taken over the instance id: release everything without a commit, and find its
    /// owner.
    Fenced,
    /// This client has failed for good; a new one may work.
    Fatal,
    /// Repeating does not help, with this client or a new one; operator action required.
    Permanent,
}

impl ClientError {
    /// Creates an error with the class that follows from librdkafka's error.
    #[must_use]
    pub fn new(attempted: impl Into<String>, error: KafkaError) -> Self {
        Self {
            attempted: attempted.into(),
            class: classify(&error),
            error,
        }
    }

    /// Creates an error for a client that does not exist or is not a member.
    #[must_use]
    pub fn unavailable(attempted: impl Into<String>) -> Self {
        Self {
            attempted: attempted.into(),
            class: ErrorClass::Fatal,
            error: KafkaError::Canceled,
        }
    }

    /// Creates an error of a client that has failed for good.
    #[must_use]
    pub(crate) fn fatal(attempted: impl Into<String>, error: KafkaError) -> Self {
        Self {
            attempted: attempted.into(),
            class: ErrorClass::Fatal,
            error,
        }
    }

    /// Creates an error for an operation that this program itself refuses.
    #[must_use]
    pub fn refused(attempted: impl Into<String>) -> Self {
        Self {
            attempted: attempted.into(),
            class: ErrorClass::Permanent,
            error: KafkaError::Canceled,
        }
    }

    /// Names the group in a refusal of it, which librdkafka reports by whatever the client does next.
    #[must_use]
    pub(crate) fn in_group(mut self, group_id: &str) -> Self {
        let name = format!("group {group_id:?}");
        if self.code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) && !self.attempted.contains(&name)
        {
            self.attempted.push_str(&format!(" in the {name}"));
        }
        self
    }

    /// Returns `true` if the next record does not exist: it was deleted before it was read, or never written.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        matches!(
            self.code(),
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        )
    }

    /// Returns librdkafka's error code, if there is one.
    #[must_use]
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        code_of(&self.error)
    }
}

/// Returns the code of an error; also that of an admin request, which rust-rdkafka leaves out.
pub(crate) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

fn classify(error: &KafkaError) -> ErrorClass {
    let by_code = |code: RDKafkaErrorCode| match code {
        RDKafkaErrorCode::FencedInstanceId => ErrorClass::Fenced,
        // Passing over a record or batch that cannot be read would lose an order or a key.
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::BadCompression
        | RDKafkaErrorCode::NotImplemented
        // A wrong setting or a missing permission does not change by itself.
        | RDKafkaErrorCode::InvalidTransactionTimeout
        | RDKafkaErrorCode::MessageSizeTooLarge
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        // Deleted records do not come back.
        | RDKafkaErrorCode::AutoOffsetReset
        | RDKafkaErrorCode::OffsetOutOfRange => ErrorClass::Permanent,
        // librdkafka reports lost connections and moving leaders by many codes, and recovers from them.
        _ => ErrorClass::Retriable,
    };
    match error {
        KafkaError::Transaction(error) => {
            let class = by_code(error.code());
            // Before the flags: a new producer, which they ask for, would meet the same refusal.
            if matches!(class, ErrorClass::Fenced | ErrorClass::Permanent) {
                class
            } else if error.is_fatal() {
                // A fenced epoch does not show whether another process uses the transactional id or the
                // broker has timed the transaction out. Both require a new producer; another process shows
                // itself in the group, by FENCED_INSTANCE_ID.
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
        other => code_of(other).map_or(ErrorClass::Retriable, by_code),
    }
}

fn describe(error: &KafkaError) -> String {
    let text = match error {
        KafkaError::Transaction(error) => format!("{} ({})", error.string(), error.name()),
        // Without the value, which may be a secret.
        KafkaError::ClientConfig(_, description, name, _) => {
            format!("{description} (the setting {name:?} in [kafka.properties])")
        }
        other => other.to_string(),
    };
    // Some of librdkafka's texts contain a whole partition list.
    let text = match text.char_indices().nth(DESCRIPTION_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    };
    match code_of(error) {
        // librdkafka's own text says nothing of the size, by which it refuses what is not broken.
        Some(RDKafkaErrorCode::BadCompression) => format!(
            "{text}: the next batch is broken, or is longer than librdkafka's receive.message.max.bytes (100 MB; for zstd \
             a third of it may be too much) once it is decompressed. Set that property in [kafka.properties] to more \
             than three times the length of the batch, and start again; the program needs as much memory"
        ),
        // A record that came compressed is longer once it is read, and is written as it is.
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => format!(
            "{text}: raise max.message.bytes of that topic above the length of the record. A producer that compresses can \
             send records that are longer than its own topic's limit"
        ),
        // Brokers show nobody what may not be seen.
        Some(RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic) => format!(
            "{text}: it does not exist, or this user lacks the permission DESCRIBE on the topic, which READ and WRITE \
             imply; `outbox topics acls` lists the permissions of each program and command"
        ),
        Some(code) => match missing_permission(code) {
            Some(missing) => format!(
                "{text}: this user lacks {missing}; `outbox topics acls` lists the permissions of each program and \
                 command"
            ),
            None => text,
        },
        None => text,
    }
}

/// Returns the permission that is missing; `None` for an error of another kind.
const fn missing_permission(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => Some(
            "a permission on the topic (DESCRIBE to see it, READ to read it, WRITE to write to it, CREATE to create it, \
             DELETE to delete records)",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some("a permission on the group (READ to join it or to commit, DESCRIBE to read its offsets)")
        }
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            Some("the permission WRITE on the transactional id")
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => Some("a permission on the cluster"),
        _ => None,
    }
}

/// Maximum length of librdkafka's part of an error text.
const DESCRIPTION_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn value_of_a_refused_property_is_not_shown() {
        let refused = ClientConfig::new()
            .set("sasl.pasword", "hunter2")
            .create::<BaseConsumer>();
        let error = ClientError::new("opening a client", refused.err().expect("a refusal")).to_string();
        assert!(
            !error.contains("hunter2") && error.contains("sasl.pasword"),
            "{error}"
        );
    }

    /// Each poll would report it again, and the partition would stand still behind a warning.
    #[test]
    fn batch_that_cannot_be_decompressed_is_permanent() {
        let refused = KafkaError::MessageConsumption(RDKafkaErrorCode::BadCompression);
        let error = ClientError::new("reading \"t\"", refused);
        assert_eq!(error.class, ErrorClass::Permanent);
        assert!(error.to_string().contains("receive.message.max.bytes"), "{error}");
        let refused = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        let error = ClientError::new("delivering a record to t/0", refused);
        assert!(error.to_string().contains("max.message.bytes"), "{error}");
    }

    #[test]
    fn refused_group_is_named() {
        let error = |code| {
            let error = KafkaError::MessageConsumption(code);
            ClientError::new("reading t/0", error).in_group("g").to_string()
        };
        let refused = error(RDKafkaErrorCode::GroupAuthorizationFailed);
        assert!(
            refused.starts_with("reading t/0 in the group \"g\" failed"),
            "{refused}"
        );
        let unknown = error(RDKafkaErrorCode::UnknownPartition);
        assert!(
            unknown.starts_with("reading t/0 failed") && unknown.contains("DESCRIBE"),
            "{unknown}"
        );
    }

    #[test]
    fn missing_permission_is_named() {
        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
        for refused in [KafkaError::MessageProduction(code), KafkaError::AdminOp(code)] {
            let error = ClientError::new("delivering a record to \"t\"", refused);
            assert_eq!(error.class, ErrorClass::Permanent);
            let text = error.to_string();
            assert!(
                text.contains("WRITE") && text.contains("outbox topics acls"),
                "{text}"
            );
        }
    }
}
