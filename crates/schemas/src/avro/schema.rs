//! Avro schema, parsed.

use std::collections::HashMap;

use apache_avro::Schema as Parsed;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};

use super::text::in_one_record;
use crate::schema::{SchemaText, Unusable, unusable};

/// Parsed Avro schema.
#[derive(Debug)]
pub(crate) struct AvroSchema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeIndex,
}

/// Index of a node. A type that contains itself is a circle of indexes.
pub(super) type NodeIndex = usize;

/// Type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// Bytes of this number, or with their length before them; with a scale.
    Decimal(Option<usize>, usize),
    /// Bytes with an unscaled value and its scale.
    BigDecimal,
    /// Bytes of this number, or with their length before them.
    Uuid(Option<usize>),
    /// Symbols, as JSON.
    Enum(Vec<Box<str>>),
    Array(NodeIndex),
    Map(NodeIndex),
    Union(Vec<NodeIndex>),
    /// Names of the fields, as JSON, and their types.
    Record(Vec<(Box<str>, NodeIndex)>),
    /// Named type that is referred to, and not defined yet.
    Undefined,
}

/// Maximum number of digits behind the point of a decimal.
// A scale is a number in the schema, and so many zeros would be written.
const SCALE_MAX: usize = 1_024;

impl AvroSchema {
    /// Parses a schema, with the named types of its references.
    ///
    /// # Errors
    /// Explains what is wrong with it.
    pub(crate) fn parse(schema: &SchemaText) -> Result<Self, Unusable> {
        let parsed = Parsed::parse(&in_one_record(schema)?).map_err(|error| unusable(&error))?;
        let Parsed::Record(texts) = &parsed else {
            return Err(Unusable("the schema was not parsed".into()));
        };
        let mut nodes = Nodes::default();
        let mut root = None;
        for text in &texts.fields {
            root = Some(nodes.add(&text.schema)?);
        }
        let root = root.ok_or_else(|| Unusable("the schema was not parsed".into()))?;
        nodes.finish(root)
    }
}

#[derive(Default)]
struct Nodes<'a> {
    nodes: Vec<Node>,
    /// By the full name.
    named: HashMap<String, Named<'a>>,
}

/// Named type.
struct Named<'a> {
    index: NodeIndex,
    definition: Option<&'a Parsed>,
}

impl<'a> Nodes<'a> {
    // Calls itself for each level, of which the parser allows 128 in the text.
    fn add(&mut self, schema: &'a Parsed) -> Result<NodeIndex, Unusable> {
        let node = match schema {
            Parsed::Null => Node::Null,
            Parsed::Boolean => Node::Boolean,
            Parsed::Int | Parsed::Date | Parsed::TimeMillis => Node::Int,
            Parsed::Long
            | Parsed::TimeMicros
            | Parsed::TimestampMillis
            | Parsed::TimestampMicros
            | Parsed::TimestampNanos
            | Parsed::LocalTimestampMillis
            | Parsed::LocalTimestampMicros
            | Parsed::LocalTimestampNanos => Node::Long,
            Parsed::Float => Node::Float,
            Parsed::Double => Node::Double,
            Parsed::Bytes => Node::Bytes,
            Parsed::String => Node::String,
            Parsed::BigDecimal => Node::BigDecimal,
            Parsed::Decimal(decimal) if decimal.scale > SCALE_MAX => {
                return Err(Unusable(format!(
                    "the schema has a decimal with a scale of {}; it may be {SCALE_MAX}",
                    decimal.scale
                )));
            }
            Parsed::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Node::Decimal(None, decimal.scale),
                InnerDecimalSchema::Fixed(fixed) => {
                    let index = self.define(&fixed.name, schema)?;
                    self.nodes[index] = Node::Decimal(Some(fixed.size), decimal.scale);
                    return Ok(index);
                }
            },
            Parsed::Uuid(UuidSchema::String) => Node::String,
            Parsed::Uuid(UuidSchema::Bytes) => Node::Uuid(None),
            Parsed::Uuid(UuidSchema::Fixed(fixed)) => {
                let index = self.define(&fixed.name, schema)?;
                self.nodes[index] = Node::Uuid(Some(fixed.size));
                return Ok(index);
            }
            Parsed::Fixed(fixed) | Parsed::Duration(fixed) => {
                let index = self.define(&fixed.name, schema)?;
                self.nodes[index] = Node::Fixed(fixed.size);
                return Ok(index);
            }
            Parsed::Enum(symbols) => {
                let index = self.define(&symbols.name, schema)?;
                self.nodes[index] = Node::Enum(symbols.symbols.iter().map(|symbol| json(symbol)).collect());
                return Ok(index);
            }
            Parsed::Array(array) => Node::Array(self.add(&array.items)?),
            Parsed::Map(map) => Node::Map(self.add(&map.types)?),
            Parsed::Union(union) => {
                let variants = union.variants().iter();
                Node::Union(
                    variants
                        .map(|variant| self.add(variant))
                        .collect::<Result<_, _>>()?,
                )
            }
            Parsed::Record(record) => {
                // Before its fields, which may refer to it.
                let index = self.define(&record.name, schema)?;
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    fields.push((json(&field.name), self.add(&field.schema)?));
                }
                self.nodes[index] = Node::Record(fields);
                return Ok(index);
            }
            Parsed::Ref { name } => return Ok(self.named(name).index),
        };
        Ok(self.push(node))
    }

    fn push(&mut self, node: Node) -> NodeIndex {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Returns the index of a named type that is defined here.
    ///
    /// # Errors
    /// Another definition has the name.
    fn define(&mut self, name: &Name, definition: &'a Parsed) -> Result<NodeIndex, Unusable> {
        let named = self.named(name);
        match named.definition.replace(definition) {
            // The one would be read as the other.
            Some(other) if other != definition => Err(unusable(&format!(
                "the schema defines {:?} more than once, and not alike",
                name.fullname(None)
            ))),
            Some(_) | None => Ok(named.index),
        }
    }

    /// Returns a named type, which may be defined later. The parser has added the enclosing namespace to each name, so
    /// that one without a namespace has none.
    fn named(&mut self, name: &Name) -> &mut Named<'a> {
        let next = self.nodes.len();
        let nodes = &mut self.nodes;
        self.named.entry(name.fullname(None)).or_insert_with(|| {
            nodes.push(Node::Undefined);
            Named {
                index: next,
                definition: None,
            }
        })
    }

    fn finish(self, root: NodeIndex) -> Result<AvroSchema, Unusable> {
        let undefined = self.named.iter().find(|(_, named)| named.definition.is_none());
        if let Some((name, _)) = undefined {
            return Err(unusable(&format!(
                "the schema refers to {name:?}, which it does not define"
            )));
        }
        Ok(AvroSchema {
            nodes: self.nodes,
            root,
        })
    }
}

fn json(name: &str) -> Box<str> {
    serde_json::Value::from(name).to_string().into()
}
