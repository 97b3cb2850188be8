//! JSON value of any form as a tree, for a check that looks at all of it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::{InvalidOrder, refuse_text, text};
use crate::unique_names;

/// Parses a JSON value of any form. Refuses one in which any object has two members of one name.
///
/// # Errors
/// The value is not JSON, a name occurs twice, a number is beyond the range of an `f64`, or values are nested deeper
/// than 127 levels.
pub fn parse_tree(value: &[u8]) -> Result<Value, InvalidOrder> {
    let text = text(value)?;
    serde_json::from_str(text)
        .map(|Tree(value)| value)
        .map_err(|error| refuse_text(text, &error.to_string()))
}

/// Returns the string, or the digits of the integer, at a JSON pointer (RFC 6901), if there is one.
#[must_use]
pub fn key_in_tree<'a>(tree: &'a Value, pointer: &str) -> Option<Cow<'a, str>> {
    match tree.pointer(pointer)? {
        Value::String(text) => Some(text.into()),
        // Never a key: 1 and 1.0 are the same number, and would be two keys.
        Value::Number(number) if number.is_f64() => None,
        Value::Number(number) => Some(number.to_string().into()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// JSON value without a name that occurs twice in one object.
// `Value` itself keeps the last of two members.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadTree).map(Self)
    }
}

struct ReadTree;

impl<'de> Visitor<'de> for ReadTree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match object.entry(name) {
                Entry::Vacant(member) => {
                    let Tree(value) = members.next_value()?;
                    member.insert(value);
                }
                Entry::Occupied(member) => return Err(unique_names::twice(member.key())),
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Tree(element)) = elements.next_element()? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::super::find_unique;
    use super::*;
    use crate::dead_letter::Reason;

    #[test]
    fn tree_is_the_one_of_serde_json() {
        for json in [
            r#"{"a":[1,-2,12.50,1e300,true,null,"x\u0041"],"":{},"b":{"$serde_json::private::RawValue":"1"}}"#,
            "9007199254740993",
            "123456789012345678901234567890",
            "-0",
            " \"text\" ",
        ] {
            let tree = parse_tree(json.as_bytes()).expect(json);
            let mut theirs: Value = serde_json::from_str(json).expect(json);
            if let Some(raw) = theirs.pointer_mut("/b") {
                // They read this name as an instruction, whoever wrote it.
                *raw = serde_json::json!({"$serde_json::private::RawValue": "1"});
            }
            assert_eq!(tree, theirs, "{json}");
        }
    }

    #[test]
    fn text_that_has_no_tree_is_refused() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (json, expected) in [
            ("", Reason::NotJson),
            ("{", Reason::NotJson),
            ("1 2", Reason::NotJson),
            ("\u{0}", Reason::NotJson),
            (r#"{"n":1,"\u006e":2}"#, Reason::NotAnOrder),
            (r#"{"a":[{"n":{},"n":{}}]}"#, Reason::NotAnOrder),
            ("1e400", Reason::NotAnOrder),
            ("[-1e400]", Reason::NotAnOrder),
            (&deep(128), Reason::NotAnOrder),
            (&"[".repeat(100_000), Reason::NotJson),
        ] {
            let refused = parse_tree(json.as_bytes()).expect_err("no tree");
            assert_eq!(refused.reason, expected, "{refused}");
        }
        assert!(parse_tree(b"\"\xff\"").is_err());
        assert!(parse_tree(deep(127).as_bytes()).is_ok());
    }

    /// An order has the same key, whichever form is configured.
    #[test]
    fn key_in_a_tree_is_the_one_of_the_text() {
        let json = r#"{"s":"k","n":-7,"f":1.0,"a":[{"n":7}],"a/b":{"~":"x\u0041"},"big":18446744073709551616,"z":-0}"#;
        let tree = parse_tree(json.as_bytes()).expect("JSON");
        for pointer in [
            "/s", "/n", "/f", "/a", "/a/0/n", "/a/00/n", "/a~1b/~0", "/big", "/z", "/s/x", "/other",
        ] {
            let in_text = find_unique(json.as_bytes(), pointer).expect("JSON");
            assert_eq!(key_in_tree(&tree, pointer), in_text, "{pointer}");
        }
    }
}
