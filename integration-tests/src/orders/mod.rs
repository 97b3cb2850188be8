//! Records for the orders topic, each labelled as a valid order or with its reason for refusal.
//!
//! A generated record is a pure function of the seed and its sequence number. Two runs with one seed send the
//! same records, and record 17,342 can be computed again later instead of being stored.

mod faulty;
pub mod feed;
pub mod manual;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use records::dead_letter::Reason;
use records::{Order, Partition};

/// A record sent to the orders topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Sequence number from 0, sent as the header [`SEQUENCE`].
    pub sequence: u64,
    /// Key of the record.
    pub key: Option<Vec<u8>>,
    /// Value of the record; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Validity of the record.
    pub label: Label,
}

/// Validity of a record by itself, regardless of earlier records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// Valid order with this idempotency key: to be admitted, or a duplicate, or a conflict.
    Order(String),
    /// Invalid order, to be refused for this reason.
    Refused(Reason),
}

/// Header with the sequence number of a record.
pub const SEQUENCE: &str = "sequence";

/// Source of the records.
#[derive(Clone, Debug)]
pub enum Orders {
    /// Endless random records from a seed.
    Generated(Mix),
    /// The user's own orders, one JSON document per line.
    Lines(Arc<Vec<Vec<u8>>>),
}

/// Seed and composition of random records.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Seed of all random choices.
    pub seed: u64,
    /// Permille of copies of an earlier order: half byte for byte, half with another note.
    pub duplicates_permille: u32,
    /// Permille of orders with an earlier order's key and another amount.
    pub conflicts_permille: u32,
    /// Permille of invalid orders.
    pub faulty_permille: u32,
    /// Form of the keys.
    pub keys: Keys,
}

/// Form of the generated keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Numbers that rise with the sequence, so that the keys of neighbouring orders are neighbours in a store.
    Rising,
    /// Random UUIDs, which are all over a store.
    Random,
}

/// Kind of the record with a sequence number.
enum Kind {
    New,
    DuplicateOf(u64),
    ConflictWith(u64),
    Faulty,
}

impl Mix {
    /// Creates a mix with 10 % duplicates, 1 % conflicts and 2 % invalid orders.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self {
            seed,
            duplicates_permille: 100,
            conflicts_permille: 10,
            faulty_permille: 20,
            keys: Keys::Rising,
        }
    }

    /// Creates a mix of new orders only, for measurements.
    #[must_use]
    pub fn all_new(seed: u64) -> Self {
        Self {
            duplicates_permille: 0,
            conflicts_permille: 0,
            faulty_permille: 0,
            ..Self::with_seed(seed)
        }
    }

    fn record(&self, sequence: u64) -> Sent {
        let mut random = self.random(sequence);
        let (key, value, label) = match self.kind(&mut random, sequence) {
            Kind::New => order(self.order_id(sequence), &mut random, Change::None),
            // Computed again from the earlier sequence number.
            Kind::DuplicateOf(earlier) if sequence.is_multiple_of(2) => self.repeat(earlier, Change::None),
            Kind::DuplicateOf(earlier) => self.repeat(earlier, Change::Note(sequence)),
            Kind::ConflictWith(earlier) => self.repeat(earlier, Change::Amount),
            Kind::Faulty => faulty::record(&self.order_id(sequence), &mut random),
        };
        Sent {
            sequence,
            key,
            value,
            label,
        }
    }

    fn repeat(&self, earlier: u64, change: Change) -> Parts {
        let mut random = self.random(earlier);
        // Consumes the same random numbers as `record` did before the order, so that the bytes are equal.
        let _kind = self.kind(&mut random, earlier);
        order(self.order_id(earlier), &mut random, change)
    }

    fn kind(&self, random: &mut ChaCha8Rng, sequence: u64) -> Kind {
        let conflicts_from = self.duplicates_permille;
        let faulty_from = conflicts_from + self.conflicts_permille;
        let new_from = faulty_from + self.faulty_permille;
        let draw = random.random_range(0..1000);
        if draw >= new_from {
            return Kind::New;
        }
        if draw >= faulty_from {
            return Kind::Faulty;
        }
        // Half of the repeats follow their order closely (a producer's retry), half at any distance.
        let reach = if random.random_bool(0.5) {
            sequence.min(100)
        } else {
            sequence
        };
        // Back to the nearest new order; a repeat of a repeat would need recursion.
        let mut earlier = sequence - random.random_range(0..=reach);
        while earlier > 0 && !self.is_new(earlier) {
            earlier -= 1;
        }
        match earlier {
            // Nothing earlier to repeat.
            _ if earlier == sequence || !self.is_new(earlier) => Kind::New,
            _ if draw >= conflicts_from => Kind::ConflictWith(earlier),
            _ => Kind::DuplicateOf(earlier),
        }
    }

    /// Returns true if the record was drawn as a new order. A repeat that found nothing to repeat is new too,
    /// but is never repeated itself.
    fn is_new(&self, sequence: u64) -> bool {
        let new_from = self.duplicates_permille + self.conflicts_permille + self.faulty_permille;
        self.random(sequence).random_range(0..1000) >= new_from
    }

    fn order_id(&self, sequence: u64) -> String {
        match self.keys {
            Keys::Rising => format!("order-{:04x}-{sequence:08}", self.seed & 0xffff),
            // Streams from the other end, so that the key has nothing in common with the rest of a record.
            Keys::Random => uuid(self.random(u64::MAX - sequence).random()),
        }
    }

    /// Returns the random numbers of one record, independent of all others.
    fn random(&self, sequence: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(sequence);
        random
    }
}

impl Orders {
    /// Reads the user's own orders.
    ///
    /// # Errors
    /// The file cannot be read or is empty.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("reading the orders in {}", path.display()))?;
        let lines: Vec<Vec<u8>> = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
            .filter(|line| !line.is_empty())
            .collect();
        ensure!(
            !lines.is_empty(),
            "{} holds no order; expected one JSON object per line",
            path.display()
        );
        Ok(Self::Lines(Arc::new(lines)))
    }

    /// Number of orders; none if endless.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Generated(_) => None,
            Self::Lines(lines) => Some(lines.len() as u64),
        }
    }

    /// Returns the record with this sequence number.
    ///
    /// # Panics
    /// The user's file has fewer lines.
    #[must_use]
    pub fn record(&self, sequence: u64) -> Sent {
        match self {
            Self::Generated(mix) => mix.record(sequence),
            Self::Lines(lines) => {
                let index = usize::try_from(sequence).expect("a line number fits");
                line(sequence, &lines[index])
            }
        }
    }
}

/// Returns the partition of a record: CRC32 of its key, as librdkafka's `consistent` partitioner, or round
/// robin without a key.
#[must_use]
pub fn partition_of(sent: &Sent, partitions: i32) -> Partition {
    let number = match &sent.key {
        Some(key) => u64::from(crc32fast::hash(key)),
        None => sent.sequence,
    };
    let partitions = u64::try_from(partitions).expect("a topic has partitions");
    Partition(i32::try_from(number % partitions).expect("less than the number of partitions"))
}

type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Label);

/// Difference of an order from the one that it repeats.
#[derive(Clone, Copy)]
enum Change {
    None,
    /// The note, as a producer that writes the time of sending.
    Note(u64),
    Amount,
}

/// Returns the text of a random UUID (version 4).
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An order of about 264 bytes; of about 300, with random keys.
fn order(order_id: String, random: &mut ChaCha8Rng, change: Change) -> Parts {
    let amount = random.random_range(100..10_000_000_u64) + u64::from(matches!(change, Change::Amount));
    let note = match change {
        Change::Note(number) => format!("sent again as {number}"),
        Change::None | Change::Amount => "leave it at the neighbour's, please".to_owned(),
    };
    let currency = ["EUR", "USD", "GBP", "JPY", "CHF"][random.random_range(0..5)];
    let customer = random.random_range(0..1_000_000);
    let sku = random.random_range(0..1_000_000_000_u64);
    // A price with a trailing zero and a number beyond f64: parsing and serializing them again would change
    // the bytes, which the outbox must keep.
    let value = format!(
        r#"{{"order_id":"{order_id}","amount":{amount},"currency":"{currency}","customer_id":"customer-{customer:06}","lines":[{{"sku":"{sku:012}","quantity":1,"price":{}.50}}],"placed_by":"web-shop","reference":9007199254740993{sku:09},"note":"{note}"}}"#,
        amount / 100
    );
    (
        Some(order_id.clone().into_bytes()),
        Some(value.into_bytes()),
        Label::Order(order_id),
    )
}

/// Labels a line of the user's own orders.
fn line(sequence: u64, bytes: &[u8]) -> Sent {
    // With the programs' own parser: there is no independent label for a line. Generated records check the
    // parser.
    let (key, label) = match Order::parse(bytes) {
        Ok(order) => {
            let key = order.order_id.into_owned();
            let label = match records::IdempotencyKey::new(&key) {
                Ok(_) => Label::Order(key.clone()),
                Err(_) => Label::Refused(Reason::KeyInvalid),
            };
            (Some(key.into_bytes()), label)
        }
        Err(error) => {
            let id = serde_json::from_slice::<serde_json::Value>(bytes)
                .ok()
                .and_then(|value| Some(value.get("order_id")?.as_str()?.to_owned()));
            (id.map(String::into_bytes), Label::Refused(error.reason))
        }
    };
    Sent {
        sequence,
        key,
        value: Some(bytes.to_vec()),
        label,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn one_seed_gives_equal_records() {
        let mix = Mix::with_seed(7);
        let forwards: Vec<_> = (0..2_000).map(|n| mix.record(n)).collect();
        for sent in forwards.iter().rev() {
            assert_eq!(mix.record(sent.sequence), *sent);
        }
        let other = Mix::with_seed(8);
        assert_ne!(other.record(3).value, forwards[3].value);
    }

    #[test]
    fn mix_matches_its_rates_and_labels() {
        let mix = Mix::with_seed(1);
        let mut first = HashMap::new();
        let (mut duplicates, mut resent, mut conflicts, mut reasons) = (0, 0, 0, HashSet::new());
        for sequence in 0..20_000 {
            let sent = mix.record(sequence);
            match sent.label {
                Label::Order(key) => {
                    let value = sent.value.expect("an order has a value");
                    let order = Order::parse(&value).expect("an order");
                    assert_eq!(order.order_id, key);
                    assert_eq!(sent.key.as_deref(), Some(key.as_bytes()));
                    assert!((230..300).contains(&value.len()), "{} bytes", value.len());
                    match first.get(&key) {
                        None => drop(first.insert(key, value)),
                        Some(earlier) if *earlier == value => duplicates += 1,
                        Some(earlier) if Order::parse(earlier) == Ok(order) => resent += 1,
                        Some(_) => conflicts += 1,
                    }
                }
                Label::Refused(reason) => drop(reasons.insert(reason)),
            }
        }
        assert!((900..1_100).contains(&duplicates), "{duplicates} duplicates");
        assert!((900..1_100).contains(&resent), "{resent} with another note");
        assert!((150..250).contains(&conflicts), "{conflicts} conflicts");
        assert_eq!(reasons, faulty::REASONS.into_iter().collect());
    }

    #[test]
    fn random_keys_are_distinct_uuids() {
        let mix = Mix {
            keys: Keys::Random,
            ..Mix::all_new(1)
        };
        let keys: HashSet<String> = (0..1_000).map(|n| mix.order_id(n)).collect();
        assert_eq!(keys.len(), 1_000);
        let is_uuid = |key: &String| {
            let parts: Vec<&str> = key.split('-').collect();
            parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
                && parts[2].starts_with('4')
                && parts[3].starts_with(['8', '9', 'a', 'b'])
        };
        assert!(keys.iter().all(is_uuid), "{keys:?}");
        assert_eq!(mix.record(7).key, mix.record(7).key);
    }

    #[test]
    fn a_line_keeps_its_bytes_and_gets_a_label() {
        let sent = line(
            0,
            br#"{"order_id":"a","amount":0,"currency":"EUR","customer_id":"c"}"#,
        );
        assert_eq!(sent.key.as_deref(), Some(b"a".as_slice()));
        assert_eq!(sent.label, Label::Refused(Reason::NotAnOrder));
        assert_eq!(line(1, b"hello").label, Label::Refused(Reason::NotJson));
    }
}
