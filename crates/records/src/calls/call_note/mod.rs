//! Call notes: intents and completions of a partition, in the metadata of the group's committed offset.
//!
//! Written and read by the caller, and read by `outbox notes`. The committed offset is the commit position:
//! all calls below it are final. The note says which calls from there on are final, too, and for which an
//! intent was recorded, so that they may have been processed. And it has the id of the outbox, since offsets mean
//! nothing in one that was created again. It is all that the next owner knows.
//!
//! ASCII text, `2:OUTBOX:FINALS:INTENTS`, or `1:FINALS:INTENTS` without the id, as earlier versions wrote it. Each
//! set is empty, or a letter and base64 (URL alphabet, no padding): `r` and the run lengths in LEB128, alternately
//! outside and inside the set; or `b` and a bitmap, lowest bit first. The shorter one is written. Both count
//! from the committed offset.
//!
//! Version rule: a note of another version, or one that is malformed, is an error and never an empty note.
//! Without its intents, calls would be sent a second time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::topics::topic_id::ID_BYTES_MAX;
use crate::{Offset, OffsetSet, TopicId};

/// Maximum length of a note, in bytes: the broker's default of `offset.metadata.max.bytes`.
pub const NOTE_BYTES_MAX: usize = 4096;

/// Prefix of a note with the outbox's id.
const PREFIX: &str = "2:";
/// Prefix of a note without it.
const PREFIX_WITHOUT_ID: &str = "1:";

/// Intents and completions of a partition, from its commit position on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallNote {
    /// Id of the outbox that the offsets count in; `None` in a note of an earlier version, or if the brokers do
    /// not report it.
    pub outbox: Option<TopicId>,
    /// Final calls, and offsets without a call.
    pub finals: OffsetSet,
    /// Calls with an intent and without a completion: sent, or about to be, with unknown outcome.
    pub intents: OffsetSet,
}

/// Note that would be longer than [`NOTE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the call note would have {bytes} bytes; the broker accepts {NOTE_BYTES_MAX} \
     (offset.metadata.max.bytes)"
)]
pub struct NoteTooLong {
    /// Length of the note, in bytes.
    pub bytes: usize,
}

/// Text that is not a call note of the supported version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNote {
    /// A later version of the program, or another program, wrote the text.
    #[error(
        "the metadata of the committed offset begins with {0:?}, which is not a call note of version 1 or 2: \
         a later version of the caller, or another program, has committed it"
    )]
    UnknownVersion(String),
    /// The note is truncated or corrupt.
    #[error("the call note is malformed: {0}")]
    Malformed(&'static str),
}

impl CallNote {
    /// Returns the note as text, relative to `base`, the offset that it is committed with. The sets have no
    /// offset below `base`.
    ///
    /// # Errors
    /// The note is too long for the broker.
    pub fn encode(&self, base: Offset) -> Result<String, NoteTooLong> {
        let finals = encode_set(&self.finals, base);
        let intents = encode_set(&self.intents, base);
        let text = match &self.outbox {
            Some(outbox) => format!("{PREFIX}{outbox}:{finals}:{intents}"),
            // No metadata, as in commits of Kafka's own tools.
            None if finals.is_empty() && intents.is_empty() => String::new(),
            None => format!("{PREFIX_WITHOUT_ID}{finals}:{intents}"),
        };
        match text.len() {
            bytes if bytes > NOTE_BYTES_MAX => Err(NoteTooLong { bytes }),
            _ => Ok(text),
        }
    }

    /// Parses a note that was committed with the offset `base`. Empty text is an empty note.
    ///
    /// # Errors
    /// The text is not a note of version 1 or 2.
    pub fn decode(base: Offset, text: &str) -> Result<Self, InvalidNote> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (with_id, without_id) = (text.strip_prefix(PREFIX), text.strip_prefix(PREFIX_WITHOUT_ID));
        let parts = with_id
            .or(without_id)
            .ok_or_else(|| InvalidNote::UnknownVersion(text.chars().take(16).collect()))?;
        // A broker with a higher limit may hold a longer text, but no caller wrote it.
        if text.len() > NOTE_BYTES_MAX {
            return Err(InvalidNote::Malformed("it is longer than a note can be"));
        }
        let missing = InvalidNote::Malformed("a part is missing");
        let (outbox, sets) = match with_id {
            None => (None, parts),
            Some(parts) => {
                let (id, sets) = parts.split_once(':').ok_or(missing.clone())?;
                let id = TopicId::new(id).ok_or(InvalidNote::Malformed("the topic's id is none"))?;
                (Some(id), sets)
            }
        };
        let (finals, intents) = sets.split_once(':').ok_or(missing)?;
        Ok(Self {
            outbox,
            finals: decode_set(finals, base)?,
            intents: decode_set(intents, base)?,
        })
    }
}

/// Returns `true` if every note fits for `open` calls that are not final among `span` offsets from the commit
/// position on, whichever of them have an intent, and in whatever order they become final.
#[must_use]
pub fn fits_always(open: u64, span: u64) -> bool {
    // As runs: each set has at most one run for each open call, and two lengths for each run. Of runs with
    // `span` offsets in all, at most `span / 128` lengths need a second byte, and so on.
    let longer_lengths: u64 = (0..9).map(|septet| open.min(span >> (7 * septet))).sum();
    let runs = open.saturating_add(longer_lengths);
    // As a bitmap, a set takes `span` bits. The shorter encoding is written, and there are two sets.
    2 * runs.min(span.div_ceil(8)) <= SETS_BYTES_MAX
}

/// Maximum size of both sets before base64, in bytes.
// Of the note, 6 bytes and the id are the prefix, the colons and the two letters. Base64 turns 3 bytes into 4,
// and may round up by one byte for each set.
const SETS_BYTES_MAX: u64 = (NOTE_BYTES_MAX - ID_BYTES_MAX - 8) as u64 / 4 * 3;

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
        // Many short runs, such as every second call of a window.
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
            .map_err(|_| InvalidNote::Malformed("a part is not base64"))
    };
    match (text.strip_prefix('r'), text.strip_prefix('b')) {
        (Some(runs), _) => decode_runs(&bytes(runs)?, base),
        (None, Some(bitmap)) => decode_bitmap(&bytes(bitmap)?, base),
        (None, None) if text.is_empty() => Ok(OffsetSet::new()),
        (None, None) => Err(InvalidNote::Malformed("a part is neither runs nor a bitmap")),
    }
}

fn decode_runs(bytes: &[u8], base: Offset) -> Result<OffsetSet, InvalidNote> {
    let mut set = OffsetSet::new();
    let mut lengths = bytes;
    let mut position = base.0;
    while !lengths.is_empty() {
        let from = advance(position, &mut lengths)?;
        let until = advance(from, &mut lengths)?;
        // Only the first gap may be empty. Any other empty run has a second encoding, so no caller wrote it.
        if until == from || (from == position && position != base.0) {
            return Err(InvalidNote::Malformed("a run has no length"));
        }
        set.insert_run(Offset(from), Offset(until));
        position = until;
    }
    Ok(set)
}

fn decode_bitmap(bytes: &[u8], base: Offset) -> Result<OffsetSet, InvalidNote> {
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    (0_i64..)
        .zip(bits)
        .filter(|(_, is_set)| *is_set)
        // The bits of the last byte that are not set may lie behind the last offset. The end of a run is one behind it.
        .map(|(at, _)| base.0.checked_add(at).filter(|offset| *offset < i64::MAX))
        .map(|offset| offset.map(Offset))
        .collect::<Option<_>>()
        .ok_or(InvalidNote::Malformed("an offset exceeds 63 bits"))
}

/// Appends a length in LEB128.
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

/// Reads the next length from `bytes`, and returns the position after it.
fn advance(position: i64, bytes: &mut &[u8]) -> Result<i64, InvalidNote> {
    let mut length = 0_u64;
    for septet in 0..9 {
        let (&byte, rest) = bytes
            .split_first()
            .ok_or(InvalidNote::Malformed("a run is truncated"))?;
        *bytes = rest;
        length |= u64::from(byte & 0x7f) << (7 * septet);
        if byte & 0x80 == 0 {
            // Nine septets are 63 bits, so the sign bit is 0.
            return position
                .checked_add(length.cast_signed())
                .ok_or(InvalidNote::Malformed("an offset exceeds 63 bits"));
        }
    }
    Err(InvalidNote::Malformed("a run is longer than a partition"))
}

#[cfg(test)]
mod tests;
