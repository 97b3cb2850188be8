//! Headers of records: look-up by name, and the size of a record with them.

/// Returns the value of the last header with this name. The inner `None` is a header without a value, which
/// is there all the same.
// The last one, as Kafka's own `Headers.lastHeader`: whoever adds a header appends it.
#[must_use]
pub fn last<'a>(headers: &[(&str, Option<&'a [u8]>)], name: &str) -> Option<Option<&'a [u8]>> {
    headers
        .iter()
        .rev()
        .find(|(header, _)| *header == name)
        .map(|(_, value)| *value)
}

/// Returns the size of a record's key, value and headers, in bytes.
#[must_use]
pub fn record_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> usize {
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    // The record format stores two varint lengths with each header, at most 5 bytes each.
    let headers = headers
        .iter()
        .map(|(name, value)| name.len() + length(*value) + 10);
    length(key) + length(value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_header_of_a_name_counts() {
        let headers = [("a", Some(&b"1"[..])), ("b", None), ("a", Some(b"2"))];
        assert_eq!(last(&headers, "a"), Some(Some(&b"2"[..])));
        assert_eq!(last(&headers, "b"), Some(None));
        assert_eq!(last(&headers, "c"), None);
    }
}
