//! W3C trace context of a record: the headers `traceparent` and `tracestate`.
//!
//! Both come from whoever produced the order. They never decide anything about it: a value that is malformed or too
//! long counts as absent.

use std::str;

use crate::header;

/// Name of the header with trace id, span id and flags.
pub const TRACEPARENT: &str = "traceparent";
/// Name of the header with what tracing systems add of their own.
pub const TRACESTATE: &str = "tracestate";

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// Maximum length of a `traceparent` of a later version, which may have more parts.
const LENGTH_MAX: usize = 256;
/// Maximum length of a `tracestate`. The standard asks for at least 512 to be passed on; more is dropped.
const STATE_LENGTH_MAX: usize = 512;
/// The flags that version 00 knows: sampled, and trace id is random.
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;

/// Place in a trace: a span that others continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Id of the trace; not all zeros.
    pub trace_id: [u8; 16],
    /// Id of the span; not all zeros.
    pub span_id: [u8; 8],
    /// Flags, as far as they are known.
    pub flags: u8,
}

impl TraceContext {
    /// Creates a context whose trace is recorded.
    #[must_use]
    pub fn sampled(trace_id: [u8; 16], span_id: [u8; 8]) -> Self {
        let flags = SAMPLED;
        Self {
            trace_id,
            span_id,
            flags,
        }
    }

    /// Parses a `traceparent`. `None` if it is malformed (W3C Trace Context, section 3.2).
    // Without an allocation: the validator asks for each order that has one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_whole = match text.get(..2)? {
            b"00" => text.len() == LENGTH,
            // Later versions may append parts; a reader must accept them.
            _ => text.len() == LENGTH || (text.get(LENGTH) == Some(&b'-') && text.len() <= LENGTH_MAX),
        };
        if !is_whole || [2, 35, 52].iter().any(|dash| text[*dash] != b'-') {
            return None;
        }
        let [version] = bytes(&text[..2])?;
        let trace_id = bytes(&text[3..35])?;
        let span_id = bytes(&text[36..52])?;
        let [flags] = bytes(&text[53..LENGTH])?;
        let is_valid = version != 0xff && trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self {
            trace_id,
            span_id,
            flags: flags & KNOWN_FLAGS,
        })
    }

    /// Returns the context that the headers of a record carry. The last header counts.
    #[must_use]
    pub fn of(headers: &[(&str, Option<&[u8]>)]) -> Option<Self> {
        Self::parse(header::last(headers, TRACEPARENT)??)
    }

    /// Returns `true` if the trace is recorded where it comes from.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Returns the value of the header.
    #[must_use]
    pub fn traceparent(&self) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &self.span_id);
        write_hex(&mut text[53..], &[self.flags]);
        text
    }
}

/// Returns the `tracestate` that the headers of a record carry, if it is short enough and printable. Its syntax is not
/// checked further.
#[must_use]
pub fn tracestate<'a>(headers: &[(&str, Option<&'a [u8]>)]) -> Option<&'a str> {
    let value = header::last(headers, TRACESTATE)??;
    let is_sound =
        (1..=STATE_LENGTH_MAX).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    is_sound.then(|| str::from_utf8(value).ok()).flatten()
}

fn bytes<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    // Lower case only, as the standard says.
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

fn write_hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn context_is_read_and_written() {
        let context = TraceContext::parse(TEXT.as_bytes()).expect("a context");
        assert_eq!((context.trace_id[0], context.trace_id[15]), (0x4b, 0x36));
        assert_eq!((context.span_id[1], context.span_id[7]), (0xf0, 0xb7));
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), TEXT.as_bytes());
        let unsampled = TEXT.replace("-01", "-00");
        let unsampled = TraceContext::parse(unsampled.as_bytes()).expect("a context");
        assert!(!unsampled.is_sampled());
        // Of flags that later versions define nothing is known, so they are not passed on.
        let flags = TEXT.replace("-01", "-ff");
        assert_eq!(
            TraceContext::parse(flags.as_bytes()).map(|c| c.flags),
            Some(KNOWN_FLAGS)
        );
    }

    #[test]
    fn malformed_context_counts_as_absent() {
        let later = |more: &str| TEXT.replacen("00", "01", 1) + more;
        let zeros = TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        for text in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-more"),
            &later("more"),
            &later(&format!("-{}", "a".repeat(LENGTH_MAX))),
            &TEXT.replacen("00", "ff", 1),
            &TEXT.to_uppercase(),
            &TEXT.replace('-', "_"),
            &TEXT.replace("f067aa0ba902b7", "00000000000000"),
            &zeros,
            &"\u{1f4b6}".repeat(30),
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
        for text in [later(""), later("-more")] {
            assert!(TraceContext::parse(text.as_bytes()).is_some(), "{text}");
        }
    }

    #[test]
    fn last_header_counts() {
        let other = TEXT.replace("4bf9", "ffff");
        let own = Some(TEXT.as_bytes());
        let trace = |headers: &[(&str, Option<&[u8]>)]| TraceContext::of(headers).map(|c| c.trace_id[0]);
        assert_eq!(trace(&[(TRACEPARENT, own)]), Some(0x4b));
        assert_eq!(
            trace(&[(TRACEPARENT, own), (TRACEPARENT, Some(other.as_bytes()))]),
            Some(0xff)
        );
        assert_eq!(trace(&[(TRACEPARENT, own), (TRACEPARENT, None)]), None);
        assert_eq!(trace(&[]), None);
    }

    #[test]
    fn long_or_unprintable_state_counts_as_absent() {
        let state = |value: &[u8]| tracestate(&[(TRACESTATE, Some(value))]).map(str::len);
        assert_eq!(state(b"vendor=1"), Some(8));
        assert_eq!(state(&[b'a'; STATE_LENGTH_MAX]), Some(STATE_LENGTH_MAX));
        assert_eq!(state(&[b'a'; STATE_LENGTH_MAX + 1]), None);
        for value in [&b""[..], b"a=1\r\nx: y", b"a=\xff", "a=\u{e4}".as_bytes()] {
            assert_eq!(state(value), None, "{value:?}");
        }
        assert_eq!(tracestate(&[]), None);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_no_context_or_a_valid_one(text in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(TraceContext::parse(&text).is_none());
        }

        #[test]
        fn what_is_written_is_read_again(trace: [u8; 16], span: [u8; 8], flags in 0..=KNOWN_FLAGS) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = TraceContext { trace_id: trace, span_id: span, flags };
            prop_assert_eq!(TraceContext::parse(&context.traceparent()), Some(context));
        }
    }
}
