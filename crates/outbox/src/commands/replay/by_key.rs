//! Named orders, read from the topics by their keys: in topics that were copied, positions name other orders.

use std::collections::{BTreeMap, BTreeSet};

use kafka::group_offsets::TopicRecord;
use pipeline::ledger::{Ledger, Lineage, NamedOrders, NamedRecord, RecordState, Terminal};
use records::outcome::Outcome;
use records::{Bounds, OffsetSet, Partition, Timestamp, call_dead_letter, settlement};

use super::fold::{Read, Which, expect_own, take_notes};
use super::reading::ReplayReader;
use crate::call_records::{admitted_at, lineage, money, other_group, position, rejection, text};
use crate::progress::Progress;

/// Reads all that decides on the orders with these keys: first what the group has noted, then the terminal records,
/// then the outbox.
pub(super) fn read(
    reading: &ReplayReader<'_>,
    keys: BTreeSet<Vec<u8>>,
    which: &Which<'_>,
    now: Timestamp,
) -> anyhow::Result<(Read, NamedOrders)> {
    let topics = &reading.config.topics;
    let mut notes = Ledger::new(topics.pending.as_str());
    take_notes(reading, &mut notes)?;
    let mut read = Read {
        ends: BTreeMap::new(),
        appended: Vec::new(),
        missing_keys: keys.clone(),
    };
    let mut orders = NamedOrders::new(topics.pending.as_str(), keys);
    let mut progress = Progress::new();
    outcomes(reading, &mut orders, &mut progress)?;
    terminals(
        reading,
        &topics.call_dead_letters,
        &mut orders,
        &mut progress,
        |record| Terminal::DeadLetter(rejection(record)),
    )?;
    terminals(reading, &topics.parked, &mut orders, &mut progress, |_| {
        Terminal::Parked
    })?;
    outbox(reading, which, &notes, now, &mut orders, &mut read, &mut progress)?;
    progress.finish();
    Ok((read, orders))
}

/// Returns the keys of planned calls, as far as the outbox still has them.
pub(super) fn keys_of(
    reading: &ReplayReader<'_>,
    calls: &BTreeMap<Partition, OffsetSet>,
) -> anyhow::Result<BTreeSet<Vec<u8>>> {
    let (topic, reader) = (&reading.config.topics.pending, &reading.reader);
    let (mut keys, mut progress) = (BTreeSet::new(), Progress::new());
    for (partition, offsets) in calls {
        let (Some((first, _)), Some(end)) = (offsets.runs().next(), offsets.end()) else {
            continue;
        };
        let kept = reader.settled_bounds(topic, *partition, &progress)?;
        let bounds = Bounds {
            start: first.max(kept.start),
            end: end.min(kept.end),
        };
        // In one go: runs can be many and short.
        reader.visit_within(topic, *partition, bounds, &mut progress, |record| {
            if offsets.contains(record.offset) {
                keys.insert(record.key.to_vec());
            }
            Ok(())
        })?;
    }
    progress.finish();
    Ok(keys)
}

fn outcomes(
    reading: &ReplayReader<'_>,
    orders: &mut NamedOrders,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (group, reader) = (reading.group, &reading.reader);
    reader.visit(&reading.config.topics.processed, progress, |_, record| {
        // One that cannot be read is an error: it may be of a named order.
        let outcome = Outcome::parse(record.value)?;
        expect_own(other_group(outcome.group.as_deref(), group), group)?;
        orders.terminal(record.key, Terminal::Accepted, &outcome.call.parse()?);
        Ok(())
    })
}

/// Takes in the dead letters, or the parked records and their settlements.
fn terminals(
    reading: &ReplayReader<'_>,
    topic: &str,
    orders: &mut NamedOrders,
    progress: &mut Progress,
    terminal_of: impl Fn(&TopicRecord<'_>) -> Terminal,
) -> anyhow::Result<()> {
    let (group, reader) = (reading.group, &reading.reader);
    reader.visit(topic, progress, |_, record| {
        if let Some(call) = position(&record.headers, call_dead_letter::CALL) {
            let named = text(&record.headers, call_dead_letter::GROUP);
            expect_own(other_group(named, group), group)?;
            orders.terminal(record.key, terminal_of(record), &call);
        } else if let Some(call) = position(&record.headers, settlement::SETTLES) {
            orders.settled(record.key, &call);
        }
        Ok(())
    })
}

/// Reads all partitions from their starts: which records an order has there decides, too.
fn outbox(
    reading: &ReplayReader<'_>,
    which: &Which<'_>,
    notes: &Ledger,
    now: Timestamp,
    orders: &mut NamedOrders,
    read: &mut Read,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (config, group, reader) = (reading.config, reading.group, &reading.reader);
    let topic = &config.topics.pending;
    for partition in reader.partitions(topic)? {
        let bounds = reader.settled_bounds(topic, partition, progress)?;
        read.ends.insert(partition, bounds.end);
        orders.starts(partition, bounds.start);
        reader.visit_within(topic, partition, bounds, progress, |record| {
            if !orders.has(record.key) {
                return Ok(());
            }
            read.missing_keys.remove(record.key);
            // The callers of the group skip a copy of another one.
            let Some(lineage) = lineage(record, topic, partition, group) else {
                return Ok(());
            };
            if which.appended(record) {
                let first = match lineage {
                    Lineage::Continues(first) => first,
                    Lineage::Original | Lineage::Repeats(_) | Lineage::Foreign => record.offset,
                };
                read.appended.push((partition, first));
            }
            let order = config.order.amount().and_then(|form| money(record.value, form));
            let named = NamedRecord {
                offset: record.offset,
                lineage,
                noted: notes.noted_state(partition, record.offset, RecordState::Open),
                is_selected: which.has_record(partition, record),
                is_expired: config.is_key_expired(admitted_at(record), now) && !config.looks_up(),
                money: order.map(|(currency, units)| (currency.code(), units)),
            };
            orders.pending(record.key, partition, &named);
            Ok(())
        })?;
    }
    Ok(())
}
