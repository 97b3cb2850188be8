//! Texts of a schema and of those that it refers to, made ready for the parser.

use serde_json::{Value, json};

use crate::schema::{SchemaText, Unusable, unusable};

/// Attributes that play no part in reading a value by the schema that it was written with.
// The parser refuses defaults that registries accept, and lets an alias hide the type that has the name.
const UNUSED: [&str; 2] = ["default", "aliases"];

/// Returns one schema for all: a record with a field for each text, first the references, in their order, then the
/// schema. Each reference comes after those that it refers to itself, so that a name is defined before it is used.
// Given a list of schemas, the parser takes them in a random order, in which it finds no type that is nested in a later
// one: one process could read orders that another one refuses.
///
/// # Errors
/// A text is not JSON.
pub(super) fn in_one_record(schema: &SchemaText) -> Result<Value, Unusable> {
    let references = schema.references.iter().map(|reference| &reference.text);
    let texts: Vec<&String> = references.chain([&schema.text]).collect();
    // A name that no type can refer to.
    let mut name = "Texts".to_owned();
    while texts.iter().any(|text| text.contains(&name)) {
        name.push('_');
    }
    let mut fields = Vec::with_capacity(texts.len());
    for (number, text) in texts.into_iter().enumerate() {
        let mut parsed = serde_json::from_str(text).map_err(|error| unusable(&error))?;
        remove_unused(&mut parsed);
        fields.push(json!({"name": format!("text{number}"), "type": parsed}));
    }
    Ok(json!({"type": "record", "name": name, "fields": fields}))
}

// Calls itself for each level, of which the parser of JSON allows 128.
fn remove_unused(value: &mut Value) {
    match value {
        Value::Object(attributes) => {
            for name in UNUSED {
                attributes.remove(name);
            }
            attributes.values_mut().for_each(remove_unused);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_unused),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
