//! Values whose schema is in a registry: the wire format, the parsed schemas, and the JSON document that a value is read
//! as. Without input or output: what is missing is named, and fetched by others.
//!
//! | file | does |
//! | --- | --- |
//! | `wire.rs` | finds the id of the schema in front of a value |
//! | `cache.rs` | keeps what the registry has said of each id, and reads values by it |
//! | `schema.rs` | parses a schema in its format |
//! | `avro/`, `protobuf/`, `order_schema/` | parse the schemas of one format, and read values by them |
//! | `document.rs` | writes the JSON document, of a bounded size |
//!
//! The document is exact: integers have all their digits, and a decimal is text. It has the names of the schema, so that
//! `/customer_id` is the same field in each format.

mod avro;
mod cache;
mod document;
#[cfg(test)]
mod fuzz;
mod order_schema;
mod protobuf;
mod schema;
pub mod wire;

pub use cache::{Answer, CacheLimits, Reading, Schemas, Unread};
pub use order_schema::{InvalidSchema, OrderSchema};
pub use schema::{Format, Reference, Schema, SchemaText, Unusable};
pub use wire::SchemaId;
