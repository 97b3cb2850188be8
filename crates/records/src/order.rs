//! Order: the value of a record on `payment-orders`.
//!
//! Written by the users' producers, read by the validator. The format is the users' and has no version of ours:
//! four fields are checked, all others pass through unchanged.

use std::borrow::Cow;
use std::fmt;

use iso_currency::Currency;
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dead_letter::Reason;
use crate::unique_names::{Check, Names, Text};

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
struct Fields<'a> {
    order_id: Cow<'a, str>,
    amount: u64,
    currency: Cow<'a, str>,
    customer_id: Cow<'a, str>,
}

impl<'a> Order<'a> {
    /// Parses an order.
    ///
    /// # Errors
    /// Returns the field that is missing or wrong, and its position in the text.
    pub fn parse(value: &'a [u8]) -> Result<Self, InvalidOrder> {
        Self::parse_fields(value, ReadFields { check: None })
    }

    /// Parses an order, and returns the string, or the digits of the integer, at a JSON pointer (RFC 6901) in
    /// it, if there is one. Refuses an order in which any object has two members of one name.
    ///
    /// # Errors
    /// As [`Self::parse`], or the name that occurs twice.
    pub fn parse_unique(
        value: &'a [u8],
        pointer: Option<&str>,
    ) -> Result<(Self, Option<Cow<'a, str>>), InvalidOrder> {
        let mut found = None;
        let check = Check {
            pointer,
            found: &mut found,
            depth: 0,
        };
        let order = Self::parse_fields(value, ReadFields { check: Some(check) })?;
        Ok((order, found))
    }

    fn parse_fields(value: &'a [u8], read: ReadFields<'_, '_, 'a>) -> Result<Self, InvalidOrder> {
        let text = std::str::from_utf8(value)
            .map_err(|error| refuse(Reason::NotJson, format!("the value is not UTF-8: {error}")))?;
        // serde reads a JSON array of the right length as the fields in their order.
        match text.trim_ascii_start().chars().next() {
            Some('{') => {}
            Some(_) => return Err(refuse_text(text, "the value is not a JSON object")),
            None => return Err(refuse(Reason::NotJson, "the value is empty".into())),
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json
            .deserialize_map(read)
            .and_then(|fields| json.end().map(|()| fields))
            .map_err(|error| refuse_text(text, &error.to_string()))?;
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

/// Returns the order id of a pending call: the string, or the digits of the integer, at `/order_id`. `None` if
/// the value is another kind of text or JSON, or has none that names an order.
///
/// # Errors
/// The member `order_id` occurs twice.
// Checks nothing else: the validator has admitted the order, in whatever form its settings ask for.
pub fn order_id(value: &[u8]) -> Result<Option<Cow<'_, str>>, InvalidOrder> {
    let found = std::str::from_utf8(value).ok().and_then(|text| {
        let mut json = serde_json::Deserializer::from_str(text);
        let found = json.deserialize_map(FindOrderId).ok()?;
        json.end().ok().map(|()| found)
    });
    let (raw, is_twice) = found.unwrap_or_default();
    // Of two values this program could take one and the API the other.
    if is_twice {
        return Err(refuse(
            Reason::NotAnOrder,
            "order_id occurs twice in the order".into(),
        ));
    }
    Ok(raw.and_then(|raw| match raw.get() {
        text if text.starts_with('"') => serde_json::from_str::<Text<'_>>(text)
            .ok()
            .map(|Text(text)| text)
            .filter(|text| !text.is_empty()),
        // From the text: a number beyond 64 bits would be rounded.
        number => {
            let digits = number.strip_prefix('-').unwrap_or(number);
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then_some(Cow::Borrowed(number))
        }
    }))
}

/// Finds the member `order_id`, and reports whether it occurs twice.
struct FindOrderId;

impl<'de> Visitor<'de> for FindOrderId {
    type Value = (Option<&'de RawValue>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut is_twice) = (None, false);
        while let Some(Text(name)) = members.next_key()? {
            match &*name {
                "order_id" => is_twice |= found.replace(members.next_value()?).is_some(),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok((found, is_twice))
    }
}

/// Reads the fields of an order, and checks all others if `check` says so.
struct ReadFields<'p, 'f, 'de> {
    check: Option<Check<'p, 'f, 'de>>,
}

impl<'de> Visitor<'de> for ReadFields<'_, '_, 'de> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an order")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Fields<'de>, A::Error> {
        let (mut order_id, mut amount, mut currency, mut customer_id) = (None, None, None, None);
        let mut names = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            // Refused for orders that are on the outbox, too: of two values this program could take one and the
            // API the other.
            match &*name {
                "order_id" => read(&mut order_id, "order_id", members.next_value::<Text<'de>>()?.0)?,
                "amount" => read(&mut amount, "amount", members.next_value()?)?,
                "currency" => read(&mut currency, "currency", members.next_value::<Text<'de>>()?.0)?,
                "customer_id" => read(
                    &mut customer_id,
                    "customer_id",
                    members.next_value::<Text<'de>>()?.0,
                )?,
                _ => match &mut self.check {
                    Some(check) => {
                        members.next_value_seed(check.member(&name))?;
                        names.add(name)?;
                    }
                    None => drop(members.next_value::<IgnoredAny>()?),
                },
            }
        }
        let fields = Fields {
            order_id: order_id.ok_or_else(|| A::Error::missing_field("order_id"))?,
            amount: amount.ok_or_else(|| A::Error::missing_field("amount"))?,
            currency: currency.ok_or_else(|| A::Error::missing_field("currency"))?,
            customer_id: customer_id.ok_or_else(|| A::Error::missing_field("customer_id"))?,
        };
        if let Some(check) = self.check {
            match check.pointer {
                Some("/order_id") => *check.found = Some(fields.order_id.clone()),
                Some("/amount") => *check.found = Some(fields.amount.to_string().into()),
                Some("/currency") => *check.found = Some(fields.currency.clone()),
                Some("/customer_id") => *check.found = Some(fields.customer_id.clone()),
                Some(_) | None => {}
            }
        }
        Ok(fields)
    }
}

/// Sets a field.
///
/// # Errors
/// The field occurs twice.
fn read<T, E: Error>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
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

    fn found(value: &str, pointer: &str) -> Result<Option<String>, String> {
        Order::parse_unique(value.as_bytes(), Some(pointer))
            .map(|(_, found)| found.map(Cow::into_owned))
            .map_err(|error| format!("{}: {}", error.reason, error.detail))
    }

    fn with(member: &str) -> String {
        format!(r#"{{"order_id":"o-1","amount":150,"currency":"EUR","customer_id":"c-1",{member}}}"#)
    }

    #[test]
    fn value_at_a_pointer_is_found() {
        let order = with(r#""a/b":{"~":[true,{"n":-7,"f":1.5,"t":"x\u0041"}]},"":{"":"e"}"#);
        for (pointer, expected) in [
            ("/order_id", Some("o-1")),
            ("/amount", Some("150")),
            ("/currency", Some("EUR")),
            ("/customer_id", Some("c-1")),
            ("/a~1b/~0/1/n", Some("-7")),
            ("/a~1b/~0/1/t", Some("xA")),
            ("/a~1b/~0/1/f", None),
            ("/a~1b/~0/01/n", None),
            ("/a~1b/~0/0", None),
            ("/a~1b/~0", None),
            ("//", Some("e")),
            ("/", None),
            ("", None),
            ("/order_id/x", None),
            ("/other", None),
        ] {
            assert_eq!(
                found(&order, pointer),
                Ok(expected.map(str::to_owned)),
                "{pointer:?}"
            );
            // As serde_json finds it, which admitted the orders of earlier versions.
            let value: serde_json::Value = serde_json::from_str(&order).expect("JSON");
            let theirs = value.pointer(pointer).and_then(|value| match value {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) if !number.is_f64() => Some(number.to_string()),
                _ => None,
            });
            assert_eq!(theirs.as_deref(), expected, "{pointer:?}");
        }
    }

    #[test]
    fn name_that_occurs_twice_is_refused() {
        for member in [
            r#""ref":{"n":"1"},"ref":{"n":"2"}"#,
            r#""ref":{"n":"1","n":"2"}"#,
            r#""ref":{"n":"1","\u006e":"2"}"#,
            r#""ref":{"n":"1"},"other":[[{"x":1,"y":2,"x":3}]]"#,
        ] {
            let error = found(&with(member), "/ref/n").expect_err(member);
            assert!(error.contains("not-an-order"), "{error}");
            assert!(error.contains("occurs twice in one object"), "{error}");
            assert!(
                Order::parse(with(member).as_bytes()).is_ok(),
                "on the outbox already: {member}"
            );
        }
        let many: String = (0..40).map(|number| format!(r#""n{number}":0,"#)).collect();
        assert_eq!(
            found(&with(&format!(r#""ref":{{{many}"n":"k"}}"#)), "/ref/n"),
            Ok(Some("k".into()))
        );
        for twice in ["n3", "n30"] {
            let error = found(&with(&format!(r#""ref":{{{many}"{twice}":1}}"#)), "/ref/n");
            assert!(error.is_err_and(|error| error.contains(twice)));
        }
        assert_eq!(
            found(&with(r#""ref":{"n":"1"},"other":{"n":"2"}"#), "/ref/n"),
            Ok(Some("1".into()))
        );
    }

    #[test]
    fn order_id_is_found_in_any_form_of_order() {
        let id = |value: &[u8]| order_id(value).map(|id| id.map(Cow::into_owned));
        for (value, expected) in [
            (r#"{"order_id":"o-1","amount":"12.50"}"#, Some("o-1")),
            (r#"{"order_id":"o\u002d1"}"#, Some("o-1")),
            (r#"{"a":[{"order_id":"x"}],"order_id":-7}"#, Some("-7")),
            (
                r#"{"order_id":18446744073709551616}"#,
                Some("18446744073709551616"),
            ),
            (r#"{"order_id":1.0}"#, None),
            (r#"{"order_id":1e3}"#, None),
            (r#"{"order_id":""}"#, None),
            (r#"{"order_id":"\ud800"}"#, None),
            (r#"{"order_id":null}"#, None),
            (r#"{"order_id":{"order_id":"x"}}"#, None),
            (r#"{"order_id":"o-1"} x"#, None),
            (r#"{"order_id":"o-1""#, None),
            (r#"["order_id","o-1"]"#, None),
            ("12.50 EUR to C-7", None),
            ("", None),
        ] {
            assert_eq!(id(value.as_bytes()), Ok(expected.map(str::to_owned)), "{value}");
        }
        assert_eq!(id(b"{\"order_id\":\"\xff\"}"), Ok(None));
        assert!(id(br#"{"order_id":"a","order_\u0069d":"b"}"#).is_err());
        let deep = format!(
            r#"{{"deep":{}{},"order_id":"o-1"}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        assert_eq!(id(deep.as_bytes()), Ok(Some("o-1".into())));
    }

    #[test]
    fn deep_value_is_no_error() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let order = with(&format!(r#""ref":{{"n":"1"}},"deep":{deep}"#));
        assert_eq!(found(&order, "/ref/n"), Ok(Some("1".into())));
    }
}
