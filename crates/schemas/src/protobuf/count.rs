//! Count of the values in an encoded message, before it is decoded.

use prost_reflect::{Kind, MessageDescriptor};

use crate::document::{DEPTH_MAX, Undecodable, too_deep};

/// Maximum number of values in a message: decoded, each takes some hundred bytes at most.
const VALUES_MAX: usize = 100_000;

/// Checks that a message is not nested too deep and has not too many values.
///
/// # Errors
/// It is, has, or is no message.
pub(super) fn check_size(message: &MessageDescriptor, payload: &[u8]) -> Result<(), Undecodable> {
    let mut counter = Counter { left: VALUES_MAX };
    let mut wire = Wire::new(payload);
    counter.message(message, &mut wire, 0, None)
}

struct Counter {
    left: usize,
}

impl Counter {
    /// Counts up to the end of the bytes, or of the group of this number.
    fn message(
        &mut self,
        message: &MessageDescriptor,
        wire: &mut Wire<'_>,
        depth: usize,
        group: Option<u64>,
    ) -> Result<(), Undecodable> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        while !wire.rest().is_empty() {
            let key = wire.varint()?;
            let number = key >> 3;
            let field = u32::try_from(number)
                .ok()
                .and_then(|number| message.get_field(number));
            let kind = field.map(|field| field.kind());
            self.count(1)?;
            match key & 7 {
                0 => drop(wire.varint()?),
                1 => drop(wire.take(8)?),
                5 => drop(wire.take(4)?),
                2 => {
                    let length = wire.varint()?;
                    let length = usize::try_from(length).map_err(|_| ends_early())?;
                    self.bytes(kind, wire.take(length)?, depth)?;
                }
                3 => {
                    // A group that the schema does not have is kept as it is, with its fields counted alike.
                    let inner = match kind {
                        Some(Kind::Message(inner)) => inner,
                        Some(_) | None => message.clone(),
                    };
                    self.message(&inner, wire, depth + 1, Some(number))?;
                }
                4 if group == Some(number) => return Ok(()),
                _ => {
                    return Err(Undecodable(
                        "a field of the message has no type of the encoding".into(),
                    ));
                }
            }
        }
        match group {
            None => Ok(()),
            Some(_) => Err(ends_early()),
        }
    }

    fn bytes(&mut self, kind: Option<Kind>, bytes: &[u8], depth: usize) -> Result<(), Undecodable> {
        match kind {
            Some(Kind::Message(inner)) => self.message(&inner, &mut Wire::new(bytes), depth + 1, None),
            None | Some(Kind::String | Kind::Bytes) => Ok(()),
            Some(Kind::Double | Kind::Fixed64 | Kind::Sfixed64) => self.count(bytes.len() / 8),
            Some(Kind::Float | Kind::Fixed32 | Kind::Sfixed32) => self.count(bytes.len() / 4),
            // Packed numbers of variable length, each of which ends with a byte below 128.
            Some(
                Kind::Int32
                | Kind::Int64
                | Kind::Uint32
                | Kind::Uint64
                | Kind::Sint32
                | Kind::Sint64
                | Kind::Bool
                | Kind::Enum(_),
            ) => self.count(bytes.iter().filter(|byte| **byte < 0x80).count()),
        }
    }

    fn count(&mut self, values: usize) -> Result<(), Undecodable> {
        self.left = self
            .left
            .checked_sub(values)
            .ok_or_else(|| Undecodable(format!("the message has more than {VALUES_MAX} values")))?;
        Ok(())
    }
}

/// Bytes in the encoding of Protobuf.
pub(super) struct Wire<'a> {
    rest: &'a [u8],
}

impl<'a> Wire<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a number of variable length.
    pub(super) fn varint(&mut self) -> Result<u64, Undecodable> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            // As the decoders do, without the bits beyond the 64th.
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Undecodable(
            "a number of the message has more than 64 bits".into(),
        ))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Undecodable> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn ends_early() -> Undecodable {
    Undecodable("the message ends early".into())
}
