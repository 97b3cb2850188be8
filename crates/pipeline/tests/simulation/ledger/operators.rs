//! Operators: each plans replays and runs them, its own and the other's, one step at a time.

use std::collections::BTreeMap;

use pipeline::ledger::{
    AskedFor, Contents, Lineage, NamedOrders, NamedRecord, Planner, RecordState, Replayable, Replays,
    RunningReplay, Selected, Stage, Step, Terminal,
};
use rand::RngExt as _;
use records::operation::{Event, Planned, Replay};
use records::{CallNote, Offset, OffsetSet, Timestamp};

use super::Mutation;
use super::world::{P, World, position};

/// Epoch of a run that fences others only after it has read.
const NOT_FENCED: u64 = u64::MAX;

/// Operator at the command line.
#[derive(Debug)]
pub(crate) struct Operator {
    number: u64,
    plans: u64,
    command: Command,
}

/// Command that is running, by its next step.
#[derive(Debug)]
enum Command {
    None,
    Plan(Reading, AskedFor),
    /// Fence earlier runs of any plan.
    Fence(String),
    Read(String, u64, Reading),
    Run {
        plan: String,
        epoch: u64,
        replay: Box<RunningReplay>,
        eligible: BTreeMap<Replayable, OffsetSet>,
    },
}

/// What was read so far: the notes, and then the terminal records.
#[derive(Debug, Default)]
struct Reading {
    notes: Option<(i64, CallNote)>,
    terminals: Option<Vec<(Terminal, i64)>>,
}

impl Operator {
    pub(crate) const fn new(number: u64) -> Self {
        Self {
            number,
            plans: 0,
            command: Command::None,
        }
    }

    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.command, Command::None)
    }

    pub(crate) fn step(&mut self, world: &mut World) {
        if !world.is_quiet && !self.is_idle() && world.rng.random_bool(0.03) {
            world.count("operators crashed");
            self.command = Command::None;
            return;
        }
        self.command = match std::mem::replace(&mut self.command, Command::None) {
            Command::None if world.is_quiet => Command::None,
            Command::None => self.begin(world),
            Command::Plan(reading, asked_for) => match reading.step(world) {
                Ok(reading) => {
                    self.write_plan(world, &reading, &asked_for);
                    Command::None
                }
                Err(reading) => Command::Plan(reading, asked_for),
            },
            // The operator waits, and asks the provider again.
            Command::Fence(plan) if !world.is_quiescent(&plan) => Command::None,
            Command::Fence(plan) => {
                world.epoch += 1;
                Command::Read(plan, world.epoch, Reading::default())
            }
            Command::Read(plan, epoch, reading) => match reading.step(world) {
                Ok(reading) => ready(world, plan, epoch, &reading),
                Err(reading) => Command::Read(plan, epoch, reading),
            },
            Command::Run {
                plan,
                epoch,
                replay,
                eligible,
            } => append(world, plan, epoch, replay, eligible),
        };
    }

    fn begin(&self, world: &mut World) -> Command {
        match world.rng.random_range(0..20) {
            0 => world.settle(),
            1..4 => {
                let asked_for = match world.rng.random_range(0..5) {
                    0 => AskedFor::States(Replayable::ALL[..4].to_vec()),
                    1 => AskedFor::Unknown,
                    _ => AskedFor::States(vec![Replayable::Rejected]),
                };
                return Command::Plan(Reading::default(), asked_for);
            }
            4..8 => {
                let plans: Vec<_> = world.operations.iter().map(|of| of.plan.clone()).collect();
                if !plans.is_empty() {
                    let plan = plans[world.rng.random_range(0..plans.len())].clone();
                    return match world.mutation {
                        Some(Mutation::FencedLate) => Command::Read(plan, NOT_FENCED, Reading::default()),
                        _ => Command::Fence(plan),
                    };
                }
            }
            _ => {}
        }
        Command::None
    }

    fn write_plan(&mut self, world: &mut World, reading: &Reading, asked_for: &AskedFor) {
        let (contents, _) = read(world, reading, asked_for, |_| true);
        let Some(offsets) = contents.offsets.get(&P) else {
            return;
        };
        self.plans += 1;
        let plan = format!("{}-{}", self.number, self.plans);
        let calls = Event::Calls {
            partition: P,
            runs: offsets.runs().collect(),
        };
        let planned = Event::Planned(Planned {
            group: "g".into(),
            outbox: None,
            calls: offsets.count(),
            again: 0,
            looks_up: false,
            states: asked_for
                .states()
                .iter()
                .map(|state| state.as_str().to_owned())
                .collect(),
        });
        for event in [calls, planned] {
            world.operations.push(Replay {
                plan: plan.clone(),
                event,
            });
        }
    }
}

impl Reading {
    /// Reads one more kind of record. Returns itself if another one is missing.
    fn step(mut self, world: &mut World) -> Result<Self, Self> {
        // Long topics take their time.
        if world.rng.random_bool(0.5) {
            return Err(self);
        }
        let notes = || Some((world.committed, world.note.clone()));
        match (&self.notes, &self.terminals) {
            (None, _) => self.notes = notes(),
            (Some(_), None) => self.terminals = Some(world.terminals.clone()),
            (Some(_), Some(_)) => return Ok(self),
        }
        Err(self)
    }
}

/// Folds what was read, and the outbox as it is now, into a plan. Returns with it the calls that may be made again now.
fn read(
    world: &World,
    reading: &Reading,
    asked_for: &AskedFor,
    is_selected: impl Fn(i64) -> bool,
) -> (Contents, BTreeMap<Replayable, OffsetSet>) {
    match asked_for {
        AskedFor::States(states) => {
            let planner = planner(world, reading, states, is_selected);
            (planner.contents(), planner.replayable(P))
        }
        AskedFor::Unknown => {
            let orders = named_orders(world, reading, is_selected);
            (orders.contents(), orders.replayable(P))
        }
    }
}

/// Folds what was read, and the outbox as it is now, by the keys of the orders that the provider has not charged.
fn named_orders(world: &World, reading: &Reading, is_selected: impl Fn(i64) -> bool) -> NamedOrders {
    let key = |order: usize| order.to_be_bytes().to_vec();
    let not_charged = (0..world.charged.len()).filter(|order| world.charged[*order] == 0);
    let mut orders = NamedOrders::new("outbox", not_charged.map(key));
    let ledger = world.ledger(world.noted(reading.notes.clone()), &[]);
    for (kind, offset) in reading.terminals.iter().flatten() {
        let record = world.record(*offset);
        orders.terminal(&key(record.order), *kind, &position(*offset));
        // Settled as rejected, which has written the dead letter.
        if matches!(kind, Terminal::DeadLetter(_)) {
            orders.settled(&key(record.order), &position(*offset));
        }
    }
    for offset in &world.sent_again {
        orders.settled(&key(world.record(*offset).order), &position(*offset));
    }
    for (offset, record) in (0..).zip(&world.log) {
        let lineage = match record.repeats {
            Some(first) => Lineage::Repeats(Offset(first)),
            None if record.first != offset => Lineage::Continues(Offset(record.first)),
            None => Lineage::Original,
        };
        let named = NamedRecord {
            offset: Offset(offset),
            lineage,
            noted: ledger.noted_state(P, Offset(offset), RecordState::Open),
            is_selected: is_selected(offset),
            is_expired: false,
            money: None,
        };
        orders.pending(&key(record.order), P, &named);
    }
    orders
}

/// Folds what was read, and the outbox as it is now, into a plan of calls by their states.
fn planner(
    world: &World,
    reading: &Reading,
    states: &[Replayable],
    is_selected: impl Fn(i64) -> bool,
) -> Planner {
    let mut planner = Planner::new(states.to_vec());
    let terminals = reading.terminals.as_deref().unwrap_or_default();
    let mut ledger = world.ledger(world.noted(reading.notes.clone()), terminals);
    for (offset, record) in (0..).zip(&world.log) {
        let first = position(record.first);
        let continues = (record.first != offset).then_some(&first);
        if record.repeats.is_some() && world.mutation != Some(Mutation::RepeatsForgotten) {
            ledger.repeated(P, Offset(offset));
        }
        let state = ledger
            .pending(P, Offset(offset), &[0], continues)
            .expect("one key for all");
        planner.take(
            P,
            &Selected {
                offset: Offset(offset),
                first: Offset(record.first),
                repeats: record.repeats.map(Offset),
                state: ledger.noted_state(P, Offset(offset), state),
                is_noted_final: ledger.is_noted_final(P, Offset(offset)),
                is_selected: is_selected(offset),
                is_early: false,
                is_expired: false,
                money: None,
            },
        );
    }
    planner
}

/// Reads the events of the replay, and which of its calls may be made again now.
fn ready(world: &mut World, plan: String, epoch: u64, reading: &Reading) -> Command {
    let mut replays = Replays::default();
    for event in &world.operations {
        replays.take(event.clone(), Timestamp(0));
    }
    let Some(replay) = replays.get(&plan).filter(|replay| replay.stage() == Stage::Open) else {
        return Command::None;
    };
    let names = replay
        .planned()
        .map(|planned| planned.states.clone())
        .unwrap_or_default();
    let asked_for = AskedFor::planned(&names).expect("a plan of this version");
    let calls = replay.calls().get(&P).cloned().unwrap_or_default();
    let eligible = match world.mutation {
        Some(Mutation::StatesIgnored) => [(asked_for.states()[0], calls)].into(),
        _ => {
            read(world, reading, &asked_for, |offset| {
                calls.contains(Offset(offset))
            })
            .1
        }
    };
    Command::Run {
        plan,
        epoch,
        replay: Box::new(replay.clone()),
        eligible,
    }
}

/// Appends the next calls in one transaction, which a later run fences.
fn append(
    world: &mut World,
    plan: String,
    epoch: u64,
    mut replay: Box<RunningReplay>,
    eligible: BTreeMap<Replayable, OffsetSet>,
) -> Command {
    if epoch == NOT_FENCED {
        world.epoch += 1;
        let epoch = world.epoch;
        return Command::Run {
            plan,
            epoch,
            replay,
            eligible,
        };
    }
    if epoch != world.epoch && world.mutation != Some(Mutation::NoFence) {
        world.count("operators fenced");
        return Command::None;
    }
    let size = world.rng.random_range(1..4);
    let event = match replay.step(size) {
        Step::Append(batch) => {
            let offsets = &batch[&P];
            let (mut appended, mut left_out) = (0, 0);
            for offset in offsets {
                let state = eligible
                    .iter()
                    .find(|(_, offsets)| offsets.contains(*offset))
                    .map(|(state, _)| *state);
                match state {
                    Some(state) => {
                        if state == Replayable::Unknown {
                            world.count("calls of unknown outcome appended");
                        }
                        world.append(offset.0, state);
                        appended += 1;
                    }
                    None => {
                        world.count("calls left out");
                        left_out += 1;
                    }
                }
            }
            Event::Appended {
                until: vec![(P, offsets[offsets.len() - 1].next())],
                appended,
                left_out,
            }
        }
        Step::AwaitCanary => Event::CanaryPassed,
        Step::Finish => Event::Finished,
    };
    let is_finished = event == Event::Finished;
    replay.take(event.clone());
    world.operations.push(Replay {
        plan: plan.clone(),
        event,
    });
    if is_finished {
        return Command::None;
    }
    Command::Run {
        plan,
        epoch,
        replay,
        eligible,
    }
}
