//! Records of one partition that go to librdkafka together.
//!
//! It locks the topic and the partition's list, and reads the clocks, once for all of them. It takes no headers this way.

use records::Partition;

use super::record::OutgoingRecord;

/// Key and value of a record, as far as it has them.
pub(super) type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Number of records that are sent together.
const RECORDS_MAX: usize = 64;

/// Records that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) topic: String,
    /// None before the first record.
    pub(super) partition: Option<Partition>,
    /// Keys and values, one after the other.
    bytes: Vec<u8>,
    /// Lengths of each record's key and value.
    lengths: Vec<(Option<usize>, Option<usize>)>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Returns `true` if a record for this partition can be added.
    pub(super) fn takes(&self, topic: &str, partition: Partition) -> bool {
        self.is_empty()
            || (self.len() < RECORDS_MAX && self.partition == Some(partition) && self.topic == topic)
    }

    /// Adds a record for a partition that [`Self::takes`] it.
    pub(super) fn add(&mut self, record: &OutgoingRecord<'_>, partition: Partition) {
        if self.is_empty() {
            self.partition = Some(partition);
            record.topic.clone_into(&mut self.topic);
        }
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        self.lengths
            .push((record.key.map(<[u8]>::len), record.value.map(<[u8]>::len)));
    }

    /// Returns the key and the value of each record.
    pub(super) fn records(&self) -> impl Iterator<Item = KeyValue<'_>> {
        let mut rest = &*self.bytes;
        let mut next = move |length: Option<usize>| {
            let (bytes, behind) = rest.split_at(length?);
            rest = behind;
            Some(bytes)
        };
        self.lengths
            .iter()
            .map(move |(key, value)| (next(*key), next(*value)))
    }

    /// Forgets the records.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(topic: &'a str, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> OutgoingRecord<'a> {
        OutgoingRecord {
            topic,
            partition: None,
            key,
            value,
            headers: None,
        }
    }

    #[test]
    fn gathered_records_are_those_that_were_added() {
        let mut gathered = Gathered::default();
        let records: [KeyValue<'_>; 4] = [
            (Some(b"k"), Some(b"value")),
            (None, Some(b"")),
            (Some(b""), None),
            (Some(b"key"), Some(b"v")),
        ];
        for _ in 0..2 {
            for (key, value) in records {
                assert!(gathered.takes("t", Partition(3)));
                gathered.add(&record("t", key, value), Partition(3));
            }
            assert_eq!(gathered.records().collect::<Vec<_>>(), records);
            assert!(!gathered.takes("t", Partition(4)) && !gathered.takes("u", Partition(3)));
            gathered.clear();
            assert!(gathered.takes("u", Partition(4)));
        }
        for _ in 0..RECORDS_MAX {
            gathered.add(&record("t", None, None), Partition(3));
        }
        assert!(!gathered.takes("t", Partition(3)), "full");
    }
}
