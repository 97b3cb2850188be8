//! Order: the value of a record on `payment-orders`.
//!
//! Written by the users' producers, read by the validator. The format is the users' and has no version of ours: of
//! an [`Order`] four fields are checked, and all others pass through unchanged. Orders of other forms have a key
//! at most.

use std::borrow::Cow;
use std::fmt;

use iso_currency::Currency;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dead_letter::Reason;
use crate::unique_names::{Check, Names, Text};

mod amount;
#[cfg(test)]
mod fuzz;
mod scan;
mod tree;

pub use amount::{Amount, AmountForm, InvalidAmount};
pub use tree::{key_in_tree, parse_tree};

/// Fields of an order that the pipeline uses. The outbox gets the order's bytes, with all other fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// Order id.
    pub order_id: Cow<'a, str>,
    /// Amount to pay.
    pub amount: Amount,
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
#[derive(Debug, PartialEq, Eq)]
struct Fields<'a> {
    order_id: Cow<'a, str>,
    amount: Written<'a>,
    currency: Cow<'a, str>,
    customer_id: Cow<'a, str>,
}

/// Amount as it is written in the JSON.
#[derive(Debug, PartialEq, Eq)]
enum Written<'a> {
    MinorUnits(u64),
    Decimal(&'a str),
}

impl<'a> Written<'a> {
    fn read<A: MapAccess<'a>>(form: AmountForm, members: &mut A) -> Result<Self, A::Error> {
        Ok(match form {
            AmountForm::MinorUnits => Self::MinorUnits(members.next_value()?),
            AmountForm::Decimal => Self::Decimal(members.next_value::<&RawValue>()?.get()),
        })
    }

    fn value(&self, currency: Currency) -> Result<Amount, InvalidAmount> {
        match self {
            Self::MinorUnits(units) => Amount::of_minor_units(*units),
            Self::Decimal(json) => Amount::of_decimal(json, currency),
        }
    }

    /// Returns the text of the string, or the digits of the integer.
    fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::MinorUnits(units) => Some(units.to_string().into()),
            Self::Decimal(json) => string_or_integer(json),
        }
    }
}

impl<'a> Order<'a> {
    /// Parses an order with an amount in minor units.
    ///
    /// # Errors
    /// As [`Self::parse_unique`].
    pub fn parse(value: &'a [u8]) -> Result<Self, InvalidOrder> {
        Self::parse_unique(value, AmountForm::MinorUnits, None).map(|(order, _)| order)
    }

    /// Parses an order, and returns the string, or the digits of the integer, at a JSON pointer (RFC 6901) in
    /// it, if there is one. Refuses an order in which any object has two members of one name.
    ///
    /// # Errors
    /// Returns the field that is missing or wrong, or the name that occurs twice, and its position in the text.
    pub fn parse_unique(
        value: &'a [u8],
        amount: AmountForm,
        pointer: Option<&str>,
    ) -> Result<(Self, Option<Cow<'a, str>>), InvalidOrder> {
        let text = text(value)?;
        let is_of_field = pointer.is_none_or(|pointer| POINTERS.contains(&pointer));
        let scanned = is_of_field.then(|| scan::fields(text, amount)).flatten();
        let (fields, found) = match scanned {
            Some(fields) => {
                let found = pointer.and_then(|pointer| fields.at(pointer));
                (fields, found)
            }
            None => parse_fields(text, amount, pointer)?,
        };
        if fields.order_id.is_empty() || fields.customer_id.is_empty() {
            return Err(refuse(
                Reason::NotAnOrder,
                "order_id or customer_id is empty".into(),
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
        let amount = fields
            .amount
            .value(currency)
            .map_err(|error| refuse(Reason::NotAnOrder, error.to_string()))?;
        let order = Self {
            order_id: fields.order_id,
            amount,
            currency,
            customer_id: fields.customer_id,
        };
        Ok((order, found))
    }
}

/// Pointers to the fields that the pipeline uses.
const POINTERS: [&str; 4] = ["/order_id", "/amount", "/currency", "/customer_id"];

impl<'a> Fields<'a> {
    /// Returns the string, or the digits of the integer, in the field at one of [`POINTERS`].
    fn at(&self, pointer: &str) -> Option<Cow<'a, str>> {
        match pointer {
            "/order_id" => Some(self.order_id.clone()),
            "/amount" => self.amount.text(),
            "/currency" => Some(self.currency.clone()),
            "/customer_id" => Some(self.customer_id.clone()),
            _ => None,
        }
    }
}

/// Parses the fields of an order, and finds the string or integer at a pointer.
fn parse_fields<'a>(
    text: &'a str,
    amount: AmountForm,
    pointer: Option<&str>,
) -> Result<(Fields<'a>, Option<Cow<'a, str>>), InvalidOrder> {
    // serde reads a JSON array of the right length as the fields in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(refuse_text(text, "the value is not a JSON object"));
    }
    let mut found = None;
    let check = Check {
        pointer,
        found: &mut found,
        depth: 0,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let fields = json
        .deserialize_map(ReadFields { amount, check })
        .and_then(|fields| json.end().map(|()| fields))
        .map_err(|error| refuse_text(text, &error.to_string()))?;
    Ok((fields, found))
}

/// Returns the string, or the digits of the integer, at a JSON pointer (RFC 6901) in a JSON value of any form, if
/// there is one. Refuses a value in which any object has two members of one name.
///
/// # Errors
/// The value is not JSON, or a name occurs twice.
pub fn find_unique<'a>(value: &'a [u8], pointer: &str) -> Result<Option<Cow<'a, str>>, InvalidOrder> {
    let text = text(value)?;
    let mut found = None;
    let check = Check {
        pointer: Some(pointer),
        found: &mut found,
        depth: 0,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    check
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| refuse_text(text, &error.to_string()))?;
    Ok(found)
}

fn text(value: &[u8]) -> Result<&str, InvalidOrder> {
    let text = std::str::from_utf8(value)
        .map_err(|error| refuse(Reason::NotJson, format!("the value is not UTF-8: {error}")))?;
    match text.trim_ascii_start().is_empty() {
        false => Ok(text),
        true => Err(refuse(Reason::NotJson, "the value is empty".into())),
    }
}

/// Returns the text of a JSON string, or a JSON integer as it is written.
fn string_or_integer(json: &str) -> Option<Cow<'_, str>> {
    if json.starts_with('"') {
        return serde_json::from_str(json).ok().map(|Text(text)| text);
    }
    // From the text: a number beyond 64 bits would be rounded.
    let digits = json.strip_prefix('-').unwrap_or(json);
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(Cow::Borrowed(json))
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
    Ok(raw
        .and_then(|raw| string_or_integer(raw.get()))
        .filter(|id| !id.is_empty()))
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

/// Reads the fields of an order, and checks all others.
struct ReadFields<'p, 'f, 'de> {
    amount: AmountForm,
    check: Check<'p, 'f, 'de>,
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
            // Refused if it occurs twice: of two values the validator could take one and the API the other.
            match &*name {
                "order_id" => read(&mut order_id, "order_id", members.next_value::<Text<'de>>()?.0)?,
                "amount" => read(&mut amount, "amount", Written::read(self.amount, &mut members)?)?,
                "currency" => read(&mut currency, "currency", members.next_value::<Text<'de>>()?.0)?,
                "customer_id" => read(
                    &mut customer_id,
                    "customer_id",
                    members.next_value::<Text<'de>>()?.0,
                )?,
                _ => {
                    members.next_value_seed(self.check.member(&name))?;
                    names.add(name)?;
                }
            }
        }
        let fields = Fields {
            order_id: order_id.ok_or_else(|| A::Error::missing_field("order_id"))?,
            amount: amount.ok_or_else(|| A::Error::missing_field("amount"))?,
            currency: currency.ok_or_else(|| A::Error::missing_field("currency"))?,
            customer_id: customer_id.ok_or_else(|| A::Error::missing_field("customer_id"))?,
        };
        if let Some(pointer) = self.check.pointer.filter(|pointer| POINTERS.contains(pointer)) {
            *self.check.found = fields.at(pointer);
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

fn refuse(reason: Reason, mut detail: String) -> InvalidOrder {
    // serde quotes what it finds, and that comes from a producer.
    detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
    InvalidOrder { reason, detail }
}

/// Maximum length of an explanation, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: Result<u64, Reason>) {
        let outcome = Order::parse(value.as_bytes());
        assert_eq!(
            outcome
                .map(|order| order.amount.minor_units())
                .map_err(|error| error.reason),
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
        Order::parse_unique(value.as_bytes(), AmountForm::MinorUnits, Some(pointer))
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
            let error = find_unique(with(member).as_bytes(), "/order_id").expect_err(member);
            assert_eq!(error.reason, Reason::NotAnOrder, "{error}");
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
    fn decimal_order_has_the_amount_in_minor_units() {
        let decimal = |amount: &str, currency: &str| {
            let value = format!(
                r#"{{"amount":{amount},"order_id":"o-1","currency":"{currency}","customer_id":"c-1"}}"#
            );
            Order::parse_unique(value.as_bytes(), AmountForm::Decimal, Some("/amount"))
                .map(|(order, found)| (order.amount.minor_units(), found.map(Cow::into_owned)))
                .map_err(|error| (error.reason, error.detail))
        };
        assert_eq!(decimal("12.50", "EUR"), Ok((1250, None)));
        assert_eq!(decimal("\"12.50\"", "EUR"), Ok((1250, Some("12.50".into()))));
        assert_eq!(decimal("12", "EUR"), Ok((1200, Some("12".into()))));
        for (amount, currency, expected) in [
            ("12.505", "EUR", "2 decimal places"),
            ("12.5", "JPY", "0 decimal places"),
            ("1.25e1", "EUR", "plain digits"),
            ("null", "EUR", "plain digits"),
            ("\"\\ud800\"", "EUR", "plain digits"),
        ] {
            let (reason, detail) = decimal(amount, currency).expect_err(amount);
            assert_eq!(reason, Reason::NotAnOrder);
            assert!(
                detail.contains(expected) && detail.contains("/amount"),
                "{detail}"
            );
        }
        let unknown = decimal("12.505", "EURO").expect_err("unknown");
        assert_eq!(unknown.0, Reason::UnknownCurrency);
        assert_eq!(decimal("12.", "EUR").expect_err("no JSON").0, Reason::NotJson);
    }

    #[test]
    fn key_is_found_in_json_of_any_form() {
        let found = |value: &str, pointer| {
            find_unique(value.as_bytes(), pointer)
                .map(|found| found.map(Cow::into_owned))
                .map_err(|error| error.reason)
        };
        assert_eq!(found(r#"{"ref":{"n":"k"}}"#, "/ref/n"), Ok(Some("k".into())));
        assert_eq!(found(r#"[{"n":7},{"n":8}]"#, "/1/n"), Ok(Some("8".into())));
        assert_eq!(found("12", "/n"), Ok(None));
        assert_eq!(found(r#"{"n":1.0}"#, "/n"), Ok(None));
        assert_eq!(found(r#"{"n":1} 2"#, "/n"), Err(Reason::NotJson));
        assert_eq!(found("pay", "/n"), Err(Reason::NotJson));
        assert_eq!(found(" ", "/n"), Err(Reason::NotJson));
        assert_eq!(found(r#"{"n":1,"\u006e":2}"#, "/n"), Err(Reason::NotAnOrder));
        assert_eq!(found(&"[".repeat(100_000), "/n"), Err(Reason::NotJson));
    }

    #[test]
    fn explanation_has_a_maximum_length() {
        let long = "\u{e4}".repeat(10_000);
        let value = with(&format!(r#""amount":"{long}""#)).replacen("150", &format!("\"{long}\""), 1);
        for form in [AmountForm::MinorUnits, AmountForm::Decimal] {
            let error = Order::parse_unique(value.as_bytes(), form, None).expect_err("no amount");
            assert!(error.detail.len() <= DETAIL_BYTES_MAX, "{}", error.detail.len());
        }
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
