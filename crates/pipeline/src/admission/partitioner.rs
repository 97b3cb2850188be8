//! Where a key lies: the partitioners of the common clients.

/// The rule by which producers choose an order's partition.
///
/// Dedup is per partition. Java clients hash a key with murmur2, librdkafka by default with CRC32, so
/// producers of both kinds on one topic send one key to two partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// As Java clients do (librdkafka: `murmur2_random`).
    Murmur2,
    /// As librdkafka does by default (`consistent_random`).
    Crc32,
    /// The producers are trusted to send a key always to the same partition.
    Any,
}

impl Partitioner {
    /// The partition that a key belongs to, out of `partitions`; `None` if any will do.
    #[must_use]
    pub fn partition(self, key: &[u8], partitions: u32) -> Option<u32> {
        let partitions = partitions.max(1);
        match self {
            // Java takes the hash's 31 low bits; the seed is Kafka's (`Utils.murmur2`).
            Self::Murmur2 => Some((murmur2::murmur2(key, murmur2::KAFKA_SEED) & 0x7fff_ffff) % partitions),
            Self::Crc32 => Some(crc32fast::hash(key) % partitions),
            Self::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes are those of Kafka's own `UtilsTest.testMurmur2`, and CRC32's check value.
    #[test]
    fn keys_lie_where_the_clients_put_them() {
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
