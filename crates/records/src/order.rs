//! Order: the value of a record on `payment-orders`.
//!
//! Written by the users' producers, read by the validator. The format is the users' and has no version of ours:
//! four fields are checked, all others pass through unchanged.

use std::borrow::Cow;

use iso_currency::Currency;
use serde::Deserialize;

use crate::dead_letter::Reason;

/// Fields of an order that the pipeline uses. The outbox gets the order's bytes, with all other fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// Order id.
    pub order_id: Cow<'a, str>,
    /// Amount to pay, in minor units of the currency.
    pub amount: u64,
    /// Currency of ISO 4217.
    pub currency: Currency,
    /// Id of the paying customer.
    pub customer_id: Cow<'a, str>,
}

/// Bytes that are not an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct InvalidOrder {
    /// Reason, for headers and metrics.
    pub reason: Reason,
    /// Explanation for an operator.
    pub detail: String,
}

/// Fields of the JSON.
// serde's derive refuses a field that occurs twice. That matters: of two values the validator could take one
// and the API the other.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    order_id: Cow<'a, str>,
    amount: u64,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(borrow)]
    customer_id: Cow<'a, str>,
}

impl<'a> Order<'a> {
    /// Parses an order.
    ///
    /// # Errors
    /// Returns the field that is missing or wrong, and its position in the text.
    pub fn parse(value: &'a [u8]) -> Result<Self, InvalidOrder> {
        let text = std::str::from_utf8(value)
            .map_err(|error| refuse(Reason::NotJson, format!("the value is not UTF-8: {error}")))?;
        // serde reads a JSON array of the right length as the fields in their order.
        match text.trim_ascii_start().chars().next() {
            Some('{') => {}
            Some(_) => return Err(refuse_text(text, "the value is not a JSON object")),
            None => return Err(refuse(Reason::NotJson, "the value is empty".into())),
        }
        let fields: Fields<'a> =
            serde_json::from_str(text).map_err(|error| refuse_text(text, &error.to_string()))?;
        if fields.order_id.is_empty() || fields.customer_id.is_empty() {
            return Err(refuse(
                Reason::NotAnOrder,
                "order_id or customer_id is empty".into(),
            ));
        }
        // A payment of nothing is a mistake of its producer. serde has refused floats and negative numbers.
        if fields.amount == 0 {
            return Err(refuse(
                Reason::NotAnOrder,
                "the amount is 0; it must be 1 or more minor units".into(),
            ));
        }
        let currency = Currency::from_code(&fields.currency).ok_or_else(|| {
            // The text comes from a producer and may be long.
            let shown: String = fields.currency.chars().take(16).collect();
            refuse(
                Reason::UnknownCurrency,
                format!("{shown:?} is not a currency of ISO 4217"),
            )
        })?;
        Ok(Self {
            order_id: fields.order_id,
            amount: fields.amount,
            currency,
            customer_id: fields.customer_id,
        })
    }
}

/// Distinguishes JSON that is not an order from text that is not JSON.
// On the error path only, so that valid orders are parsed once.
fn refuse_text(text: &str, detail: &str) -> InvalidOrder {
    let reason = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Reason::NotAnOrder,
        Err(_) => Reason::NotJson,
    };
    refuse(reason, detail.to_owned())
}

fn refuse(reason: Reason, detail: String) -> InvalidOrder {
    InvalidOrder { reason, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: Result<u64, Reason>) {
        let outcome = Order::parse(value.as_bytes());
        assert_eq!(
            outcome.map(|order| order.amount).map_err(|error| error.reason),
            expected,
            "{value}"
        );
    }

    #[test]
    fn valid_orders_are_parsed_and_others_refused() {
        let with = |amount: &str, currency: &str| {
            format!(
                r#"{{"order_id":"o-1","amount":{amount},"currency":"{currency}","customer_id":"c-1","note":[1.50,{{}}]}}"#
            )
        };
        check(&with("1", "EUR"), Ok(1));
        check(
            &format!("\n {}", with("9007199254740993", "JPY")),
            Ok(9_007_199_254_740_993),
        );
        check(&with("0", "EUR"), Err(Reason::NotAnOrder));
        check(&with("-1", "EUR"), Err(Reason::NotAnOrder));
        check(&with("1.0", "EUR"), Err(Reason::NotAnOrder));
        check(&with("1e2", "EUR"), Err(Reason::NotAnOrder));
        check(&with("\"1\"", "EUR"), Err(Reason::NotAnOrder));
        check(&with("18446744073709551616", "EUR"), Err(Reason::NotAnOrder));
        check(&with("NaN", "EUR"), Err(Reason::NotJson));
        check(&with("1", "EURO"), Err(Reason::UnknownCurrency));
        check(&with("1", "eur"), Err(Reason::UnknownCurrency));
        check("", Err(Reason::NotJson));
        check("pay 3 euro", Err(Reason::NotJson));
        check("[\"o-1\",1,\"EUR\",\"c-1\"]", Err(Reason::NotAnOrder));
        check("null", Err(Reason::NotAnOrder));
        check("{}", Err(Reason::NotAnOrder));
        check(&"[".repeat(100_000), Err(Reason::NotJson));
        check(&format!("{{\"a\":{}", "[".repeat(100_000)), Err(Reason::NotJson));
        check(&format!("{} {{}}", with("1", "EUR")), Err(Reason::NotJson));
        check(
            r#"{"order_id":"a","order_id":"b","amount":1,"currency":"EUR","customer_id":"c"}"#,
            Err(Reason::NotAnOrder),
        );
        check(
            r#"{"order_id":"","amount":1,"currency":"EUR","customer_id":"c"}"#,
            Err(Reason::NotAnOrder),
        );
        assert_eq!(
            Order::parse(b"{\"order_id\":\"\xff\"}")
                .expect_err("not UTF-8")
                .reason,
            Reason::NotJson
        );
    }
}
