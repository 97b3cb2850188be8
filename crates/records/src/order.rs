//! The order, as it arrives: bytes become an [`Order`] here, and inside there are no half-valid orders.

use std::borrow::Cow;

use iso_currency::Currency;
use serde::Deserialize;

use crate::dead_letter::Reason;

/// What the pipeline knows of an order. Whatever else its bytes hold is the user's, and reaches the
/// outbox with them unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// The order's id.
    pub order_id: Cow<'a, str>,
    /// How much is to be paid, in the currency's minor units.
    pub amount: u64,
    /// The currency, of ISO 4217.
    pub currency: Currency,
    /// Who pays.
    pub customer_id: Cow<'a, str>,
}

/// Why bytes are no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct NotAnOrder {
    /// The reason, for the header and the metric.
    pub reason: Reason,
    /// A sentence for a person.
    pub detail: String,
}

/// The fields as they stand in the JSON. A field that stands twice is refused: two readers might each
/// take another one, and one of them is the API.
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
    /// Reads an order.
    ///
    /// # Errors
    /// Says what is missing or wrong, and where.
    pub fn parse(value: &'a [u8]) -> Result<Self, NotAnOrder> {
        let text = std::str::from_utf8(value)
            .map_err(|error| refuse(Reason::NotJson, format!("the value is not UTF-8: {error}")))?;
        // A JSON array of the right length would be read as the fields in their order.
        match text.trim_ascii_start().chars().next() {
            Some('{') => {}
            Some(_) => return Err(refuse_text(text, "the value is no JSON object")),
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
        if fields.amount == 0 {
            return Err(refuse(
                Reason::NotAnOrder,
                "the amount is 0; it must be 1 or more minor units".into(),
            ));
        }
        let currency = Currency::from_code(&fields.currency).ok_or_else(|| {
            // The text is the producer's and may be long.
            let shown: String = fields.currency.chars().take(16).collect();
            refuse(
                Reason::UnknownCurrency,
                format!("{shown:?} is no currency of ISO 4217"),
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

/// Off the fast path: is the text no JSON at all, or JSON that is no order?
fn refuse_text(text: &str, detail: &str) -> NotAnOrder {
    let reason = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Reason::NotAnOrder,
        Err(_) => Reason::NotJson,
    };
    refuse(reason, detail.to_owned())
}

fn refuse(reason: Reason, detail: String) -> NotAnOrder {
    NotAnOrder { reason, detail }
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
    fn what_is_an_order() {
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
                .expect_err("no UTF-8")
                .reason,
            Reason::NotJson
        );
    }
}
