//! Invalid orders, each with the reason for which the validator must refuse it.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use records::dead_letter::Reason;

use super::{Label, Parts};

/// All reasons that [`record`] draws from.
#[cfg(test)]
pub(super) const REASONS: [Reason; 5] = [
    Reason::NotJson,
    Reason::NotAnOrder,
    Reason::UnknownCurrency,
    Reason::KeyInvalid,
    Reason::KeyMismatch,
];

/// Draws an invalid record.
pub(super) fn record(order_id: &str, random: &mut ChaCha8Rng) -> Parts {
    let (key, value, reason) = draw(order_id, random.random_range(0..13));
    (
        Some(key.into_bytes()),
        value.map(String::into_bytes),
        Label::Refused(reason),
    )
}

fn draw(id: &str, number: u32) -> (String, Option<String>, Reason) {
    // One fault each: with two, the expected reason would depend on the order of the validator's checks.
    let with = |amount: &str, currency: &str| {
        Some(format!(
            r#"{{"order_id":"{id}","amount":{amount},"currency":"{currency}","customer_id":"customer-1"}}"#
        ))
    };
    let key = id.to_owned();
    match number {
        0 => (key, None, Reason::NotJson),
        1 => (key, Some(String::new()), Reason::NotJson),
        2 => (key, Some("pay 3 euro to the milkman".into()), Reason::NotJson),
        3 => (
            key,
            Some(format!(r#"{{"order_id":"{id}","amount":12"#)),
            Reason::NotJson,
        ),
        4 => (
            key,
            Some(format!(r#"{{"order_id":"{id}","currency":"EUR"}}"#)),
            Reason::NotAnOrder,
        ),
        // Amounts that are zero, not in minor units, or not a number.
        5 => (key, with("0", "EUR"), Reason::NotAnOrder),
        6 => (key, with("12.50", "EUR"), Reason::NotAnOrder),
        7 => (key, with("\"1250\"", "EUR"), Reason::NotAnOrder),
        8 => (key, Some(format!("[{id:?}]")), Reason::NotAnOrder),
        9 => (key, with("1250", "EURO"), Reason::UnknownCurrency),
        10 => (key, with("1250", "eur"), Reason::UnknownCurrency),
        11 => {
            // Beyond the maximum length of an idempotency key.
            let long = format!("{id}-{}", "x".repeat(300));
            let value =
                format!(r#"{{"order_id":"{long}","amount":1,"currency":"EUR","customer_id":"customer-1"}}"#);
            (long, Some(value), Reason::KeyInvalid)
        }
        _ => (
            format!("{id}-of-another"),
            with("1250", "EUR"),
            Reason::KeyMismatch,
        ),
    }
}
