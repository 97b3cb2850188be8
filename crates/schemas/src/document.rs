//! JSON document that a value is read as, of a bounded size.

use std::fmt;
use std::io;

/// Maximum size of a document, in bytes.
// An encoded value can be thousands of times smaller than its JSON: an array of a million nulls is a few bytes of Avro.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Maximum number of objects and arrays that a value is nested in.
// The readers of the document allow 128, and a message of Protobuf may be an object in an array.
pub(crate) const DEPTH_MAX: usize = 48;

/// Value that is not one of its schema. The text quotes nothing of the value, which may be a customer's data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Undecodable(pub(crate) String);

impl Undecodable {
    pub(crate) fn at(byte: usize, what: impl fmt::Display) -> Self {
        Self(format!("{what} (at byte {byte} of the encoded order)"))
    }
}

/// Document that is being written.
#[derive(Debug, Default)]
pub(crate) struct Document {
    bytes: Vec<u8>,
}

impl Document {
    /// Appends JSON.
    ///
    /// # Errors
    /// The document would be too large.
    pub(crate) fn push(&mut self, json: &str) -> Result<(), Undecodable> {
        self.room(json.len())?;
        self.bytes.extend_from_slice(json.as_bytes());
        Ok(())
    }

    /// Appends a text as a JSON string.
    ///
    /// # Errors
    /// The document would be too large.
    pub(crate) fn push_string(&mut self, text: &str) -> Result<(), Undecodable> {
        self.room(text.len())?;
        serde_json::to_writer(&mut *self, text).map_err(|_| too_large())
    }

    /// Appends a value as JSON.
    ///
    /// # Errors
    /// The document would be too large, or the value has no JSON.
    pub(crate) fn push_display(&mut self, value: impl fmt::Display) -> Result<(), Undecodable> {
        self.push(&value.to_string())
    }

    /// Returns the document.
    pub(crate) fn into_text(self) -> Result<String, Undecodable> {
        String::from_utf8(self.bytes).map_err(|_| Undecodable("the document is not UTF-8".into()))
    }

    fn room(&self, bytes: usize) -> Result<(), Undecodable> {
        match self.bytes.len().saturating_add(bytes) {
            ..=DOCUMENT_BYTES_MAX => Ok(()),
            _ => Err(too_large()),
        }
    }
}

/// For the serializers of libraries.
impl io::Write for Document {
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        self.room(json.len()).map_err(io::Error::other)?;
        self.bytes.extend_from_slice(json);
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn too_large() -> Undecodable {
    Undecodable(format!(
        "as JSON the order has more than {DOCUMENT_BYTES_MAX} bytes"
    ))
}

pub(crate) fn too_deep() -> Undecodable {
    Undecodable(format!("the order has more than {DEPTH_MAX} levels"))
}
