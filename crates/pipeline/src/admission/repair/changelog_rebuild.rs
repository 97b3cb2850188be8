//! Comparison of one partition of the changelog with the outbox: the entries that the changelog has lost.
//!
//! One transaction writes an order to the outbox and its entry to the changelog, so a key that only the outbox
//! has was lost by the changelog, and its order would be admitted again. The operator's command appends these
//! entries; this module decides which they are.

use std::collections::HashSet;

use records::entry::Status;
use records::fingerprint::SelectionId;
use records::pending::Admission;
use records::{AmountForm, Entry, Fingerprint, Offset, Order, Partition, Selection, Timestamp};

/// Comparison of one partition. Takes the whole changelog partition first, then the outbox partition in the
/// order of its offsets.
// Memory: one fingerprint for each key, and nothing for a record.
#[derive(Debug)]
pub struct ChangelogRebuild {
    orders_topic: String,
    partition: Partition,
    /// Form of the amount in an order of the built-in form; `None` if the orders have another one.
    amount: Option<AmountForm>,
    selection: Selection,
    /// Fingerprints of the keys that the changelog has, or will have.
    keys: HashSet<[u8; Fingerprint::BYTES]>,
    /// Offset of the first order that is not forgotten; orders before it are not missing.
    remembered_from: Option<Offset>,
    /// Last admission that the changelog has.
    last_entry: Option<AdmittedOrder>,
    /// First admission that the outbox still has.
    first_order: Option<AdmittedOrder>,
    missing: u64,
}

/// Orders whose keys may be lost for good: the changelog ends before the outbox begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Last admission in the changelog; `None` if it is empty.
    pub after: Option<AdmittedOrder>,
    /// First admission in the outbox; `None` if it is empty.
    pub before: Option<AdmittedOrder>,
}

/// Order that was admitted.
// By offset first: the admissions of a partition follow its offsets, while the clocks of two validators differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmittedOrder {
    /// Offset of the order.
    pub source: Offset,
    /// Time of the admission.
    pub at: Timestamp,
}

impl ChangelogRebuild {
    /// Creates the comparison of a partition. `amount` and `selection` are the validators' settings: the form of the
    /// amount in an order of the built-in form, `None` if orders have another form; and the part of an order that
    /// its fingerprint is computed over.
    #[must_use]
    pub fn new(
        orders_topic: &str,
        partition: Partition,
        amount: Option<AmountForm>,
        selection: Selection,
    ) -> Self {
        Self {
            orders_topic: orders_topic.to_owned(),
            partition,
            amount,
            selection,
            keys: HashSet::new(),
            remembered_from: None,
            last_entry: None,
            first_order: None,
            missing: 0,
        }
    }

    /// The same comparison, of a partition that has forgotten the orders before this offset; `None` if it has all.
    #[must_use]
    pub fn remembering(mut self, from: Option<Offset>) -> Self {
        self.remembered_from = from;
        self
    }

    /// Takes a record of the changelog; without an entry it is a tombstone.
    pub fn changelog_record(&mut self, key: &[u8], entry: Option<&Entry>) {
        // A key with a tombstone was removed on purpose, and is not written again.
        self.keys.insert(Fingerprint::of(key).0);
        let admitted = entry.map(|entry| AdmittedOrder {
            source: entry.source,
            at: entry.admitted_at,
        });
        self.last_entry = self.last_entry.max(admitted);
    }

    /// Takes a record of the outbox, and returns the entry that the changelog lacks for it, if it lacks one.
    ///
    /// # Errors
    /// The order is of another topic or partition, so that this changelog partition is not the one of its key.
    pub fn pending_call(
        &mut self,
        key: &[u8],
        admission: &Admission,
        value: &[u8],
    ) -> Result<Option<Entry>, ForeignOrder> {
        let source = &admission.source;
        if source.topic != self.orders_topic || source.partition != self.partition {
            return Err(ForeignOrder {
                found: source.to_string(),
                expected: format!("{}/{}", self.orders_topic, self.partition),
            });
        }
        let admitted = AdmittedOrder {
            source: source.offset,
            at: admission.at,
        };
        let first = self.first_order.get_or_insert(admitted);
        *first = admitted.min(*first);
        // Its key was deleted on purpose, or will be.
        if self.remembered_from.is_some_and(|from| source.offset < from) {
            return Ok(None);
        }
        // Copies of a call (deferred, replayed) have the key of the first.
        if !self.keys.insert(Fingerprint::of(key).0) {
            return Ok(None);
        }
        self.missing += 1;
        let (selection, fingerprint) = self.fingerprint(value);
        Ok(Some(Entry {
            status: Status::Pending,
            selection,
            fingerprint,
            admitted_at: admission.at,
            source: source.offset,
        }))
    }

    fn fingerprint(&self, value: &[u8]) -> (SelectionId, Fingerprint) {
        // Only its schema would read it. By all its bytes the order is a duplicate of itself all the same.
        if schemas::wire::split(value).is_some() {
            return Selection::Payload.fingerprint(None, value);
        }
        // No order, if the form was changed since. Its key counts all the same.
        let order = self
            .amount
            .and_then(|amount| Order::parse_unique(value, amount, None).ok());
        self.selection
            .fingerprint(order.as_ref().map(|(order, _)| order), value)
    }

    /// Number of keys in the changelog and the outbox together.
    #[must_use]
    pub fn keys(&self) -> u64 {
        u64::try_from(self.keys.len()).unwrap_or(u64::MAX)
    }

    /// Number of entries that the changelog lacks.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// Returns the gap between changelog and outbox, if there may be one; `outbox_start` is the first offset
    /// that the outbox partition still has.
    // Kafka loses the end of a log, or all of it. What is left of the changelog then reaches to an order that
    // the outbox still has, or the keys in between are in neither.
    #[must_use]
    pub fn gap(&self, outbox_start: Offset) -> Option<Gap> {
        let overlaps = matches!(
            (self.last_entry, self.first_order),
            (Some(last), Some(first)) if last.source >= first.source
        );
        // An outbox that still has its first record has every order.
        (outbox_start > Offset(0) && !overlaps).then_some(Gap {
            after: self.last_entry,
            before: self.first_order,
        })
    }
}

/// Outbox record of an order that is not of the partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its order is {found}, and not of {expected}")]
pub struct ForeignOrder {
    found: String,
    expected: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Partition = Partition(3);
    const AMOUNT: Option<AmountForm> = Some(AmountForm::MinorUnits);
    const ORDER: &[u8] = br#"{"order_id":"b","amount":1,"currency":"EUR","customer_id":"c"}"#;

    fn rebuild() -> ChangelogRebuild {
        ChangelogRebuild::new("orders", PARTITION, AMOUNT, Selection::Payload)
    }

    fn admission(source: i64) -> Admission {
        Admission {
            source: format!("orders/3@{source}").parse().expect("a position"),
            at: Timestamp(1_000 + source),
        }
    }

    fn entry(source: i64) -> Entry {
        Entry {
            status: Status::Pending,
            selection: SelectionId::Payload,
            fingerprint: Fingerprint::of(ORDER),
            admitted_at: Timestamp(1_000 + source),
            source: Offset(source),
        }
    }

    fn pending(rebuild: &mut ChangelogRebuild, key: &str, source: i64) -> Option<Entry> {
        rebuild
            .pending_call(key.as_bytes(), &admission(source), ORDER)
            .expect("an order of this partition")
    }

    #[test]
    fn lost_entries_are_found_once() {
        let mut rebuild = rebuild();
        rebuild.changelog_record(b"a", Some(&entry(0)));
        assert_eq!(pending(&mut rebuild, "a", 0), None);
        assert_eq!(pending(&mut rebuild, "b", 4), Some(entry(4)));
        // A deferred or replayed copy.
        assert_eq!(pending(&mut rebuild, "b", 4), None);
        assert_eq!(rebuild.missing(), 1);
    }

    #[test]
    fn forgotten_order_is_not_missing() {
        let mut rebuild = rebuild().remembering(Some(Offset(4)));
        rebuild.changelog_record(b"b", Some(&entry(4)));
        assert_eq!(pending(&mut rebuild, "a", 3), None);
        assert_eq!(pending(&mut rebuild, "b", 4), None);
        assert_eq!(pending(&mut rebuild, "c", 5), Some(entry(5)));
        assert_eq!(rebuild.missing(), 1);
    }

    #[test]
    fn entry_is_made_under_the_validators_setting() {
        let mut rebuild = ChangelogRebuild::new("orders", PARTITION, AMOUNT, Selection::Order);
        let order = Order::parse(ORDER).expect("an order");
        let expected = Entry {
            selection: SelectionId::Order,
            fingerprint: Selection::Order.fingerprint(Some(&order), ORDER).1,
            ..entry(4)
        };
        assert_eq!(pending(&mut rebuild, "b", 4), Some(expected));
        let decimal = std::str::from_utf8(ORDER)
            .expect("text")
            .replace(":1,", ":\"0.01\",");
        let amount = Some(AmountForm::Decimal);
        let entry_of_decimal = ChangelogRebuild::new("orders", PARTITION, amount, Selection::Order)
            .pending_call(b"b", &admission(4), decimal.as_bytes());
        assert_eq!(entry_of_decimal, Ok(Some(expected)));
        let other = rebuild.pending_call(b"c", &admission(5), b"no order");
        let expected = Entry {
            fingerprint: Fingerprint::of(b"no order"),
            ..entry(5)
        };
        assert_eq!(other, Ok(Some(expected)));
    }

    #[test]
    fn removed_key_is_not_written_again() {
        let mut rebuild = rebuild();
        rebuild.changelog_record(b"a", None);
        assert_eq!(pending(&mut rebuild, "a", 0), None);
    }

    #[test]
    fn order_of_another_partition_is_refused() {
        let mut admission = admission(0);
        admission.source.partition = Partition(4);
        let error = rebuild()
            .pending_call(b"a", &admission, ORDER)
            .expect_err("another partition");
        assert_eq!(error.to_string(), "its order is orders/4@0, and not of orders/3");
    }

    #[test]
    fn keys_between_changelog_and_outbox_are_a_gap() {
        let mut rebuild = rebuild();
        rebuild.changelog_record(b"a", Some(&entry(5)));
        pending(&mut rebuild, "b", 6);
        assert_eq!(rebuild.gap(Offset(0)), None, "the outbox has every order");
        let gap = rebuild.gap(Offset(1)).expect("a gap");
        assert_eq!(gap.after.map(|order| order.source), Some(Offset(5)));
        assert_eq!(gap.before.map(|order| order.source), Some(Offset(6)));
        // Compaction may leave the last entry alone: it proves that the changelog reached the outbox.
        rebuild.changelog_record(b"b", Some(&entry(6)));
        assert_eq!(rebuild.gap(Offset(1)), None);
    }

    #[test]
    fn empty_changelog_beside_a_trimmed_outbox_is_a_gap() {
        let mut rebuild = rebuild();
        assert!(rebuild.gap(Offset(9)).is_some());
        pending(&mut rebuild, "a", 7);
        assert!(rebuild.gap(Offset(9)).is_some());
        assert!(rebuild.gap(Offset(0)).is_none());
    }
}
