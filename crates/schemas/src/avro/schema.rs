//! Avro schema, parsed.

use std::collections::HashMap;

use apache_avro::Schema as Parsed;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};

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
        let named = schema.references.iter().map(|reference| &reference.text);
        let (root, named) =
            Parsed::parse_str_with_list(&schema.text, named).map_err(|error| unusable(&error))?;
        let mut nodes = Nodes::default();
        for schema in &named {
            nodes.add(schema, None)?;
        }
        let root = nodes.add(&root, None)?;
        nodes.finish(root)
    }
}

#[derive(Default)]
struct Nodes {
    nodes: Vec<Node>,
    named: HashMap<String, NodeIndex>,
}

impl Nodes {
    // Calls itself for each level, of which the parser allows 128 in the text.
    fn add(&mut self, schema: &Parsed, namespace: Option<&str>) -> Result<NodeIndex, Unusable> {
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
                    let node = Node::Decimal(Some(fixed.size), decimal.scale);
                    return Ok(self.define(&fixed.name, namespace, node));
                }
            },
            Parsed::Uuid(UuidSchema::String) => Node::String,
            Parsed::Uuid(UuidSchema::Bytes) => Node::Uuid(None),
            Parsed::Uuid(UuidSchema::Fixed(fixed)) => {
                return Ok(self.define(&fixed.name, namespace, Node::Uuid(Some(fixed.size))));
            }
            Parsed::Fixed(fixed) | Parsed::Duration(fixed) => {
                return Ok(self.define(&fixed.name, namespace, Node::Fixed(fixed.size)));
            }
            Parsed::Enum(symbols) => {
                let node = Node::Enum(symbols.symbols.iter().map(|symbol| json(symbol)).collect());
                return Ok(self.define(&symbols.name, namespace, node));
            }
            Parsed::Array(array) => Node::Array(self.add(&array.items, namespace)?),
            Parsed::Map(map) => Node::Map(self.add(&map.types, namespace)?),
            Parsed::Union(union) => {
                let variants = union.variants().iter();
                Node::Union(
                    variants
                        .map(|variant| self.add(variant, namespace))
                        .collect::<Result<_, _>>()?,
                )
            }
            Parsed::Record(record) => {
                // Before its fields, which may refer to it.
                let index = self.named(&record.name, namespace);
                let inner = record.name.namespace().or(namespace);
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    fields.push((json(&field.name), self.add(&field.schema, inner)?));
                }
                self.nodes[index] = Node::Record(fields);
                return Ok(index);
            }
            Parsed::Ref { name } => return Ok(self.named(name, namespace)),
        };
        Ok(self.push(node))
    }

    fn push(&mut self, node: Node) -> NodeIndex {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn define(&mut self, name: &Name, namespace: Option<&str>, node: Node) -> NodeIndex {
        let index = self.named(name, namespace);
        self.nodes[index] = node;
        index
    }

    /// Returns the index of a named type, which may be defined later.
    fn named(&mut self, name: &Name, namespace: Option<&str>) -> NodeIndex {
        let name = name.fullname(namespace);
        if let Some(index) = self.named.get(&name) {
            return *index;
        }
        let index = self.push(Node::Undefined);
        self.named.insert(name, index);
        index
    }

    fn finish(self, root: NodeIndex) -> Result<AvroSchema, Unusable> {
        let undefined = self
            .named
            .iter()
            .find(|(_, index)| self.nodes[**index] == Node::Undefined);
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
