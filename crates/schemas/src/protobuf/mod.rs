//! Protobuf: the `.proto` files of a schema, the message that a value names, and its JSON.
//!
//! Compiled by `protox` and read by `prost-reflect`. What a message would take in memory is counted first (`count.rs`): an
//! empty message of two bytes becomes hundreds.

mod count;
mod key_order;
mod known_files;
mod schema;

pub(crate) use schema::ProtobufSchema;

#[cfg(test)]
mod tests;
