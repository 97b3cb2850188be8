//! What must come out, computed from the orders topic alone.
//!
//! This is a second, independent telling of stage one: per partition in offset order, the first valid
//! order of a key is admitted, its equal is a duplicate, its unlike a conflict.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use records::dead_letter::Reason;
use records::{Offset, Partition};

use crate::orders::{Label, Orders, SEQUENCE, Sent};
use crate::read_back::topics::Record;

/// The verdicts that the orders topic demands.
#[derive(Debug, Default)]
pub struct Expected<'a> {
    /// The order that must be in the outbox, by its key.
    pub admitted: HashMap<&'a [u8], &'a Record>,
    /// What must be in the dead letters, by its place, and why.
    pub refused: HashMap<(Partition, Offset), (&'a Record, Reason)>,
    /// How many records say again what was said before.
    pub duplicates: u64,
}

/// Reads the verdicts off the records of the orders topic, which must be sorted by partition and offset.
///
/// # Errors
/// The topic does not hold what was sent: then the harness has failed, and nothing can be checked.
pub fn expected<'a>(input: &'a [Record], orders: &Orders, sent_count: u64) -> Result<Expected<'a>> {
    let mut seen = vec![false; usize::try_from(sent_count)?];
    let mut expected = Expected::default();
    for record in input {
        let sent = what_was_sent(record, orders, sent_count)?;
        let index = usize::try_from(sent.sequence)?;
        ensure!(
            !std::mem::replace(&mut seen[index], true),
            "record {index} lies twice in the orders topic, though it was sent once"
        );
        expected.take(record, &sent);
    }
    let missing = seen.iter().filter(|seen| !**seen).count();
    ensure!(
        missing == 0,
        "{missing} of {sent_count} records were sent and are not in the orders topic"
    );
    Ok(expected)
}

impl<'a> Expected<'a> {
    fn take(&mut self, record: &'a Record, sent: &Sent) {
        let place = (record.partition, record.offset);
        match &sent.label {
            Label::Refused(reason) => drop(self.refused.insert(place, (record, *reason))),
            Label::Order(_) => {
                let key = record.key.as_deref().expect("an order is sent with its key");
                match self.admitted.get(key) {
                    None => drop(self.admitted.insert(key, record)),
                    Some(first) if first.fingerprint == record.fingerprint => self.duplicates += 1,
                    Some(_) => drop(self.refused.insert(place, (record, Reason::Conflict))),
                }
            }
        }
    }

    /// How many records must be refused for each reason.
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

/// The record's number tells what was sent, and the record must be just that.
fn what_was_sent(record: &Record, orders: &Orders, sent_count: u64) -> Result<Sent> {
    let place = || format!("the orders topic's record {}@{}", record.partition, record.offset);
    let sequence: u64 = record
        .header(SEQUENCE)
        .and_then(|text| text.parse().ok())
        .with_context(|| {
            format!(
                "{} was not sent by this run: it has no {SEQUENCE} header",
                place()
            )
        })?;
    ensure!(
        sequence < sent_count,
        "{} has the number {sequence} of {sent_count}",
        place()
    );
    let sent = orders.record(sequence);
    let fingerprint = sent.value.as_deref().map(records::Fingerprint::of);
    ensure!(
        sent.key == record.key && fingerprint == record.fingerprint,
        "{} is not what was sent as number {sequence}",
        place()
    );
    Ok(sent)
}
