//! Fingerprint of fields: each with a tag for its kind and its length, so that no two lists of fields have the
//! same bytes.

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Fingerprint;
use super::number::Decimal;
use crate::unique_names::{Text, below};

// Changelogs hold fingerprints of these bytes: no tag is ever given to another kind.
const ABSENT: u8 = 0;
const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const NUMBER: u8 = 4;
const STRING: u8 = 5;
/// Text of a value that has no canonical form here: an object, an array, a number beyond all bounds.
const TEXT: u8 = 6;

/// Fingerprint of fields in the making.
// The fields of an order fit into one block of the hash, which is cheaper than its payload. So they are collected
// here and not fed to it one by one.
pub(super) struct Fields(Vec<u8>);

impl Fields {
    /// Begins a list of fields; `domain` separates those of different selections.
    pub(super) fn of(domain: u8) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(domain);
        Self(bytes)
    }

    pub(super) fn string(&mut self, value: &str) {
        self.add(STRING, value.as_bytes());
    }

    /// Adds the text of a JSON number.
    pub(super) fn number(&mut self, text: &str) {
        match Decimal::of(text) {
            Some(number) => {
                self.0.extend([NUMBER, u8::from(number.is_negative)]);
                self.0.extend(number.exponent.to_be_bytes());
                self.bytes(number.digits.as_bytes());
            }
            None => self.add(TEXT, text.as_bytes()),
        }
    }

    /// Adds a JSON value, or that there is none.
    pub(super) fn json(&mut self, value: Option<&str>) {
        let Some(value) = value else {
            return self.0.push(ABSENT);
        };
        match value {
            "null" => self.0.push(NULL),
            "false" => self.0.push(FALSE),
            "true" => self.0.push(TRUE),
            _ if value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                self.number(value);
            }
            // Escapes are resolved: "é" and "\u00e9" are one string.
            _ => match serde_json::from_str::<Text<'_>>(value) {
                Ok(Text(string)) => self.string(&string),
                Err(_) => self.add(TEXT, value.as_bytes()),
            },
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    fn add(&mut self, tag: u8, value: &[u8]) {
        self.0.push(tag);
        self.bytes(value);
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        // No length of a slice is beyond 64 bits.
        self.0.extend((value.len() as u64).to_be_bytes());
        self.0.extend(value);
    }
}

/// Returns the text of the values at JSON pointers (RFC 6901) in a document, in the order of the pointers.
///
/// # Errors
/// The text is not JSON.
pub(super) fn at_pointers<'a>(
    text: &'a str,
    pointers: &[String],
) -> Result<Vec<Option<&'a str>>, serde_json::Error> {
    let mut found = vec![None; pointers.len()];
    let wanted = pointers.iter().map(String::as_str).enumerate().collect();
    collect(text, wanted, &mut found)?;
    Ok(found)
}

/// Finds the values of wanted pointers, each with its index in `found`.
// The recursion ends with the longest pointer, whatever the depth of the document.
fn collect<'a>(
    text: &'a str,
    wanted: Vec<(usize, &str)>,
    found: &mut [Option<&'a str>],
) -> Result<(), serde_json::Error> {
    let (here, further): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, pointer)| pointer.is_empty());
    for (index, _) in here {
        found[index] = Some(text);
    }
    if further.is_empty() {
        return Ok(());
    }
    let members = Members { wanted: &further };
    let mut json = serde_json::Deserializer::from_str(text);
    let below = match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => json.deserialize_map(members)?,
        Some(b'[') => json.deserialize_seq(members)?,
        // No pointer leads into a string or a number, if it is one.
        _ => serde::Deserialize::deserialize(&mut json).map(|IgnoredAny| Vec::new())?,
    };
    json.end()?;
    for (value, wanted) in below {
        collect(value.get(), wanted, found)?;
    }
    Ok(())
}

/// Reads the members or elements to which a pointer leads, each with what is left of the pointers.
struct Members<'p, 'w> {
    wanted: &'w [(usize, &'p str)],
}

type Found<'de, 'p> = Vec<(&'de RawValue, Vec<(usize, &'p str)>)>;

impl<'p> Members<'p, '_> {
    fn below(&self, name: &str) -> Vec<(usize, &'p str)> {
        let rest = |(index, pointer): &(usize, &'p str)| Some((*index, below(Some(pointer), name)?));
        self.wanted.iter().filter_map(rest).collect()
    }
}

impl<'de, 'p> Visitor<'de> for Members<'p, '_> {
    type Value = Found<'de, 'p>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Text(name)) = members.next_key()? {
            let wanted = self.below(&name);
            if wanted.is_empty() {
                members.next_value::<IgnoredAny>()?;
            } else {
                found.push((members.next_value()?, wanted));
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        for index in 0_usize.. {
            let wanted = self.below(&index.to_string());
            if wanted.is_empty() {
                if elements.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
            } else {
                let Some(value) = elements.next_element()? else {
                    break;
                };
                found.push((value, wanted));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fingerprint(values: &[Option<&str>]) -> Fingerprint {
        let mut fields = Fields::of(2);
        values.iter().for_each(|value| fields.json(*value));
        fields.fingerprint()
    }

    #[test]
    fn equal_values_have_one_fingerprint() {
        for (one, other) in [
            ("1", "1.0"),
            ("-0", "0e7"),
            (r#""é""#, r#""\u00e9""#),
            ("true", "true"),
            ("null", "null"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
        ] {
            assert_eq!(fingerprint(&[Some(one)]), fingerprint(&[Some(other)]), "{one}");
        }
    }

    #[test]
    fn other_values_have_another_fingerprint() {
        let values = [
            None,
            Some("null"),
            Some("false"),
            Some("true"),
            Some("0"),
            Some("1"),
            Some(r#""1""#),
            Some(r#""""#),
            Some(r#""null""#),
            Some("[1]"),
            Some("[1.0]"),
            Some("{}"),
            Some(r#""{}""#),
            Some("1e99999999999999999999"),
            Some(r#""1e99999999999999999999""#),
        ];
        for (index, one) in values.iter().enumerate() {
            for other in &values[index + 1..] {
                assert_ne!(fingerprint(&[*one]), fingerprint(&[*other]), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn values_at_pointers_are_found() {
        let text = r#" {"a":{"b":[{"c":1},"x"],"~/":2},"":null,"deep":[[[[1e999]]]]}"#;
        let found = |pointer: &str| at_pointers(text, &[pointer.to_owned()]).expect("JSON")[0];
        assert_eq!(found("/a/b/0/c"), Some("1"));
        assert_eq!(found("/a/b/1"), Some(r#""x""#));
        assert_eq!(found("/a/b"), Some(r#"[{"c":1},"x"]"#));
        assert_eq!(found("/a/~0~1"), Some("2"));
        assert_eq!(found("/"), Some("null"));
        for absent in ["/a/b/2", "/a/b/-", "/a/b/0/c/d", "/a/b/01", "/b", "//x"] {
            assert_eq!(found(absent), None, "{absent}");
        }
        let both = ["/a/~0~1".to_owned(), "/a".to_owned()];
        let found = at_pointers(text, &both).expect("JSON");
        assert_eq!(found, [Some("2"), Some(r#"{"b":[{"c":1},"x"],"~/":2}"#)]);
    }

    proptest! {
        /// Text moved from one field to its neighbour makes other fields, also text that looks like a tag.
        #[test]
        fn fields_keep_their_bounds(text in "[a\\x05]{1,6}", at in 0_usize..6, other in 0_usize..6) {
            let (at, other) = (at.min(text.len()), other.min(text.len()));
            let json = |text: &str| serde_json::to_string(text).expect("JSON");
            let split = |at: usize| {
                let (left, right) = text.split_at(at);
                fingerprint(&[Some(&json(left)), Some(&json(right))])
            };
            prop_assert_eq!(split(at) == split(other), at == other);
        }
    }
}
