//! Reading of what the topics have of one key: by its partitions, and not the topics as a whole.

mod kept_outcomes;
mod key_records;
mod outbox;

use kafka::group_offsets::TopicRecord;
use pipeline::admission::Partitioner;
use pipeline::ledger::{Ledger, LeftOut, NamedOrders, NotedState, Rejection, Terminal};
use records::control::{Calls, Switch};
use records::outcome::Outcome;
use records::{
    Bounds, Offset, Partition, Position, Timestamp, Topics, call_dead_letter, pending, settlement,
};

use self::kept_outcomes::kept_outcomes;
use self::outbox::fold;
use super::history::{self, Event};
use crate::call_records as calls;
use crate::cli::ShowOrder;
use crate::commands::switch;
use crate::config::Config;
use crate::progress::Progress;
use crate::topics_reader::TopicsReader;

/// Difference of clocks that is allowed for between the machines of brokers and callers.
const CLOCK_SKEW_MS: i64 = 5 * 60 * 1000;

/// Record of the outbox with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) admitted_at: Option<Timestamp>,
    /// First record of its call.
    pub(super) first: Offset,
    pub(super) is_early: bool,
}

/// What was read.
pub(super) struct Read {
    pub(super) events: Vec<Event>,
    pub(super) ledger: Ledger,
    /// The order, by its key.
    pub(super) orders: NamedOrders,
    /// Why no replay may make its call again although the outcome is unknown; `None` if one may.
    pub(super) left_out: Option<LeftOut>,
    /// Records of the outbox, in their order, each with what the ledger says of it.
    pub(super) pending: Vec<(Pending, NotedState)>,
    /// Its call is parked or rejected, and may have an outcome that its topic no longer has.
    pub(super) outcome_may_be_gone: bool,
    pub(super) is_paused: bool,
    /// A validator has refused a record with this key.
    pub(super) is_refused: bool,
}

/// Topic of calls that were not accepted: the dead letters, or the parked records and their settlements.
struct TerminalTopic<'a> {
    name: &'a str,
    terminal: fn(&TopicRecord<'_>) -> Terminal,
    event: fn(&TopicRecord<'_>, String) -> Event,
}

/// Reader of one key.
pub(super) struct OrderReader<'a> {
    config: &'a Config,
    key: &'a [u8],
    group: &'a str,
    from: Option<Timestamp>,
    reader: TopicsReader,
}

impl<'a> OrderReader<'a> {
    pub(super) fn open(config: &'a Config, options: &'a ShowOrder) -> anyhow::Result<Self> {
        let Topics {
            orders,
            pending,
            order_dead_letters,
            processed,
            call_dead_letters,
            parked,
            control,
            ..
        } = &config.topics;
        let names = [
            orders.as_str(),
            pending,
            order_dead_letters,
            processed,
            call_dead_letters,
            parked,
            // Not shown by its partitions, but refused here at once if this user may not see it.
            control,
        ];
        Ok(Self {
            config,
            key: options.key.as_bytes(),
            group: &options.which.group,
            from: options.from,
            reader: TopicsReader::open(&config.connection_as(&options.which.group), &names)?,
        })
    }

    pub(super) fn read(&self) -> anyhow::Result<Read> {
        let topics = &self.config.topics;
        let mut read = Read {
            events: Vec::new(),
            ledger: Ledger::new(topics.pending.as_str()),
            orders: NamedOrders::new(topics.pending.as_str(), [self.key.to_vec()]),
            left_out: None,
            pending: Vec::new(),
            outcome_may_be_gone: false,
            is_paused: self.is_paused()?,
            is_refused: false,
        };
        let progress = Progress::new();
        let mut outbox = self.outbox(&mut read, &progress)?;
        // What became of the order came after it was admitted.
        let since = outbox
            .records
            .iter()
            .filter_map(|record| record.pending.admitted_at)
            .min();
        let since = since
            .map(|at| Timestamp(at.0.saturating_sub(CLOCK_SKEW_MS)))
            .max(self.from);
        // What the group has noted comes before the outcomes, and these before the end of the outbox: a copy is in one
        // transaction with the settlement or the event that tells of it.
        self.notes(&mut read)?;
        let processed = &topics.processed;
        let by_hash = self.hashed(processed, &[Partitioner::Crc32])?;
        let outcomes = self.outcomes(&by_hash, &mut read, since, &progress)?;
        let dead_letters = TerminalTopic {
            name: &topics.call_dead_letters,
            terminal: |record| Terminal::DeadLetter(calls::rejection(record)),
            event: history::rejected,
        };
        let parked = TerminalTopic {
            name: &topics.parked,
            terminal: |_| Terminal::Parked,
            event: history::parked,
        };
        let mut early = self.terminals(&dead_letters, &mut read, since, &progress)?;
        early.extend(self.terminals(&parked, &mut read, since, &progress)?);
        // Callers write by the key's hash; if the topic has grown since, elsewhere. Without a time that would be the topic
        // as a whole, for an order that is not there.
        if outcomes == 0 && since.is_some() {
            self.outcomes(&self.others(processed, &by_hash)?, &mut read, since, &progress)?;
        }
        self.rest_of_the_outbox(&mut outbox, &mut read, &progress)?;
        fold(outbox.records, &early, &mut read)?;
        read.left_out = read.orders.left_out(self.key);
        read.outcome_may_be_gone = self.outcome_may_be_gone(&read)?;
        self.inputs(&mut read, &progress)?;
        progress.finish();
        Ok(read)
    }

    fn is_paused(&self) -> anyhow::Result<bool> {
        let settings = self.config.connection_as(self.group);
        let control = kafka::changelog::ChangelogReader::open(&settings, &self.config.topics.control)?;
        let switch: Option<Switch> = switch::read(&control, &self.config.topics.control, self.group)?;
        Ok(switch.is_some_and(|switch| switch.calls == Calls::Paused))
    }

    fn notes(&self, read: &mut Read) -> anyhow::Result<()> {
        let topic = &self.config.topics.pending;
        let partitions = self.reader.partitions(topic)?;
        for (partition, offset, note) in
            calls::call_notes(&self.reader.offsets, self.group, topic, &partitions)?
        {
            read.ledger.noted(partition, offset, note);
        }
        Ok(())
    }

    /// Returns the number of outcomes.
    fn outcomes(
        &self,
        partitions: &[Partition],
        read: &mut Read,
        since: Option<Timestamp>,
        progress: &Progress,
    ) -> anyhow::Result<usize> {
        let topic = &self.config.topics.processed;
        let mut outcomes = 0;
        self.visit(topic, partitions, since, progress, |place, record| {
            // One that cannot be read may be of any call.
            let outcome = Outcome::parse(record.value)?;
            if calls::take_outcome(&mut read.ledger, self.group, &outcome, record.key)?.is_none() {
                let call = outcome.call.parse()?;
                read.orders.terminal(record.key, Terminal::Accepted, &call);
            }
            read.events
                .push(history::accepted(record, &outcome, place.to_string()));
            outcomes += 1;
            Ok(())
        })?;
        Ok(outcomes)
    }

    fn outcome_may_be_gone(&self, read: &Read) -> anyhow::Result<bool> {
        let is_open = |noted: NotedState| {
            matches!(
                noted,
                NotedState::Final(Terminal::Parked | Terminal::DeadLetter(Rejection::Definite))
            )
        };
        if !read.pending.iter().any(|(_, noted)| is_open(*noted)) {
            return Ok(false);
        }
        let topic = &self.config.topics.processed;
        let kept = kept_outcomes(&self.reader.offsets, topic, &self.reader.partitions(topic)?)?;
        // Of several records the first: an outcome of any of them ends the call.
        let admitted_at = read.pending.iter().filter_map(|(of, _)| of.admitted_at).min();
        Ok(!kept.has_all_of(self.key, admitted_at))
    }

    /// Reads what became of calls that were not accepted. Returns those so recent that an earlier request may still be
    /// processed.
    fn terminals(
        &self,
        of: &TerminalTopic<'_>,
        read: &mut Read,
        since: Option<Timestamp>,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Position>> {
        let partitions = self.reader.partitions(of.name)?;
        let (mut early, now) = (Vec::new(), Timestamp::now());
        self.visit(of.name, &partitions, since, progress, |place, record| {
            if let Some(call) = calls::position(&record.headers, call_dead_letter::CALL) {
                let terminal = (of.terminal)(record);
                if calls::take_terminal(&mut read.ledger, self.group, terminal, &call, record)?.is_none() {
                    read.orders.terminal(record.key, terminal, &call);
                }
                if calls::is_early(record, now, self.config.quiescence()) {
                    early.push(call);
                }
            } else if let Some(call) = calls::position(&record.headers, settlement::SETTLES) {
                read.orders.settled(record.key, &call);
            }
            read.events.push((of.event)(record, place.to_string()));
            Ok(())
        })?;
        Ok(early)
    }

    /// Reads the orders themselves: where the outbox and the dead letters name them.
    fn inputs(&self, read: &mut Read, progress: &Progress) -> anyhow::Result<()> {
        let topics = &self.config.topics;
        let mut sources = Vec::new();
        let dead_letters = &topics.order_dead_letters;
        let all = self.reader.partitions(dead_letters)?;
        self.visit(dead_letters, &all, self.from, progress, |place, record| {
            // Others than refusals have another meaning.
            if let Some(source) = calls::position(&record.headers, records::dead_letter::SOURCE) {
                read.is_refused = true;
                sources.push(source);
                read.events.push(history::refused(record, place.to_string()));
            }
            Ok(())
        })?;
        let topic = &topics.pending;
        for (of, _) in &read.pending {
            let bounds = Bounds {
                start: of.offset,
                end: of.offset.next(),
            };
            self.reader.offsets.read_key::<anyhow::Error>(
                topic,
                of.partition,
                bounds,
                self.key,
                |record| {
                    sources.extend(calls::position(&record.headers, pending::SOURCE));
                    Ok(())
                },
            )?;
        }
        sources.sort();
        sources.dedup();
        for source in sources.iter().filter(|source| source.topic == topics.orders) {
            let kept = self.reader.bounds(&topics.orders, source.partition)?;
            // Its retention may have passed.
            if !(kept.start..kept.end).contains(&source.offset) {
                continue;
            }
            let bounds = Bounds {
                start: source.offset,
                end: source.offset.next(),
            };
            let events = &mut read.events;
            self.reader.offsets.read::<anyhow::Error>(
                &topics.orders,
                source.partition,
                bounds,
                |record| {
                    events.push(history::sent(record, source.to_string()));
                    Ok(())
                },
            )?;
        }
        Ok(())
    }
}
