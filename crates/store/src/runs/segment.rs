//! Segment of a run: consecutive blocks with their index, which is in memory while the store is open.
//!
//! The index has a filter, which says of nearly every key that is not there that it is not, and the first key of each
//! block. A segment has a limited number of rows, so that a run of any length is written in bounded memory.

use records::KeyHash;
use xorf::{BinaryFuse16, Descriptor, Filter};

use super::block::{self, CHECKSUM_BYTES, Kind, Place};

/// Maximum number of blocks in a segment; some 64,000 rows.
pub(crate) const BLOCKS_MAX: usize = 960;

/// Length of the numbers that an index begins with: the first block, the number of blocks, and the first key.
const HEAD_BYTES: usize = 4 + 4 + KeyHash::BYTES;
/// Length of a filter's descriptor.
const DESCRIPTOR_BYTES: usize = 8 + 3 * 4;
/// Length of the first half of a block's first key.
const FIRST_BYTES: usize = 8;

/// Index of a segment, as it is in the file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// First key of the segment.
    pub(crate) first: KeyHash,
    /// Number of its first block in the run.
    block: u32,
    blocks: u32,
    /// First half of the first key of each block.
    firsts: Box<[u64]>,
    /// Filter of 16 bits for each key: one new key in 65,000 passes it. `None` if every key has to be looked for.
    filter: Option<BinaryFuse16>,
}

impl Segment {
    /// Returns the segment that begins with this block, of the first keys of its blocks and all its keys. `keys` is
    /// scratch space: it is sorted.
    pub(crate) fn new(block: u32, firsts: &[KeyHash], keys: &mut Vec<u64>) -> Self {
        // The filter takes no key twice. Two hashes with one half are a false positive of the filter for each other.
        keys.sort_unstable();
        keys.dedup();
        // Fails only for keys that occur twice, or once in many lifetimes: it has a thousand seeds to try. Without a
        // filter every look-up reads its block, which is slow and right.
        let filter = BinaryFuse16::try_from(&*keys).ok();
        Self {
            first: firsts.first().copied().unwrap_or_else(|| KeyHash::of(&[])),
            block,
            blocks: u32::try_from(firsts.len()).unwrap_or(u32::MAX),
            firsts: firsts.iter().map(|key| key.first_half()).collect(),
            filter,
        }
    }

    /// Returns the bytes of the index, with their checksum.
    pub(crate) fn encode(&self, place: Place) -> Vec<u8> {
        let filter_bytes = self
            .filter
            .as_ref()
            .map_or(0, |filter| DESCRIPTOR_BYTES + 2 * filter.len());
        let length = HEAD_BYTES + self.firsts.len() * FIRST_BYTES + filter_bytes + CHECKSUM_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.block.to_le_bytes());
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_bytes());
        for first in &self.firsts {
            bytes.extend_from_slice(&first.to_le_bytes());
        }
        if let Some(filter) = &self.filter {
            encode_filter(filter, &mut bytes);
        }
        block::seal(&mut bytes, place);
        bytes
    }

    /// Returns the index of these bytes; `None` if they are damaged.
    pub(crate) fn decode(sealed: &[u8], run: u64, number: u32) -> Option<Self> {
        let place = Place {
            run,
            number,
            kind: Kind::Index,
        };
        let (block, rest) = block::unseal(sealed, place)?.split_first_chunk()?;
        let (blocks, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_at_checked(KeyHash::BYTES)?;
        let blocks = u32::from_le_bytes(*blocks);
        let (firsts, filter) = rest.split_at_checked(usize::try_from(blocks).ok()? * FIRST_BYTES)?;
        Some(Self {
            first: KeyHash::from_bytes(first)?,
            block: u32::from_le_bytes(*block),
            blocks,
            firsts: firsts
                .as_chunks()
                .0
                .iter()
                .map(|first| u64::from_le_bytes(*first))
                .collect(),
            filter: if filter.is_empty() {
                None
            } else {
                Some(decode_filter(filter)?)
            },
        })
    }

    /// Returns the number of the block behind the last one.
    pub(crate) const fn end(&self) -> u32 {
        self.block + self.blocks
    }

    /// Returns `false` if the segment surely does not have the key.
    pub(crate) fn may_contain(&self, key: KeyHash) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.contains(&key.second_half()))
    }

    /// Returns the numbers of the blocks that can have the key: one, or more if first keys share their half.
    pub(crate) fn blocks_of(&self, key: KeyHash) -> impl Iterator<Item = u32> + use<> {
        let half = key.first_half();
        let from = self
            .firsts
            .partition_point(|first| *first < half)
            .saturating_sub(1);
        let end = self.firsts.partition_point(|first| *first <= half);
        let number = |position: usize| self.block + u32::try_from(position).unwrap_or(u32::MAX);
        number(from)..number(end)
    }
}

fn encode_filter(filter: &BinaryFuse16, bytes: &mut Vec<u8>) {
    let Descriptor {
        seed,
        segment_length,
        segment_length_mask,
        segment_count_length,
    } = filter.descriptor;
    bytes.extend_from_slice(&seed.to_le_bytes());
    for number in [segment_length, segment_length_mask, segment_count_length] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for fingerprint in &filter.fingerprints {
        bytes.extend_from_slice(&fingerprint.to_le_bytes());
    }
}

fn decode_filter(bytes: &[u8]) -> Option<BinaryFuse16> {
    let (seed, rest) = bytes.split_first_chunk()?;
    let (segment_length, rest) = rest.split_first_chunk()?;
    let (segment_length_mask, rest) = rest.split_first_chunk()?;
    let (segment_count_length, rest) = rest.split_first_chunk()?;
    let (fingerprints, []) = rest.as_chunks() else {
        return None;
    };
    Some(BinaryFuse16 {
        descriptor: Descriptor {
            seed: u64::from_le_bytes(*seed),
            segment_length: u32::from_le_bytes(*segment_length),
            segment_length_mask: u32::from_le_bytes(*segment_length_mask),
            segment_count_length: u32::from_le_bytes(*segment_count_length),
        },
        fingerprints: fingerprints
            .iter()
            .map(|bytes| u16::from_le_bytes(*bytes))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_index_finds_each_key_and_few_others() {
        let mut keys: Vec<KeyHash> = (0..10_000_u32).map(|n| KeyHash::of(&n.to_le_bytes())).collect();
        keys.sort_unstable();
        let firsts: Vec<KeyHash> = keys.chunks(block::ROWS_MAX).map(|block| block[0]).collect();
        let mut halves = keys.iter().map(|key| key.second_half()).collect();
        let place = Place {
            run: 3,
            number: 5,
            kind: Kind::Index,
        };
        let bytes = Segment::new(40, &firsts, &mut halves).encode(place);
        let segment = Segment::decode(&bytes, 3, 5).expect("sound");
        assert_eq!((segment.first, segment.end()), (keys[0], 40 + 150));
        for (number, key) in keys.iter().enumerate() {
            let block = 40 + u32::try_from(number / block::ROWS_MAX).expect("small");
            assert!(segment.may_contain(*key));
            // A block's first key may share its half with the last key of the block before.
            let is_first = number % block::ROWS_MAX == 0 && number > 0;
            let blocks = segment.blocks_of(*key).collect::<Vec<_>>();
            assert_eq!(
                blocks,
                if is_first {
                    vec![block - 1, block]
                } else {
                    vec![block]
                }
            );
        }
        let others = (10_000..60_000_u32).map(|n| KeyHash::of(&n.to_le_bytes()));
        let passed = others.filter(|key| segment.may_contain(*key)).count();
        assert!(passed < 20, "{passed} of 50,000 pass the filter");

        assert!(Segment::decode(&bytes, 4, 5).is_none(), "of another run");
        assert!(Segment::decode(&bytes, 3, 6).is_none(), "of another segment");
        let mut damaged = bytes;
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(Segment::decode(&damaged, 3, 5).is_none());
    }

    #[test]
    fn keys_that_share_their_first_half_are_in_two_blocks() {
        let key = |first: u64, second: u64| {
            let number = u128::from(first) << 64 | u128::from(second);
            KeyHash::from_bytes(&number.to_be_bytes()).expect("16 bytes")
        };
        let firsts = [key(1, 0), key(7, 5), key(7, 9), key(8, 0)];
        let segment = Segment::new(0, &firsts, &mut vec![0, 5, 9]);
        assert_eq!(segment.blocks_of(key(7, 7)).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(segment.blocks_of(key(6, 7)).collect::<Vec<_>>(), [0]);
        assert_eq!(segment.blocks_of(key(9, 0)).collect::<Vec<_>>(), [3]);
    }
}
