//! Block of a run: rows in the order of their keys, and a checksum over them and over where they belong.

use std::cmp::Ordering;

use records::KeyHash;
use twox_hash::XxHash3_64;

use super::row::{ROW_BYTES, Row, key};

/// Maximum number of rows in a block.
// With redb's own bytes around it, the block fits into one of its pages of 4 KiB.
pub(crate) const ROWS_MAX: usize = 67;

/// Length of a checksum, in bytes.
pub(crate) const CHECKSUM_BYTES: usize = 8;

/// Place of a block, or of a segment's index, in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) run: u64,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
}

/// What is in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Block = 0,
    Index = 1,
}

/// Appends the checksum of the bytes in this place.
// The place counts too: a page that the disk has written elsewhere, or kept from an earlier run, is intact in itself.
pub(crate) fn seal(bytes: &mut Vec<u8>, place: Place) {
    let checksum = checksum(bytes, place);
    bytes.extend_from_slice(&checksum);
}

/// Returns the bytes without their checksum; `None` if it is not that of these bytes in this place.
pub(crate) fn unseal(sealed: &[u8], place: Place) -> Option<&[u8]> {
    let (bytes, found) = sealed.split_at_checked(sealed.len().checked_sub(CHECKSUM_BYTES)?)?;
    (found == checksum(bytes, place)).then_some(bytes)
}

fn checksum(bytes: &[u8], place: Place) -> [u8; CHECKSUM_BYTES] {
    let Place { run, number, kind } = place;
    // The place is the seed. Kinds are two, and no run has 2^31 blocks.
    let seed = run.rotate_left(32) ^ (u64::from(number) << 1) ^ kind as u64;
    XxHash3_64::oneshot_with_seed(seed, bytes).to_le_bytes()
}

/// Returns the row of a key in the rows of a block.
pub(crate) fn find(rows: &[u8], wanted: KeyHash) -> Option<Row> {
    let row = |number: usize| &rows[number * ROW_BYTES..][..ROW_BYTES];
    let (mut from, mut end) = (0, rows.len() / ROW_BYTES);
    while from < end {
        let middle = from.midpoint(end);
        match key(row(middle)).cmp(&wanted) {
            Ordering::Less => from = middle + 1,
            Ordering::Greater => end = middle,
            Ordering::Equal => return Row::from_bytes(row(middle)),
        }
    }
    None
}
