//! What makes a record an order with an idempotency key on the right partition.

use records::dead_letter::Reason;
use records::key::InvalidKey;
use records::{IdempotencyKey, Order};

use super::input::Input;
use super::partitioner::Partitioner;

/// The rules of one pipeline; the same for each order, for as long as the topics live.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where the idempotency key stands.
    pub key: KeySource,
    /// What the record key must be.
    pub record_key: RecordKey,
    /// Which partition a key belongs to.
    pub partitioner: Partitioner,
    /// How many partitions the orders topic has.
    pub partitions: u32,
    /// The largest record that the outbox takes, in bytes, with what is added to an order's headers.
    pub record_bytes_max: usize,
}

/// What the outbox record has on top of the order, generously: the batch's and the record's own fields (some
/// 100 bytes), three headers (some 200), the key once more, and a long topic name.
const ADDED_BYTES: usize = 1024;

/// Where the idempotency key of an order stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In the JSON, at this pointer (RFC 6901).
    Pointer(String),
    /// It is the record key.
    RecordKey,
    /// In the header of this name; the last one counts.
    Header(String),
}

/// What the record key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKey {
    /// The idempotency key. Otherwise two records of one order could lie on two partitions.
    IsIdempotencyKey,
    /// Whatever it is, producers send an order always to the same partition.
    Ignored,
}

/// Why an input record is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for headers and metrics.
    pub reason: Reason,
    /// A sentence for a person.
    pub detail: String,
}

impl Rules {
    /// The order's idempotency key, if the record is an order and lies where it belongs.
    ///
    /// # Errors
    /// Says why the record is refused.
    pub fn identify(&self, input: &Input<'_>) -> Result<IdempotencyKey, Refusal> {
        if let Some(name) = input.unreadable_header {
            return Err(refusal(
                Reason::HeaderUnreadable,
                format!(
                    "the name of header number {name} is not UTF-8, so it cannot reach the outbox unchanged"
                ),
            ));
        }
        let bytes = input.bytes();
        if bytes + ADDED_BYTES > self.record_bytes_max {
            return Err(refusal(
                Reason::TooLarge,
                format!(
                    "the record has {bytes} bytes, and the outbox takes {} with {ADDED_BYTES} that are added \
                     (max.message.bytes)",
                    self.record_bytes_max
                ),
            ));
        }
        let value = input
            .value
            .ok_or_else(|| refusal(Reason::NotJson, "the record has no value (a tombstone)".into()))?;
        let order = Order::parse(value).map_err(|error| refusal(error.reason, error.detail))?;
        let key = self.key(input, value, &order)?;
        self.check_place(input, &key)?;
        Ok(key)
    }

    fn key(&self, input: &Input<'_>, value: &[u8], order: &Order<'_>) -> Result<IdempotencyKey, Refusal> {
        let found = match &self.key {
            KeySource::Pointer(pointer) if pointer == "/order_id" => IdempotencyKey::new(&order.order_id),
            KeySource::Pointer(pointer) => {
                let text = text_at(value, pointer).ok_or_else(|| {
                    missing(format!(
                        "there is no text or whole number at {pointer:?} in the JSON"
                    ))
                })?;
                IdempotencyKey::new(&text)
            }
            KeySource::RecordKey => {
                IdempotencyKey::from_bytes(input.key.ok_or_else(|| missing("the record has no key".into()))?)
            }
            KeySource::Header(name) => {
                let value = input.header(name);
                IdempotencyKey::from_bytes(
                    value.ok_or_else(|| missing(format!("there is no header {name:?}")))?,
                )
            }
        };
        found.map_err(|error: InvalidKey| refusal(Reason::KeyInvalid, error.to_string()))
    }

    fn check_place(&self, input: &Input<'_>, key: &IdempotencyKey) -> Result<(), Refusal> {
        match self.record_key {
            RecordKey::IsIdempotencyKey if input.key != Some(key.as_bytes()) => {
                let shown = input.key.map_or("missing".into(), |bytes| {
                    let text: String = String::from_utf8_lossy(bytes).chars().take(64).collect();
                    format!("{text:?}")
                });
                return Err(refusal(
                    Reason::KeyMismatch,
                    format!(
                        "the record key is {shown}, the idempotency key {:?}; producers must partition by it",
                        key.as_str()
                    ),
                ));
            }
            RecordKey::IsIdempotencyKey | RecordKey::Ignored => {}
        }
        // What decides the partition is the record key; without one, producers choose any.
        let hashed = input.key.unwrap_or(key.as_bytes());
        match self.partitioner.partition(hashed, self.partitions) {
            Some(expected) if i64::from(expected) != i64::from(input.partition.0) => Err(refusal(
                Reason::WrongPartition,
                format!(
                    "the key belongs on partition {expected} by {:?}, and the record lies on {}; a producer uses \
                     another partitioner",
                    self.partitioner, input.partition
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// The text, or the digits of the whole number, at a JSON pointer.
fn text_at(value: &[u8], pointer: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    match value.pointer(pointer)? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn missing(detail: String) -> Refusal {
    refusal(Reason::KeyMissing, detail)
}

fn refusal(reason: Reason, detail: String) -> Refusal {
    Refusal { reason, detail }
}
