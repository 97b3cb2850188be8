//! Order of the names in a document. Maps of Protobuf have none, and the library reads them in another one each time; a
//! document that is a request's body, or is compared with an earlier one, must be the same each time.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::document::{Document, Undecodable};

/// Appends a document with the names of each object sorted, and all else as it is written.
///
/// # Errors
/// It is no JSON, or too large.
pub(super) fn push_sorted(document: &mut Document, json: &str) -> Result<(), Undecodable> {
    // As deep as a document may be, which is bounded.
    match json.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|_| no_json())?;
            document.push("{")?;
            for (number, (name, value)) in members.into_iter().enumerate() {
                separate(document, number)?;
                document.push_string(&name)?;
                document.push(":")?;
                push_sorted(document, value.get())?;
            }
            document.push("}")
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| no_json())?;
            document.push("[")?;
            for (number, item) in items.into_iter().enumerate() {
                separate(document, number)?;
                push_sorted(document, item.get())?;
            }
            document.push("]")
        }
        _ => document.push(json),
    }
}

fn separate(document: &mut Document, number: usize) -> Result<(), Undecodable> {
    match number {
        0 => Ok(()),
        _ => document.push(","),
    }
}

fn no_json() -> Undecodable {
    Undecodable("the message has no JSON".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_values_stay() {
        let mut document = Document::default();
        let json = r#"{"b":[{"d":1,"c":0.1},[]],"a\"":{"z":null,"y":{}},"":12345678901234567890}"#;
        push_sorted(&mut document, json).expect("JSON");
        assert_eq!(
            document.into_text().expect("a text"),
            r#"{"":12345678901234567890,"a\"":{"y":{},"z":null},"b":[{"c":0.1,"d":1},[]]}"#
        );
    }
}
