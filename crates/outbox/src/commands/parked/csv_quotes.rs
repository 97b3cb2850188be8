//! Quotes of a CSV file, as RFC 4180 has them. The library reads others too, and makes up what they mean: of `"a"b` it
//! makes `ab`, and from a quote that is never closed on it takes rows for a part of a field.

use std::io::{Error, ErrorKind, Read, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reader of a file that fails at the first quote that no other reader may take for something else.
pub(super) struct CheckedQuotes<R> {
    file: R,
    delimiter: u8,
    place: Place,
    /// Line of the next byte, from 1 on.
    line: u64,
    /// Number of bytes that were read, up to the length of a byte order mark.
    begun: usize,
}

/// Place of the next byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of a field.
    Start,
    /// In a field without quotes.
    Plain,
    /// In a field with quotes.
    Quoted,
    /// Behind a quote in such a field: it ends the field, or is the first of two that mean one.
    BehindQuote,
}

impl<R: Read> CheckedQuotes<R> {
    pub(super) const fn new(file: R, delimiter: u8) -> Self {
        Self {
            file,
            delimiter,
            place: Place::Start,
            line: 1,
            begun: 0,
        }
    }

    fn take(&mut self, byte: u8) -> Result<()> {
        if self.begun < BYTE_ORDER_MARK.len() {
            let is_mark = byte == BYTE_ORDER_MARK[self.begun];
            self.begun = if is_mark {
                self.begun + 1
            } else {
                BYTE_ORDER_MARK.len()
            };
            if is_mark {
                return Ok(());
            }
        }
        let ends_field = byte == self.delimiter || matches!(byte, b'\r' | b'\n');
        self.place = match (self.place, byte) {
            (Place::Start, b'"') | (Place::BehindQuote, b'"') => Place::Quoted,
            (Place::Quoted, b'"') => Place::BehindQuote,
            (Place::Quoted, _) => Place::Quoted,
            (Place::Plain, b'"') => {
                return Err(self.error("has a quote in a field that does not begin with one"));
            }
            (Place::Start | Place::Plain | Place::BehindQuote, _) if ends_field => Place::Start,
            (Place::BehindQuote, _) => return Err(self.error("has text behind the quote that ends a field")),
            (Place::Start | Place::Plain, _) => Place::Plain,
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }

    fn error(&self, what: &str) -> Error {
        let text = format!(
            "line {} {what}: programs read such a file differently. Have it written as CSV with quotes around the whole \
             field, and each quote within it doubled",
            self.line
        );
        Error::new(ErrorKind::InvalidData, text)
    }
}

impl<R: Read> Read for CheckedQuotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.file.read(buffer)?;
        for byte in &buffer[..count] {
            self.take(*byte)?;
        }
        if count == 0 && !buffer.is_empty() && self.place == Place::Quoted {
            return Err(self.error("is the last one, and a quote is not closed before"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> std::result::Result<(), String> {
        // Two bytes at a time, so that nothing depends on where a read ends.
        let mut read = CheckedQuotes::new(text.as_bytes(), b';');
        let mut buffer = [0; 2];
        loop {
            match read.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn quotes_of_the_standard_are_read() {
        for text in [
            "",
            "order;state\na;settled\r\n",
            "\"order\";\"state\"\n\"a\";\"x \"\"y\"\"; z\nline\"\n",
            "\u{feff}\"order\";state\n\"\";\"\"\"\"",
            "a;b\rc;\"d\"",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn other_quotes_are_refused() {
        for (text, words) in [
            ("order;state\na;\"s\"ettled\n", "line 2 has text behind the quote"),
            ("order;state\na;s\"ettled\"\n", "line 2 has a quote in a field"),
            ("order;state\n \"a\";settled\n", "line 2 has a quote in a field"),
            ("order;state\na;\"settled\nb;declined\n", "line 4 is the last one"),
        ] {
            let error = check(text).expect_err(text);
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
