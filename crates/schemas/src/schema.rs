//! Schema of a registry, parsed in its format.

use std::borrow::Cow;
use std::fmt;

use records::parse_tree;

use crate::avro::AvroSchema;
use crate::document::Undecodable;
use crate::order_schema::OrderSchema;
use crate::protobuf::ProtobufSchema;

/// Format of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache Avro.
    Avro,
    /// Protocol Buffers.
    Protobuf,
    /// JSON Schema.
    Json,
}

impl Format {
    /// Returns the format of this name, as registries write it; `None` if it is another one.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "AVRO" => Self::Avro,
            "PROTOBUF" => Self::Protobuf,
            "JSON" => Self::Json,
            _ => return None,
        })
    }
}

/// Schema as the registry has it, with all that it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaText {
    /// Format of the schema, and of all that it refers to.
    pub format: Format,
    /// Text of the schema.
    pub text: String,
    /// Schemas that it refers to, directly or through others, each after those that it refers to itself.
    pub references: Vec<Reference>,
}

/// Schema that another one refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Name by which it is referred to: the full name of a type (Avro), the path of an import (Protobuf), or a URI (JSON
    /// Schema).
    pub name: String,
    /// Text of the schema.
    pub text: String,
}

/// Schema that is none, or has what this version cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Parsed schema.
#[derive(Debug)]
pub struct Schema(Parsed);

#[derive(Debug)]
enum Parsed {
    Avro(AvroSchema),
    Protobuf(ProtobufSchema),
    Json(OrderSchema),
}

/// Maximum number of levels of brackets in the text of a schema.
const NESTING_MAX: usize = 200;
/// Maximum length of an explanation of a library, in characters.
const EXPLANATION_MAX: usize = 256;

impl Schema {
    /// Parses a schema.
    ///
    /// # Errors
    /// Explains why no order can be read by it.
    pub fn parse(schema: &SchemaText) -> Result<Self, Unusable> {
        let references = schema.references.iter().map(|reference| &reference.text);
        for text in [&schema.text].into_iter().chain(references) {
            check_depth(text)?;
        }
        // Parsers of libraries, and a text that anybody with access to the registry can write: a panic would end the thread
        // that asks for schemas, and the orders would wait for ever.
        let parse = || match schema.format {
            Format::Avro => AvroSchema::parse(schema).map(Parsed::Avro),
            Format::Protobuf => ProtobufSchema::parse(schema).map(Parsed::Protobuf),
            Format::Json => OrderSchema::compile_with(&schema.text, &schema.references)
                .map(Parsed::Json)
                .map_err(|error| unusable(&error)),
        };
        let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse));
        parsed
            .unwrap_or_else(|_| Err(Unusable("its parser failed".into())))
            .map(Self)
    }

    /// Reads an encoded value as a JSON document.
    ///
    /// # Errors
    /// Explains why it is no value of the schema, and quotes nothing of it.
    pub fn read<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, str>, String> {
        let read = match &self.0 {
            Parsed::Avro(schema) => schema.read(payload).map(Cow::Owned),
            Parsed::Protobuf(schema) => schema.read(payload).map(Cow::Owned),
            Parsed::Json(schema) => check_json(schema, payload).map(Cow::Borrowed),
        };
        read.map_err(|Undecodable(why)| why)
    }
}

/// Checks that no brackets are nested deeper than a parser can follow: a stack that overflows ends the process.
fn check_depth(text: &str) -> Result<(), Unusable> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            return Err(Unusable(format!(
                "it has brackets in more than {NESTING_MAX} levels"
            )));
        }
    }
    Ok(())
}

/// Returns the text of JSON that conforms to the schema.
// Serializers check it only if they are asked to, and an order that nobody has checked would be paid.
fn check_json<'a>(schema: &OrderSchema, payload: &'a [u8]) -> Result<&'a str, Undecodable> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| Undecodable::at(error.valid_up_to(), "the JSON is not UTF-8"))?;
    let tree = parse_tree(payload).map_err(|error| Undecodable(error.detail))?;
    schema.check(&tree).map_err(Undecodable)?;
    Ok(text)
}

pub(crate) fn unusable(error: &dyn fmt::Display) -> Unusable {
    let text = error.to_string();
    let printable = |char: char| if char.is_control() { ' ' } else { char };
    Unusable(text.chars().take(EXPLANATION_MAX).map(printable).collect())
}
