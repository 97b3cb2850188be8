//! Wire format of the registry's serializers: a byte 0, the id of the schema in four bytes, and the encoded value.

use std::fmt;

/// Id of a schema in its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// First byte of a value in the wire format.
const MAGIC: u8 = 0;

/// Header in which newer serializers write the id of the schema, instead of in front of the value.
pub const VALUE_SCHEMA_ID: &str = "__value_schema_id";

/// Returns the id of a value's schema, and the encoded value behind it; `None` if the value is not in the wire format.
// Text, and JSON above all, never begins with this byte.
#[must_use]
pub fn split(value: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (&MAGIC, rest) = value.split_first()? else {
        return None;
    };
    let (id, payload) = rest.split_first_chunk()?;
    Some((SchemaId(u32::from_be_bytes(*id)), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_stands_before_the_encoded_value() {
        assert_eq!(
            split(b"\0\x01\x02\x03\x04xy"),
            Some((SchemaId(0x0102_0304), &b"xy"[..]))
        );
        assert_eq!(split(b"\0\0\0\0\x07"), Some((SchemaId(7), &b""[..])));
        for other in [&b""[..], b"\0", b"\0\0\0\x07", b"{}", b"\x01\0\0\0\x07x"] {
            assert_eq!(split(other), None, "{other:?}");
        }
    }
}
