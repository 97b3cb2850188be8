//! The partitioners of common Kafka clients.

use serde::{Deserialize, Serialize};

/// Rule by which producers choose an order's partition.
///
/// Dedup is per partition. Java clients hash a key with murmur2, librdkafka by default with CRC32, so
/// producers of both kinds on one topic send one key to two partitions. As a setting, it is written by its name in
/// lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partitioner {
    /// Hash of the Java clients (librdkafka: `murmur2_random`).
    Murmur2,
    /// Default hash of librdkafka (`consistent_random`).
    Crc32,
    /// No check: producers are trusted to send a key always to the same partition.
    #[default]
    Any,
}

impl Partitioner {
    /// Returns the partition, out of `partitions`, that a key belongs to; `None` if any is allowed.
    #[must_use]
    pub fn partition(self, key: &[u8], partitions: u32) -> Option<u32> {
        // A topic has at least one partition. A 0 must not panic in the division.
        let partitions = partitions.max(1);
        match self {
            // As in `Utils.toPositive(Utils.murmur2(key))`: Kafka's seed, and the sign bit masked off.
            Self::Murmur2 => Some((murmur2::murmur2(key, murmur2::KAFKA_SEED) & 0x7fff_ffff) % partitions),
            // As in librdkafka's `rd_crc32(key) % partition_cnt`: all 32 bits, unsigned.
            Self::Crc32 => Some(crc32fast::hash(key) % partitions),
            Self::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected hashes: Kafka's own `UtilsTest.testMurmur2`, and the check value of CRC32.
    #[test]
    fn partitions_match_the_clients() {
        let murmur2 = |key: &str, hash: i32| {
            let expected = u32::try_from(i64::from(hash) & 0x7fff_ffff).expect("31 bits") % 1000;
            assert_eq!(
                Partitioner::Murmur2.partition(key.as_bytes(), 1000),
                Some(expected),
                "{key}"
            );
        };
        murmur2("21", -973_932_308);
        murmur2("foobar", -790_332_482);
        murmur2("a-little-bit-long-string", -985_981_536);
        murmur2("a-little-bit-longer-string", -1_486_304_829);
        murmur2("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        assert_eq!(
            Partitioner::Crc32.partition(b"123456789", 1000),
            Some(0xcbf4_3926 % 1000)
        );
        assert_eq!(Partitioner::Any.partition(b"k", 10), None);
    }
}
