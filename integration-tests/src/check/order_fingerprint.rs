//! Fingerprint of an order under the validator's default setting, computed a second time: from the order's JSON as
//! serde_json reads it, not with the programs' own parser and encoding.

use records::Fingerprint;
use serde_json::Value;

/// Returns the fingerprint of an order's amount, currency and customer; none if a field is missing.
#[must_use]
pub fn order_fingerprint(value: &[u8]) -> Option<Fingerprint> {
    let order: Value = serde_json::from_slice(value).ok()?;
    let (mut amount, mut exponent) = (order.get("amount")?.as_u64()?, 0_i64);
    while amount != 0 && amount.is_multiple_of(10) {
        (amount, exponent) = (amount / 10, exponent + 1);
    }
    let mut bytes = vec![1, 4, 0];
    bytes.extend(exponent.to_be_bytes());
    push(&mut bytes, &amount.to_string());
    for name in ["currency", "customer_id"] {
        bytes.push(5);
        push(&mut bytes, order.get(name)?.as_str()?);
    }
    Some(Fingerprint::of(&bytes))
}

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_be_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use records::{Order, Selection};

    use super::*;

    #[test]
    fn both_implementations_agree() {
        for (amount, customer) in [("1", "c"), ("150", "\\u00e9\\\""), ("18446744073709551615", "ü")] {
            let value = format!(
                r#"{{"customer_id":"{customer}","at":1.50,"order_id":"o","currency":"JPY","amount":{amount}}}"#
            );
            let order = Order::parse(value.as_bytes()).expect("an order");
            assert_eq!(
                order_fingerprint(value.as_bytes()),
                Some(Selection::Order.fingerprint(Some(&order), value.as_bytes()).1),
                "{value}"
            );
        }
        assert_eq!(order_fingerprint(b"{}"), None);
    }
}
