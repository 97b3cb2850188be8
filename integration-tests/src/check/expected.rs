//! Expected verdicts, computed from the orders topic alone.
//!
//! A second, independent implementation of stage one: in the order in which they were sent, the first valid order of
//! a key is admitted; one with the same amount, currency and customer is a duplicate, and any other a conflict. That
//! is the validator's default setting.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use records::dead_letter::Reason;
use records::{Fingerprint, Offset, Partition};

use crate::check::order_fingerprint::order_fingerprint;
use crate::orders::{Label, Orders, SEQUENCE, Sent};
use crate::read_back::topics::Record;

/// Expected verdicts on the records of the orders topic.
#[derive(Debug, Default)]
pub struct Expected<'a> {
    /// Orders that must be in the outbox, by key.
    pub admitted: HashMap<&'a [u8], &'a Record>,
    /// Fingerprints of their amounts, currencies and customers.
    pub fingerprints: HashMap<&'a [u8], Fingerprint>,
    /// Records that must be dead letters, with the reason.
    pub refused: HashMap<(Partition, Offset), (&'a Record, Reason)>,
    /// Number of duplicates to be dropped.
    pub duplicates: u64,
}

/// Computes the expected verdicts. The records must be sorted by partition and offset.
///
/// # Errors
/// The topic does not contain exactly what was sent. The run is void then.
pub fn expected<'a>(input: &'a [Record], orders: &Orders, sent_count: u64) -> Result<Expected<'a>> {
    let mut seen = vec![false; usize::try_from(sent_count)?];
    let mut expected = Expected::default();
    let mut in_order = Vec::with_capacity(input.len());
    for record in input {
        // Compared with what was sent: a record that the broker lost or changed must not become a finding
        // about the validator.
        let sent = sent_record(record, orders, sent_count)?;
        let index = usize::try_from(sent.sequence)?;
        ensure!(
            !std::mem::replace(&mut seen[index], true),
            "record {index} is in the orders topic twice but was sent once"
        );
        in_order.push((record, sent));
    }
    // Each partition has them in this order. A key has another partition once the topic has grown, with all orders
    // that were sent before processed.
    in_order.sort_by_key(|(_, sent)| sent.sequence);
    for (record, sent) in &in_order {
        expected.add(record, sent);
    }
    // The feed waited for acks=all of every record, so none may be missing.
    let missing = seen.iter().filter(|seen| !**seen).count();
    ensure!(
        missing == 0,
        "{missing} of {sent_count} records sent are not in the orders topic"
    );
    Ok(expected)
}

impl<'a> Expected<'a> {
    fn add(&mut self, record: &'a Record, sent: &Sent) {
        let position = (record.partition, record.offset);
        match &sent.label {
            Label::Refused(reason) => drop(self.refused.insert(position, (record, *reason))),
            Label::Order(_) => {
                let key = record.key.as_deref().expect("an order is sent with its key");
                let fingerprint = sent.value.as_deref().and_then(order_fingerprint);
                let fingerprint = fingerprint.expect("an order has its fields");
                match self.fingerprints.get(key) {
                    None => {
                        self.admitted.insert(key, record);
                        self.fingerprints.insert(key, fingerprint);
                    }
                    Some(first) if *first == fingerprint => self.duplicates += 1,
                    Some(_) => drop(self.refused.insert(position, (record, Reason::Conflict))),
                }
            }
        }
    }

    /// Returns the number of records to be refused, by reason.
    #[must_use]
    pub fn refused_by_reason(&self) -> Vec<(Reason, u64)> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let count = self.refused.values().filter(|(_, why)| *why == reason).count();
                (reason, count as u64)
            })
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// Returns what was sent with the record's sequence number.
///
/// # Errors
/// The record differs from what was sent, or was not sent by this run.
fn sent_record(record: &Record, orders: &Orders, sent_count: u64) -> Result<Sent> {
    let name = || format!("orders record {}@{}", record.partition, record.offset);
    let sequence: u64 = record
        .header(SEQUENCE)
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("{} was not sent by this run: no valid {SEQUENCE} header", name()))?;
    ensure!(
        sequence < sent_count,
        "{} has sequence number {sequence}, but only {sent_count} records were sent",
        name()
    );
    let sent = orders.record(sequence);
    let fingerprint = sent.value.as_deref().map(records::Fingerprint::of);
    ensure!(
        sent.key == record.key && fingerprint == record.fingerprint,
        "{} differs from the record sent with sequence number {sequence}",
        name()
    );
    Ok(sent)
}
