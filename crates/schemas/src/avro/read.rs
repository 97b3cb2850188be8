//! Binary encoding of Avro, read as a JSON document.
//!
//! Each step consumes bytes of the value or writes some to the document, whose size is bounded; so is the time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use num_bigint::{BigInt, Sign};

use super::schema::{AvroSchema, Node, NodeIndex};
use crate::document::{DEPTH_MAX, Document, Undecodable, too_deep};

/// Maximum number of bytes of the unscaled value of a decimal: more than 300 digits.
// Writing it in decimal digits takes time by the square of its length.
const DECIMAL_BYTES_MAX: usize = 128;
/// Maximum scale of a decimal that has its scale in the value.
const SCALE_MAX: usize = 1_024;

impl AvroSchema {
    /// Reads an encoded value.
    ///
    /// # Errors
    /// It is no value of this schema, or more bytes follow it.
    pub(crate) fn read(&self, payload: &[u8]) -> Result<String, Undecodable> {
        let mut reader = Reader {
            nodes: &self.nodes,
            payload,
            at: 0,
            document: Document::default(),
        };
        reader.value(self.root, 0)?;
        // Another schema than the one that wrote it would read its beginning as something else.
        match payload.len() - reader.at {
            0 => reader.document.into_text(),
            left => Err(reader.wrong(format_args!("{left} bytes follow the value"))),
        }
    }
}

struct Reader<'a> {
    nodes: &'a [Node],
    payload: &'a [u8],
    at: usize,
    document: Document,
}

impl<'a> Reader<'a> {
    fn value(&mut self, node: NodeIndex, depth: usize) -> Result<(), Undecodable> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        let nodes = self.nodes;
        match &nodes[node] {
            Node::Null => self.document.push("null"),
            Node::Boolean => match self.take(1)? {
                [0] => self.document.push("false"),
                [1] => self.document.push("true"),
                _ => Err(self.wrong("a boolean is neither 0 nor 1")),
            },
            Node::Int => {
                let value = self.long()?;
                let value = i32::try_from(value).map_err(|_| self.wrong("an int has more than 32 bits"))?;
                self.document.push_display(value)
            }
            Node::Long => {
                let value = self.long()?;
                self.document.push_display(value)
            }
            Node::Float => {
                let value = f32::from_le_bytes(*self.chunk()?);
                self.float(value.is_finite(), &value)
            }
            Node::Double => {
                let value = f64::from_le_bytes(*self.chunk()?);
                self.float(value.is_finite(), &value)
            }
            Node::Bytes => {
                let bytes = self.bytes()?;
                self.base64(bytes)
            }
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.base64(bytes)
            }
            Node::String => self.string(),
            Node::Decimal(size, scale) => {
                let unscaled = self.sized(*size)?;
                self.decimal(unscaled, *scale)
            }
            Node::BigDecimal => self.big_decimal(),
            Node::Uuid(size) => {
                let bytes = self.sized(*size)?;
                self.uuid(bytes)
            }
            Node::Enum(symbols) => {
                let symbol = self.index(symbols, "an enum has no such symbol")?;
                self.document.push(symbol)
            }
            Node::Union(variants) => {
                let variant = *self.index(variants, "a union has no such branch")?;
                // No level of its own: a union has no unions, so that each circle goes through a record.
                self.value(variant, depth)
            }
            Node::Record(fields) => self.record(fields, depth + 1),
            Node::Array(items) => {
                self.document.push("[")?;
                self.blocks(|reader| reader.value(*items, depth + 1))?;
                self.document.push("]")
            }
            Node::Map(values) => {
                self.document.push("{")?;
                self.blocks(|reader| {
                    reader.string()?;
                    reader.document.push(":")?;
                    reader.value(*values, depth + 1)
                })?;
                self.document.push("}")
            }
            Node::Undefined => Err(self.wrong("a type of the schema is not defined")),
        }
    }

    fn record(&mut self, fields: &[(Box<str>, NodeIndex)], depth: usize) -> Result<(), Undecodable> {
        for (position, (name, node)) in fields.iter().enumerate() {
            self.document.push(if position == 0 { "{" } else { "," })?;
            self.document.push(name)?;
            self.document.push(":")?;
            self.value(*node, depth)?;
        }
        self.document.push(if fields.is_empty() { "{}" } else { "}" })
    }

    /// Reads the items of an array or map, which come in blocks.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), Undecodable>,
    ) -> Result<(), Undecodable> {
        let mut is_first = true;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes, for readers that skip it.
                self.long()?;
            }
            // Nothing is reserved by the count, which may be any number: an item of no bytes still writes some.
            for _ in 0..count.unsigned_abs() {
                if !is_first {
                    self.document.push(",")?;
                }
                is_first = false;
                item(self)?;
            }
        }
    }

    fn float<T: serde::Serialize>(&mut self, is_finite: bool, value: &T) -> Result<(), Undecodable> {
        if !is_finite {
            return Err(self.wrong("a floating-point number is infinite or none, which JSON cannot express"));
        }
        // The shortest digits that are read as this number again.
        let text = serde_json::to_string(value).map_err(|error| self.wrong(error))?;
        self.document.push(&text)
    }

    fn string(&mut self) -> Result<(), Undecodable> {
        let start = self.at;
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Undecodable::at(start, "a string is not UTF-8"))?;
        self.document.push_string(text)
    }

    fn base64(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        self.document.push("\"")?;
        self.document.push(&STANDARD.encode(bytes))?;
        self.document.push("\"")
    }

    fn uuid(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        let bytes: &[u8; 16] = bytes
            .try_into()
            .map_err(|_| self.wrong("a UUID has not 16 bytes"))?;
        let hex = format!("{:032x}", u128::from_be_bytes(*bytes));
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        self.document.push_string(&parts.join("-"))
    }

    fn big_decimal(&mut self) -> Result<(), Undecodable> {
        let bytes = self.bytes()?;
        // A value in itself, in bytes.
        let mut inner = Reader {
            nodes: &[],
            payload: bytes,
            at: 0,
            document: Document::default(),
        };
        let (unscaled, scale) = (inner.bytes()?, inner.long()?);
        if inner.at != bytes.len() {
            return Err(self.wrong("bytes follow a decimal"));
        }
        match usize::try_from(scale) {
            Ok(scale @ ..=SCALE_MAX) => self.decimal(unscaled, scale),
            Ok(_) | Err(_) => Err(self.wrong(format_args!("a decimal has a scale outside 0 to {SCALE_MAX}"))),
        }
    }

    /// Writes a decimal as text, with all its digits.
    fn decimal(&mut self, unscaled: &[u8], scale: usize) -> Result<(), Undecodable> {
        if unscaled.len() > DECIMAL_BYTES_MAX {
            return Err(self.wrong(format_args!("a decimal has more than {DECIMAL_BYTES_MAX} bytes")));
        }
        let (sign, digits) = BigInt::from_signed_bytes_be(unscaled).into_parts();
        let digits = format!("{:0>width$}", digits.to_string(), width = scale + 1);
        let (whole, places) = digits.split_at(digits.len() - scale);
        let sign = if sign == Sign::Minus { "-" } else { "" };
        let point = if scale == 0 { "" } else { "." };
        self.document.push(&format!("\"{sign}{whole}{point}{places}\""))
    }

    fn index<'s, T>(&mut self, of: &'s [T], missing: &str) -> Result<&'s T, Undecodable> {
        let index = self.long()?;
        usize::try_from(index)
            .ok()
            .and_then(|index| of.get(index))
            .ok_or_else(|| self.wrong(missing))
    }

    fn sized(&mut self, size: Option<usize>) -> Result<&'a [u8], Undecodable> {
        match size {
            Some(size) => self.take(size),
            None => self.bytes(),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], Undecodable> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.wrong("a length is negative"))?;
        self.take(length)
    }

    /// Reads a number of variable length, in zigzag.
    fn long(&mut self) -> Result<i64, Undecodable> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.chunk::<1>()?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let magnitude = (value >> 1).cast_signed();
                return Ok(magnitude ^ -(value & 1).cast_signed());
            }
        }
        Err(self.wrong("a number has more than 64 bits"))
    }

    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], Undecodable> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| self.wrong("the value ends early"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Undecodable> {
        let rest = &self.payload[self.at..];
        let bytes = rest
            .get(..count)
            .ok_or_else(|| self.wrong("the value ends early"))?;
        self.at += count;
        Ok(bytes)
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Undecodable {
        Undecodable::at(self.at, what)
    }
}
