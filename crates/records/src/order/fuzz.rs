use std::borrow::Cow;

use serde_json::Value;

use super::*;
use crate::{Fingerprint, Selection};

const TOKENS: &[&str] = &[
    "\\",
    "\\u00e9",
    "\\ud800",
    "\\\"",
    "null",
    "true",
    "1e2",
    "-0",
    "-",
    "0",
    ".5",
    "1E400",
    "9007199254740993",
    "18446744073709551616",
    "\"order_id\":",
    "\"amount\":",
    "\"currency\":",
    "\"customer_id\":",
    "\"order\\u005fid\":",
    "EUR",
    "JPY",
    " ",
    "\t",
    "\n",
    "\u{feff}",
    "é",
    "\u{0}",
];

/// Pointers to a known field, to another one, into an array, to the whole value, and to a name with escapes.
const AT: [&str; 6] = ["/order_id", "/amount", "/x", "/x/0", "", "/a~1b/~0"];
const FORMS: [AmountForm; 2] = [AmountForm::MinorUnits, AmountForm::Decimal];

/// The fast reader, serde_json, the tree and the search for a key agree on each value.
#[test]
fn order() {
    fuzzing::check!("order", &[fuzzing::JSON, TOKENS].concat(), |bytes| {
        for form in FORMS {
            order_of_form(bytes, form);
        }
        readings_agree(bytes);
    });
}

fn order_of_form(bytes: &[u8], form: AmountForm) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(fields) = scan::fields(text, form)
    {
        let parsed = parse_fields(text, form, None).map(|(fields, _)| fields);
        assert_eq!(parsed.as_ref(), Ok(&fields), "read and parsed differently");
    }
    for pointer in AT {
        let parsed = Order::parse_unique(bytes, form, Some(pointer));
        let (order, key) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                assert!(
                    error.detail.len() <= DETAIL_BYTES_MAX,
                    "{} bytes",
                    error.detail.len()
                );
                continue;
            }
        };
        // What another program reads in the same bytes, such as the API.
        let json: Value = serde_json::from_slice(bytes).expect("an order is JSON");
        assert_eq!(json["order_id"].as_str(), Some(&*order.order_id));
        assert_eq!(json["customer_id"].as_str(), Some(&*order.customer_id));
        assert_eq!(json["currency"].as_str(), Some(order.currency.code()));
        if form == AmountForm::MinorUnits {
            assert_eq!(json["amount"].as_u64(), Some(order.amount.minor_units()));
        }
        assert!(order.amount.minor_units() > 0, "an amount of nothing");
        assert_eq!(
            order_id(bytes),
            Ok(Some(order.order_id.clone())),
            "the caller's reading"
        );
        assert_eq!(find_unique(bytes, pointer), Ok(key), "at {pointer}");
        let fingerprint = |order: &Order<'_>, bytes: &[u8]| Selection::Order.fingerprint(Some(order), bytes);
        let first = fingerprint(&order, bytes);
        // Written otherwise, it is the same order: without spaces and escapes, its members sorted.
        if form == AmountForm::MinorUnits {
            let written = serde_json::to_vec(&json).expect("JSON");
            let (again, _) = Order::parse_unique(&written, form, None).expect("the same order");
            assert_eq!(
                fingerprint(&again, &written),
                first,
                "the same order has another fingerprint"
            );
        }
        let doubled = order
            .amount
            .minor_units()
            .checked_add(1)
            .map(Amount::of_minor_units);
        if let Some(Ok(amount)) = doubled {
            let other = Order { amount, ..order };
            assert_ne!(
                fingerprint(&other, bytes),
                first,
                "another amount has the same fingerprint"
            );
        }
    }
}

fn readings_agree(bytes: &[u8]) {
    let json = serde_json::from_slice::<Value>(bytes);
    let tree = parse_tree(bytes);
    if let Ok(tree) = &tree {
        assert_eq!(json.as_ref().ok(), Some(tree), "another tree than serde_json's");
    }
    for pointer in AT {
        let found = find_unique(bytes, pointer);
        if let Ok(tree) = &tree {
            let found = found.expect("the tree was read");
            let in_tree = key_in_tree(tree, pointer);
            if in_tree.is_some() {
                assert_eq!(found, in_tree, "another key at {pointer}");
            }
            // An array has no names, and a number in it no other digits.
            let at = tree.pointer(pointer);
            if found.is_some() {
                assert!(
                    matches!(at, Some(Value::String(_) | Value::Number(_))),
                    "{at:?} is a key"
                );
            }
        } else if let (Ok(_), Err(error)) = (&found, &tree) {
            // The tree has numbers as an `f64`, and no other limit.
            assert!(
                error.detail.contains("out of range"),
                "only the tree refuses it: {error}"
            );
        }
    }
    if let (Ok(Some(id)), Ok(json)) = (order_id(bytes), &json) {
        match &json["order_id"] {
            Value::String(text) => assert_eq!(&id, text),
            Value::Number(_) => assert!(id.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())),
            other => panic!("{other} is an order id"),
        }
    }
    let pointers = Selection::pointers(AT[..4].iter().map(|&at| at.to_owned()).collect()).expect("pointers");
    for selection in [Selection::Payload, Selection::None, pointers] {
        let of = |bytes: &[u8]| selection.fingerprint(None, bytes);
        let copy = bytes.to_vec();
        assert_eq!(of(bytes), of(&copy), "two fingerprints of the same bytes");
    }
    assert_eq!(Fingerprint::of(bytes), Fingerprint::of(&Cow::Borrowed(bytes)));
}

/// A decimal is an amount only if it has no more digits than its currency, and none is lost.
#[test]
fn amount() {
    fuzzing::check!(
        "amount",
        &[
            "\"",
            "0",
            ".",
            "-",
            "+",
            "e",
            "E",
            "00000000",
            "18446744073709551615"
        ],
        |bytes| {
            // As it is cut from an order: without spaces around it.
            let Ok(text) = std::str::from_utf8(bytes.trim_ascii()) else {
                return;
            };
            for (currency, digits) in [(Currency::JPY, 0), (Currency::EUR, 2), (Currency::KWD, 3)] {
                let Ok(amount) = Amount::of_decimal(text, currency) else {
                    continue;
                };
                let number = text.trim_matches('"');
                let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
                if number.contains(['e', 'E']) {
                    continue;
                }
                let fraction = format!("{fraction:0<digits$}");
                let (kept, lost) = fraction.split_at(digits);
                assert!(
                    lost.bytes().all(|digit| digit == b'0'),
                    "{text} loses digits in {}",
                    currency.code()
                );
                let expected: u64 = format!("{whole}{kept}").parse().expect("digits");
                assert_eq!(amount.minor_units(), expected, "{text} in {}", currency.code());
            }
        }
    );
}
