//! What is sent to the orders topic, and what each record is: an order, or no order for a known reason.
//!
//! A generated record is a pure function of the seed and its number: two runs of one seed send the same,
//! whatever their pace, and nothing has to be remembered to say later what record 17,342 was.

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

/// One record of the orders topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number among all that is sent, from 0; it goes with the record as the header [`SEQUENCE`].
    pub sequence: u64,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// What the record is, taken alone.
    pub label: Label,
}

/// What a record is, before it is known what came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// A valid order with this idempotency key: admitted, or a duplicate, or a conflict.
    Order(String),
    /// No valid order.
    Refused(Reason),
}

/// The header that carries a record's number.
pub const SEQUENCE: &str = "sequence";

/// Where the records come from.
#[derive(Clone, Debug)]
pub enum Orders {
    /// Made up from a seed, without an end.
    Generated(Mix),
    /// The user's own, one JSON document in each line.
    Lines(Arc<Vec<Vec<u8>>>),
}

/// What is made up, and how much of it is no fresh order, in parts of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// The seed of everything.
    pub seed: u64,
    /// Copies of an earlier order, byte for byte.
    pub duplicates_permille: u32,
    /// An earlier order's key with another amount.
    pub conflicts_permille: u32,
    /// What is no valid order.
    pub faulty_permille: u32,
}

/// What a number stands for.
enum Kind {
    Fresh,
    DuplicateOf(u64),
    ConflictWith(u64),
    Faulty,
}

impl Mix {
    /// One in ten a duplicate, one in a hundred a conflict, two in a hundred no order.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self {
            seed,
            duplicates_permille: 100,
            conflicts_permille: 10,
            faulty_permille: 20,
        }
    }

    /// Nothing but fresh orders: for measuring.
    #[must_use]
    pub fn all_fresh(seed: u64) -> Self {
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
            Kind::Fresh => order(self.order_id(sequence), &mut random, 0),
            // The earlier order is made up again from its own number.
            Kind::DuplicateOf(earlier) => self.again(earlier, 0),
            Kind::ConflictWith(earlier) => self.again(earlier, 1),
            Kind::Faulty => faulty::record(&self.order_id(sequence), &mut random),
        };
        Sent {
            sequence,
            key,
            value,
            label,
        }
    }

    fn again(&self, earlier: u64, amount_more: u64) -> Parts {
        let mut random = self.random(earlier);
        // Draws what `record` drew before it came to the order, so that the same bytes come out.
        let _fresh = self.kind(&mut random, earlier);
        order(self.order_id(earlier), &mut random, amount_more)
    }

    fn kind(&self, random: &mut ChaCha8Rng, sequence: u64) -> Kind {
        let conflicts_from = self.duplicates_permille;
        let faulty_from = conflicts_from + self.conflicts_permille;
        let fresh_from = faulty_from + self.faulty_permille;
        let draw = random.random_range(0..1000);
        if draw >= fresh_from {
            return Kind::Fresh;
        }
        if draw >= faulty_from {
            return Kind::Faulty;
        }
        // Half of the repeats come soon after their order (a producer's retry), half at any distance.
        let reach = if random.random_bool(0.5) {
            sequence.min(100)
        } else {
            sequence
        };
        let mut earlier = sequence - random.random_range(0..=reach);
        while earlier > 0 && !self.is_fresh(earlier) {
            earlier -= 1;
        }
        match earlier {
            _ if earlier == sequence || !self.is_fresh(earlier) => Kind::Fresh,
            _ if draw >= conflicts_from => Kind::ConflictWith(earlier),
            _ => Kind::DuplicateOf(earlier),
        }
    }

    /// Whether that number drew a fresh order for sure. A repeat that found nothing to repeat is fresh too,
    /// but is not repeated itself; so this needs no recursion.
    fn is_fresh(&self, sequence: u64) -> bool {
        let fresh_from = self.duplicates_permille + self.conflicts_permille + self.faulty_permille;
        self.random(sequence).random_range(0..1000) >= fresh_from
    }

    fn order_id(&self, sequence: u64) -> String {
        format!("order-{:04x}-{sequence:08}", self.seed & 0xffff)
    }

    /// Each record has its own stream of random numbers.
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
    /// The file cannot be read or holds no line.
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
            "{} holds no order; one JSON object is expected in each line",
            path.display()
        );
        Ok(Self::Lines(Arc::new(lines)))
    }

    /// How many there are, unless they have no end.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Generated(_) => None,
            Self::Lines(lines) => Some(lines.len() as u64),
        }
    }

    /// The record with this number.
    ///
    /// # Panics
    /// There are that few lines.
    #[must_use]
    pub fn record(&self, sequence: u64) -> Sent {
        match self {
            Self::Generated(mix) => mix.record(sequence),
            Self::Lines(lines) => {
                let index = usize::try_from(sequence).expect("a line's number fits");
                line(sequence, &lines[index])
            }
        }
    }
}

/// The partition that librdkafka's partitioner `consistent` gives a key; records without one take turns.
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

/// An order of about 264 bytes.
fn order(order_id: String, random: &mut ChaCha8Rng, amount_more: u64) -> Parts {
    let amount = random.random_range(100..10_000_000_u64) + amount_more;
    let currency = ["EUR", "USD", "GBP", "JPY", "CHF"][random.random_range(0..5)];
    let customer = random.random_range(0..1_000_000);
    let sku = random.random_range(0..1_000_000_000_u64);
    // A price with a trailing zero and a number that no f64 holds: whoever parses and writes them again
    // changes the bytes.
    let value = format!(
        r#"{{"order_id":"{order_id}","amount":{amount},"currency":"{currency}","customer_id":"customer-{customer:06}","lines":[{{"sku":"{sku:012}","quantity":1,"price":{}.50}}],"placed_by":"web-shop","reference":9007199254740993{sku:09},"note":"leave it at the neighbour's, please"}}"#,
        amount / 100
    );
    (
        Some(order_id.clone().into_bytes()),
        Some(value.into_bytes()),
        Label::Order(order_id),
    )
}

/// The user's own line. What is right for it is read with the type that the programs use: their own
/// judgement of generated records is what the tests check.
fn line(sequence: u64, bytes: &[u8]) -> Sent {
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
    fn two_runs_of_one_seed_send_the_same() {
        let mix = Mix::with_seed(7);
        let forwards: Vec<_> = (0..2_000).map(|n| mix.record(n)).collect();
        for sent in forwards.iter().rev() {
            assert_eq!(mix.record(sent.sequence), *sent);
        }
        let other = Mix::with_seed(8);
        assert_ne!(other.record(3).value, forwards[3].value);
    }

    #[test]
    fn the_mix_holds_and_what_is_labelled_an_order_is_one() {
        let mix = Mix::with_seed(1);
        let mut first = HashMap::new();
        let (mut duplicates, mut conflicts, mut reasons) = (0, 0, HashSet::new());
        for sequence in 0..20_000 {
            let sent = mix.record(sequence);
            match sent.label {
                Label::Order(key) => {
                    let value = sent.value.expect("an order has a value");
                    let order = Order::parse(&value).expect("an order");
                    assert_eq!(order.order_id, key);
                    assert_eq!(sent.key.as_deref(), Some(key.as_bytes()));
                    assert!((250..300).contains(&value.len()), "{} bytes", value.len());
                    match first.get(&key) {
                        None => drop(first.insert(key, value)),
                        Some(earlier) if *earlier == value => duplicates += 1,
                        Some(_) => conflicts += 1,
                    }
                }
                Label::Refused(reason) => drop(reasons.insert(reason)),
            }
        }
        assert!((1_800..2_200).contains(&duplicates), "{duplicates} duplicates");
        assert!((150..250).contains(&conflicts), "{conflicts} conflicts");
        assert_eq!(reasons, faulty::REASONS.into_iter().collect());
    }

    #[test]
    fn a_line_is_taken_as_it_is() {
        let sent = line(
            0,
            br#"{"order_id":"a","amount":0,"currency":"EUR","customer_id":"c"}"#,
        );
        assert_eq!(sent.key.as_deref(), Some(b"a".as_slice()));
        assert_eq!(sent.label, Label::Refused(Reason::NotAnOrder));
        assert_eq!(line(1, b"hello").label, Label::Refused(Reason::NotJson));
    }
}
