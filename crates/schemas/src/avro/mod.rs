//! Avro: the schema as nodes that refer to each other by index, and the binary encoding of a value of it.
//!
//! Schemas are parsed by `apache-avro`. Its decoder is not used: it builds a tree whose size a few bytes of a value
//! decide on, such as the item count of an array of nulls, and its limit on allocations is one per process and counts
//! each block of an array for itself.

mod read;
mod schema;
mod text;

pub(crate) use schema::AvroSchema;

#[cfg(test)]
mod tests;
