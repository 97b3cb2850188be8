//! Checks that a record is an order of the configured form with an idempotency key, on the partition of that key.

use std::borrow::Cow;
use std::sync::Arc;

use records::dead_letter::Reason;
use records::key::InvalidKey;
use records::{AmountForm, IdempotencyKey, Order, Selection, find_unique, key_in_tree, parse_tree};
use schemas::OrderSchema;
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::partitioner::Partitioner;

/// Validation rules of one pipeline. All but the fingerprint must not change while the topics live: a key would
/// be looked up on another partition, or an order under another key.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Form of an order.
    pub form: OrderForm,
    /// Source of the idempotency key.
    pub key: KeySource,
    /// Requirement on the record key.
    pub record_key: RecordKey,
    /// Part of an order that two records with one key have in common if they are the same order.
    pub fingerprint: Selection,
    /// Rule by which producers choose the partition of a key.
    pub partitioner: Partitioner,
    /// Number of partitions of the orders topic.
    pub partitions: u32,
    /// Maximum size of a record on the outbox, in bytes (`max.message.bytes`), added headers included.
    pub record_bytes_max: usize,
}

/// Upper bound of the bytes that an outbox record has in addition to the order's.
// Batch and record fields (about 100 bytes), three headers (about 200), the key once more, and a long topic
// name in `outbox-source`. Too small a bound would make the produce request fail, and with it each
// transaction that holds the order.
const ADDED_BYTES: usize = 1024;

/// Form of an order. It may change while the topics live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderForm {
    /// Object of the form of [`Order`], with amounts of this form.
    BuiltIn(AmountForm),
    /// Any bytes from which the idempotency key can be read.
    KeyOnly,
    /// JSON that conforms to this schema.
    JsonSchema(Arc<OrderSchema>),
}

/// Kind of an [`OrderForm`], as a setting: `built-in`, `key-only` or `json-schema`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderFormKind {
    /// [`OrderForm::BuiltIn`].
    #[default]
    BuiltIn,
    /// [`OrderForm::KeyOnly`].
    KeyOnly,
    /// [`OrderForm::JsonSchema`].
    JsonSchema,
}

/// Source of an order's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Value at this JSON pointer (RFC 6901).
    Pointer(String),
    /// Record key.
    RecordKey,
    /// Value of the last header with this name.
    Header(String),
}

/// Requirement on the record key. As a setting, it is written `is-idempotency-key` or `any`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKey {
    /// Equal to the idempotency key: one order could else be on two partitions, and be paid twice.
    #[default]
    IsIdempotencyKey,
    /// Any: producers are trusted to send an order always to the same partition.
    Any,
}

/// Refusal of an input record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason, for headers and metrics.
    pub reason: Reason,
    /// Explanation for an operator.
    pub detail: String,
}

impl Rules {
    /// Returns the value of a record that can be written to the outbox as it is.
    ///
    /// # Errors
    /// Returns the reason for which the record is refused.
    pub fn value<'a>(&self, input: &Input<'a>) -> Result<&'a [u8], Refusal> {
        // rdkafka writes header names as text only, and dropping a header would change the order.
        if let Some(number) = input.unreadable_header {
            return Err(refusal(
                Reason::HeaderUnreadable,
                format!(
                    "the name of header {number} is not UTF-8, so it cannot be copied to the outbox unchanged"
                ),
            ));
        }
        // Before parsing: a record that the outbox cannot hold would fail its transaction again and again.
        let bytes = input.bytes();
        if bytes + ADDED_BYTES > self.record_bytes_max {
            return Err(refusal(
                Reason::TooLarge,
                format!(
                    "the record has {bytes} bytes; with {ADDED_BYTES} for added headers it exceeds the outbox's \
                     limit of {} (max.message.bytes)",
                    self.record_bytes_max
                ),
            ));
        }
        input
            .value
            .ok_or_else(|| refusal(Reason::NotJson, "the record has no value (a tombstone)".into()))
    }

    /// Returns the idempotency key of a record that is a valid order on the right partition, and the order if it
    /// is of the built-in form. The order is checked in `value`: the record's own, or the document that a schema has read
    /// it as.
    ///
    /// # Errors
    /// Returns the reason for which the record is refused.
    pub fn identify<'a>(
        &self,
        input: &Input<'_>,
        value: &'a [u8],
    ) -> Result<(IdempotencyKey, Option<Order<'a>>), Refusal> {
        let pointer = match &self.key {
            KeySource::Pointer(pointer) => Some(&**pointer),
            KeySource::RecordKey | KeySource::Header(_) => None,
        };
        let (order, at_pointer) = match (&self.form, pointer) {
            (OrderForm::BuiltIn(amount), pointer) => Order::parse_unique(value, *amount, pointer)
                .map(|(order, at_pointer)| (Some(order), at_pointer)),
            (OrderForm::KeyOnly, Some(pointer)) => {
                find_unique(value, pointer).map(|at_pointer| (None, at_pointer))
            }
            // The caller would have nothing to send.
            (OrderForm::KeyOnly, None) if value.is_empty() => {
                return Err(refusal(Reason::NotJson, "the value is empty".into()));
            }
            (OrderForm::KeyOnly, None) => Ok((None, None)),
            (OrderForm::JsonSchema(schema), pointer) => match parse_tree(value) {
                Ok(tree) => {
                    schema
                        .check(&tree)
                        .map_err(|violation| refusal(Reason::NotAnOrder, violation))?;
                    let key = pointer.and_then(|pointer| key_in_tree(&tree, pointer));
                    Ok((None, key.map(|key| Cow::Owned(key.into_owned()))))
                }
                Err(error) => Err(error),
            },
        }
        .map_err(|error| refusal(error.reason, error.detail))?;
        let key = self.key(input, at_pointer.as_deref())?;
        self.check_partition(input, &key)?;
        Ok((key, order))
    }

    fn key(&self, input: &Input<'_>, at_pointer: Option<&str>) -> Result<IdempotencyKey, Refusal> {
        let found = match &self.key {
            KeySource::Pointer(pointer) => IdempotencyKey::new(
                at_pointer
                    .ok_or_else(|| missing(format!("the JSON has no string or integer at {pointer:?}")))?,
            ),
            KeySource::RecordKey => {
                IdempotencyKey::from_bytes(input.key.ok_or_else(|| missing("the record has no key".into()))?)
            }
            KeySource::Header(name) => {
                let value = input.header(name);
                IdempotencyKey::from_bytes(
                    value.ok_or_else(|| missing(format!("the record has no header {name:?}")))?,
                )
            }
        };
        found.map_err(|error: InvalidKey| refusal(Reason::KeyInvalid, error.to_string()))
    }

    fn check_partition(&self, input: &Input<'_>, key: &IdempotencyKey) -> Result<(), Refusal> {
        match self.record_key {
            RecordKey::IsIdempotencyKey if input.key != Some(key.as_bytes()) => {
                // The key comes from a producer, so its length has no limit here.
                let shown = input.key.map_or("missing".into(), |bytes| {
                    let text: String = String::from_utf8_lossy(bytes).chars().take(64).collect();
                    format!("{text:?}")
                });
                return Err(refusal(
                    Reason::KeyMismatch,
                    format!(
                        "the record key is {shown}, the idempotency key {:?}; producers must use the idempotency \
                         key as record key",
                        key.as_str()
                    ),
                ));
            }
            RecordKey::IsIdempotencyKey | RecordKey::Any => {}
        }
        // Producers partition by the record key. A record without one is on an arbitrary partition; then the
        // idempotency key is checked.
        let hashed = input.key.unwrap_or(key.as_bytes());
        match self.partitioner.partition(hashed, self.partitions) {
            Some(expected) if i64::from(expected) != i64::from(input.partition.0) => Err(refusal(
                Reason::WrongPartition,
                format!(
                    "the key belongs to partition {expected} by {:?}, and the record is on {}; its producer uses \
                     another partitioner",
                    self.partitioner, input.partition
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn missing(detail: String) -> Refusal {
    refusal(Reason::KeyMissing, detail)
}

fn refusal(reason: Reason, detail: String) -> Refusal {
    Refusal { reason, detail }
}
