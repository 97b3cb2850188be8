//! The manifest of a store: what it is equal to, and of which runs it consists. One row of the file, so that all of it
//! changes at once.

use records::{Offset, Timestamp};
use redb::TableDefinition;
use twox_hash::XxHash3_64;

use crate::identity::LAYOUT;
use crate::runs::run::RunMeta;

/// The manifest, under [`MANIFEST_ROW`].
pub(crate) const MANIFEST: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("manifest");

/// Key of the only row in [`MANIFEST`].
pub(crate) const MANIFEST_ROW: u8 = 0;

/// Length of the checksum behind the manifest, in bytes.
const CHECKSUM_BYTES: usize = 8;

/// Contents of a store's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Text of the store's identity.
    pub(crate) identity: String,
    /// Changelog offset up to which the runs are equal to the changelog; `None` if nothing was restored yet.
    pub(crate) checkpoint: Option<Offset>,
    /// Number of the next run.
    pub(crate) next_run: u64,
    /// Runs from the oldest to the newest.
    pub(crate) runs: Vec<RunMeta>,
}

impl Manifest {
    pub(crate) fn new(identity: String) -> Self {
        Self {
            identity,
            checkpoint: None,
            next_run: 0,
            runs: Vec::new(),
        }
    }

    /// Returns the bytes of the manifest, with their checksum.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.identity.len() + self.runs.len() * 48);
        let length = u32::try_from(self.identity.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(self.identity.as_bytes());
        // No offset is negative.
        let checkpoint = self.checkpoint.map_or(-1, |offset| offset.0);
        bytes.extend_from_slice(&checkpoint.to_le_bytes());
        bytes.extend_from_slice(&self.next_run.to_le_bytes());
        for run in &self.runs {
            bytes.extend_from_slice(&run.id.to_le_bytes());
            bytes.extend_from_slice(&run.rows.to_le_bytes());
            bytes.extend_from_slice(&run.segments.to_le_bytes());
            bytes.extend_from_slice(&run.blocks.to_le_bytes());
            bytes.extend_from_slice(&run.end.0.to_le_bytes());
            bytes.extend_from_slice(&run.oldest.0.to_le_bytes());
            bytes.extend_from_slice(&run.newest.0.to_le_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Returns the manifest of these bytes; `None` if they are damaged. Of another layout only the identity is read.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if *found != checksum(bytes) {
            return None;
        }
        let mut bytes = Bytes(bytes);
        let length = usize::try_from(bytes.u32()?).ok()?;
        let (identity, rest) = bytes.0.split_at_checked(length)?;
        let identity = String::from_utf8(identity.to_vec()).ok()?;
        // The whole word: "v30" is another layout than "v3".
        if identity.split(' ').next() != Some(LAYOUT) {
            return Some(Self::new(identity));
        }
        bytes = Bytes(rest);
        let checkpoint = bytes.i64()?;
        let next_run = bytes.u64()?;
        let mut runs = Vec::new();
        while !bytes.0.is_empty() {
            runs.push(RunMeta {
                id: bytes.u64()?,
                rows: bytes.u64()?,
                segments: bytes.u32()?,
                blocks: bytes.u32()?,
                end: Offset(bytes.i64()?),
                oldest: Timestamp(bytes.i64()?),
                newest: Timestamp(bytes.i64()?),
            });
        }
        Some(Self {
            identity,
            checkpoint: (checkpoint >= 0).then_some(Offset(checkpoint)),
            next_run,
            runs,
        })
    }
}

// Over the whole manifest: a run that is left out is thousands of unknown keys.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot(bytes).to_le_bytes()
}

/// Bytes that numbers are taken from.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_round_trips_and_damage_is_found() {
        let run = |id| RunMeta {
            id,
            rows: 70_000,
            segments: 2,
            blocks: 1045,
            end: Offset(80_000),
            oldest: Timestamp(-3),
            newest: Timestamp(1_790_000_000_000),
        };
        let manifest = Manifest {
            checkpoint: Some(Offset(0)),
            next_run: 9,
            runs: vec![run(2), run(8)],
            ..Manifest::new("v3 changelog/0 of 4".into())
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Some(manifest));
        let new = Manifest::new("v3 changelog/0 of 4".into());
        assert_eq!(Manifest::decode(&new.encode()), Some(new));
        let other = Manifest {
            runs: vec![run(1)],
            ..Manifest::new("v1 changelog/0 of 4".into())
        };
        let identity_only = Manifest::new(other.identity.clone());
        assert_eq!(Manifest::decode(&other.encode()), Some(identity_only));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Manifest::decode(&damaged), None, "{at}");
            assert_eq!(Manifest::decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn manifest_of_another_layout_has_its_identity_alone() {
        let of = |layout: &str| Manifest {
            checkpoint: Some(Offset(7)),
            ..Manifest::new(format!("{layout} changelog/0 of 1"))
        };
        let read = |manifest: &Manifest| Manifest::decode(&manifest.encode()).expect("an identity");
        let ours = of(LAYOUT);
        assert_eq!(read(&ours).checkpoint, Some(Offset(7)));
        for layout in [&format!("{LAYOUT}0"), "v4", ""] {
            let other = of(layout);
            let read = read(&other);
            assert_eq!(
                (read.identity, read.checkpoint),
                (other.identity, None),
                "{layout:?}"
            );
        }
    }
}
