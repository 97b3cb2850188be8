//! The call notes: what a caller remembers of a partition, in the metadata of its committed offset.
//!
//! The committed offset is the watermark; the note says which calls from there on are final already, and
//! which have begun and may have been processed. The note is all that the next owner knows, so it is read
//! strictly: what is not understood in full is refused, and never taken for an empty note.
//!
//! It is ASCII text, `1:FINALS:BEGUN`. Each part is empty, or a letter and base64 (URL alphabet, no
//! padding): `r` and the lengths of the runs, outside and inside by turns, each in LEB128; or `b` and a
//! bitmap, lowest bit first. Whichever is shorter is written. Both count from the committed offset.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Offset, OffsetSet};

/// The longest note, in bytes: the broker's default of `offset.metadata.max.bytes`.
pub const NOTE_BYTES_MAX: usize = 4096;

const PREFIX: &str = "1:";

/// What is known of a partition's calls from the committed offset on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallNote {
    /// Calls that have their outcome, and offsets that hold no call.
    pub finals: OffsetSet,
    /// Calls that were sent, and of which nobody can know yet whether they were processed.
    pub begun: OffsetSet,
}

/// The note would be longer than [`NOTE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call note would have {bytes} bytes; the broker takes {NOTE_BYTES_MAX}")]
pub struct NoteTooLong {
    /// How long it would be, in bytes.
    pub bytes: usize,
}

/// Text that is no call note of a version that this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNote {
    /// A later version of the program, or another program, wrote it.
    #[error(
        "the metadata of the committed offset begins with {0:?}, and is no call note of version 1: \
         a later caller, or another program, has committed it"
    )]
    UnknownVersion(String),
    /// The note is cut off or garbled.
    #[error("the call note is garbled: {0}")]
    Garbled(&'static str),
}

impl CallNote {
    /// The note as text, counted from the offset that it is committed with. No offset lies below `base`.
    ///
    /// # Errors
    /// The note is too long for the broker.
    pub fn encode(&self, base: Offset) -> Result<String, NoteTooLong> {
        if self.finals.is_empty() && self.begun.is_empty() {
            return Ok(String::new());
        }
        let finals = encode_set(&self.finals, base);
        let begun = encode_set(&self.begun, base);
        let text = format!("{PREFIX}{finals}:{begun}");
        match text.len() {
            bytes if bytes > NOTE_BYTES_MAX => Err(NoteTooLong { bytes }),
            _ => Ok(text),
        }
    }

    /// Reads a note back. No text at all is the note of an offset that was committed without one, as by
    /// Kafka's own tools.
    ///
    /// # Errors
    /// The text is no note of version 1.
    pub fn decode(base: Offset, text: &str) -> Result<Self, InvalidNote> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parts = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| InvalidNote::UnknownVersion(text.chars().take(16).collect()))?;
        if text.len() > NOTE_BYTES_MAX {
            return Err(InvalidNote::Garbled("it is longer than a note can be"));
        }
        let (finals, begun) = parts
            .split_once(':')
            .ok_or(InvalidNote::Garbled("it has no second part"))?;
        Ok(Self {
            finals: decode_set(finals, base)?,
            begun: decode_set(begun, base)?,
        })
    }
}

/// Whether a note fits, however its calls end, and whichever of them have begun: `open` calls that are not
/// final lie among `span` offsets from the watermark on.
///
/// As a bitmap a set takes `span` bits. As runs, the finals have at most one run for each open call, and so
/// have the beginnings; of runs with `span` offsets in all, at most `span / 128` need a second byte, and so
/// on.
#[must_use]
pub fn fits_always(open: u64, span: u64) -> bool {
    let longer_lengths: u64 = (0..9).map(|septet| open.min(span >> (7 * septet))).sum();
    let runs = open.saturating_add(longer_lengths);
    2 * runs.min(span.div_ceil(8)) <= SETS_BYTES_MAX
}

/// What is left for both sets: the prefix, the colon and the letters are text, and the rest is base64, each
/// set's rounded up.
const SETS_BYTES_MAX: u64 = (NOTE_BYTES_MAX as u64 - 7) / 4 * 3;

fn encode_set(set: &OffsetSet, base: Offset) -> String {
    let Some(end) = set.end() else {
        return String::new();
    };
    debug_assert!(set.runs().all(|(from, _)| from >= base), "an offset below {base}");
    let mut runs = Vec::new();
    let mut position = base;
    for (from, until) in set.runs() {
        push_length(&mut runs, from.0.abs_diff(position.0));
        push_length(&mut runs, until.0.abs_diff(from.0));
        position = until;
    }
    let span = end.0.abs_diff(base.0);
    match usize::try_from(span.div_ceil(8)) {
        Ok(bitmap_bytes) if bitmap_bytes < runs.len() => {
            let mut bitmap = vec![0_u8; bitmap_bytes];
            for (from, until) in set.runs() {
                (from.0..until.0)
                    .filter_map(|offset| usize::try_from(offset - base.0).ok())
                    .for_each(|bit| bitmap[bit / 8] |= 1 << (bit % 8));
            }
            format!("b{}", URL_SAFE_NO_PAD.encode(bitmap))
        }
        _ => format!("r{}", URL_SAFE_NO_PAD.encode(runs)),
    }
}

fn decode_set(text: &str, base: Offset) -> Result<OffsetSet, InvalidNote> {
    let bytes = |base64: &str| {
        URL_SAFE_NO_PAD
            .decode(base64)
            .map_err(|_| InvalidNote::Garbled("a part is no base64"))
    };
    match (text.strip_prefix('r'), text.strip_prefix('b')) {
        (Some(runs), _) => decode_runs(&bytes(runs)?, base),
        (None, Some(bitmap)) => decode_bitmap(&bytes(bitmap)?, base),
        (None, None) if text.is_empty() => Ok(OffsetSet::new()),
        (None, None) => Err(InvalidNote::Garbled("a part is neither runs nor a bitmap")),
    }
}

fn decode_runs(bytes: &[u8], base: Offset) -> Result<OffsetSet, InvalidNote> {
    let mut set = OffsetSet::new();
    let mut lengths = bytes;
    let mut position = base.0;
    while !lengths.is_empty() {
        let from = step(position, &mut lengths)?;
        let until = step(from, &mut lengths)?;
        if until == from || (from == position && position != base.0) {
            return Err(InvalidNote::Garbled("a run has no length"));
        }
        set.insert_run(Offset(from), Offset(until));
        position = until;
    }
    Ok(set)
}

fn decode_bitmap(bytes: &[u8], base: Offset) -> Result<OffsetSet, InvalidNote> {
    let beyond = InvalidNote::Garbled("an offset is beyond all offsets");
    if i64::try_from(bytes.len() * 8).map_or(true, |bits| base.0.checked_add(bits).is_none()) {
        return Err(beyond);
    }
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Ok((base.0..)
        .zip(bits)
        .filter_map(|(offset, set)| set.then_some(Offset(offset)))
        .collect())
}

fn push_length(bytes: &mut Vec<u8>, mut length: u64) {
    loop {
        let [septet, ..] = (length & 0x7f).to_le_bytes();
        length >>= 7;
        if length == 0 {
            return bytes.push(septet);
        }
        bytes.push(septet | 0x80);
    }
}

/// The position behind the next length of a list.
fn step(position: i64, bytes: &mut &[u8]) -> Result<i64, InvalidNote> {
    let mut length = 0_u64;
    for septet in 0..9 {
        let (&byte, rest) = bytes
            .split_first()
            .ok_or(InvalidNote::Garbled("a run is cut off"))?;
        *bytes = rest;
        length |= u64::from(byte & 0x7f) << (7 * septet);
        if byte & 0x80 == 0 {
            // Nine septets are 63 bits, so the length is no negative number.
            return position
                .checked_add(length.cast_signed())
                .ok_or(InvalidNote::Garbled("an offset is beyond all offsets"));
        }
    }
    Err(InvalidNote::Garbled("a run is longer than a partition"))
}

#[cfg(test)]
mod tests;
