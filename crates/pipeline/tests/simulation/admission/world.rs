//! The world of one seed: brokers, group, machines and processes, and a scheduler that draws each next step.
//!
//! For some hundred steps there are faults; then they stop, and everything must come to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::{Entry, IdempotencyKey, Partition};

use crate::admission::broker::{Broker, Id};
use crate::admission::checker::{Checker, Promise, Violation, broken};
use crate::admission::disk::Disk;
use crate::admission::group::{Group, ProcessId};
use crate::admission::mutations::Mutation;
use crate::admission::orders::Orders;
use crate::admission::process::Process;
use crate::admission::producer::{Message, NotTaken, Producer, ProducerId, Reply, Request};

pub(crate) struct World {
    env: Env,
    processes: Vec<Process>,
    /// The machines of each instance. A process is replaced by one on another machine, and may come back later
    /// to a disk that has not seen what happened meanwhile.
    hosts: Vec<Vec<usize>>,
    weights: Weights,
    faulty_steps: u64,
    sleep_steps_max: u64,
}

/// Everything that processes share.
pub(crate) struct Env {
    pub(crate) random: ChaCha8Rng,
    pub(crate) now: Instant,
    pub(crate) steps: u64,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) faults: bool,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) orders: Rc<Orders>,
    pub(crate) broker: Broker,
    pub(crate) group: Group,
    pub(crate) disks: Vec<Disk>,
    pub(crate) network: Vec<Message>,
    pub(crate) producers: BTreeSet<ProducerId>,
    pub(crate) checker: Checker,
    /// What any process has ever put into a transaction, for the mutation that keeps it.
    pub(crate) ever_sent: BTreeMap<(ProcessId, Partition, IdempotencyKey), Entry>,
    replies: Vec<(ProducerId, Reply)>,
    producers_ever: ProducerId,
    processes_ever: ProcessId,
    instances: usize,
    /// Of so many turns without anything else, one makes a store durable.
    pub(crate) persist_every: u32,
    /// In so many turns that it waits for an answer, a process gives up once.
    gives_up_every: u32,
    is_traced: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// How often each kind of step is drawn. They differ from seed to seed, so that in some seeds markers are
/// written long after the decision, in others requests stay on the wire, and so on.
struct Weights {
    process: u32,
    restore: u32,
    network: u32,
    marker: u32,
    group: u32,
    unrest: u32,
    arrival: u32,
    fault: u32,
}

const CALM: Weights = Weights {
    process: 600,
    restore: 200,
    network: 200,
    marker: 150,
    group: 100,
    unrest: 0,
    arrival: 0,
    fault: 0,
};

/// Steps with faults; after as many more as this the end must have come.
const DRAIN_STEPS_MAX: u64 = 30_000;

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, looks_inside: bool, is_traced: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let count = random.random_range(1..3);
        let instances = random.random_range(2..4);
        let is_static = random.random_ratio(1, 2);
        let partitions: Vec<Partition> = (0..).take(count).map(Partition).collect();
        let mut one_of = |rates: [u32; 3]| rates[random.random_range(0..3)];
        let weights = Weights {
            process: 600,
            restore: 200,
            network: one_of([30, 150, 500]),
            marker: one_of([15, 80, 300]),
            group: one_of([20, 80, 200]),
            arrival: 20,
            unrest: one_of([1, 4, 15]),
            fault: one_of([2, 8, 25]),
        };
        let sleep_steps_max = u64::from(one_of([40, 150, 600]));
        let persist_every = one_of([4, 12, 100]);
        let gives_up_every = one_of([20, 60, 300]);
        let faulty_steps = random.random_range(300..2_000);
        let mut broker = Broker::new(partitions.iter().copied());
        broker.verifies = mutation != Some(Mutation::NoVerification);
        let mut group = Group::new(is_static, partitions.clone());
        group.checks_members = mutation != Some(Mutation::GenerationAlone);
        let env = Env {
            orders: Rc::new(Orders::draw(&mut random, count)),
            random,
            now: Instant::now(),
            steps: 0,
            mutation,
            faults: true,
            partitions,
            broker,
            group,
            disks: Vec::new(),
            network: Vec::new(),
            producers: BTreeSet::new(),
            checker: Checker::new(count, looks_inside),
            ever_sent: BTreeMap::new(),
            replies: Vec::new(),
            producers_ever: 0,
            processes_ever: 0,
            instances,
            persist_every,
            gives_up_every,
            is_traced,
            counts: BTreeMap::new(),
        };
        let mut world = Self {
            env,
            processes: Vec::new(),
            hosts: vec![Vec::new(); instances],
            weights,
            faulty_steps,
            sleep_steps_max,
        };
        for instance in 0..instances {
            world.start_process(instance);
        }
        world
    }

    /// Plays the seed to its end.
    pub(crate) fn play(mut self) -> Result<BTreeMap<&'static str, u64>, Violation> {
        while self.env.faults || !self.is_over() {
            self.env.steps += 1;
            self.env.now += Duration::from_millis(self.env.random.random_range(0..8));
            if self.env.faults && self.env.steps > self.faulty_steps {
                self.env.faults = false;
                self.env.trace(|| "the faults stop".into());
                self.weights = CALM;
                Rc::make_mut(&mut self.env.orders).arrive_all();
            }
            if self.env.steps > self.faulty_steps + DRAIN_STEPS_MAX {
                return broken(Promise::Drain, self.stuck());
            }
            self.step()?;
        }
        self.env.checker.ended(&self.env.broker, &self.env.orders)?;
        *self.env.counts.entry("steps").or_default() += self.env.steps;
        Ok(self.env.counts)
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Weights {
            process,
            restore,
            network,
            marker,
            group,
            unrest,
            arrival,
            fault,
        } = self.weights;
        let kinds = [process, restore, network, marker, group, unrest, arrival, fault];
        let mut drawn = self.env.random.random_range(0..kinds.iter().sum());
        let mut kind = 0;
        while drawn >= kinds[kind] {
            drawn -= kinds[kind];
            kind += 1;
        }
        match kind {
            1 => {
                if let Some(at) = self.draw_awake(Process::restores) {
                    self.processes[at].step_restore(&mut self.env);
                }
            }
            2 if !self.env.network.is_empty() => self.env.deliver()?,
            3 if self.env.broker.markers() > 0 => {
                let number = self.env.draw(self.env.broker.markers());
                let written = self.env.broker.write_marker(number);
                self.env.trace(|| format!("marker written: {written:?}"));
            }
            4 => self.group_turn(),
            5 if self.env.faults => self.unrest(),
            6 if self.env.faults => {
                let Env { orders, random, .. } = &mut self.env;
                Rc::make_mut(orders).arrive(random);
            }
            7 if self.env.faults => self.fault(),
            _ => {
                if let Some(at) = self.draw_awake(|_| true) {
                    self.processes[at].step(&mut self.env)?;
                    if self.processes[at].left {
                        let process = self.processes.swap_remove(at);
                        process.end(&mut self.env);
                    }
                }
                self.env.time_out_transactions(400);
            }
        }
        if !self.env.faults || self.env.chance(1, 40) {
            self.start_missing();
        }
        Ok(())
    }

    fn draw_awake(&mut self, is_meant: impl Fn(&Process) -> bool) -> Option<usize> {
        let count = self.processes.len();
        let first = self.env.draw(count.max(1));
        (first..count)
            .chain(0..first.min(count))
            .find(|at| self.is_awake(*at) && is_meant(&self.processes[*at]))
    }

    /// What the group does by itself: members learn of their expulsion, and who waits for it gets a rebalance.
    fn group_turn(&mut self) {
        for at in 0..self.processes.len() {
            if self.is_awake(at) && self.env.chance(1, 2) {
                let Env { group, random, .. } = &mut self.env;
                group.discover(self.processes[at].id, random);
            }
        }
        if self.env.group.wants_rebalance() {
            self.rebalance(false);
        }
        // A dead member that has a live process's name is no member for longer than its session.
        if self.processes.iter().any(Process::awaits_name) && self.env.chance(1, 20) {
            self.env.group.bury_dead();
        }
    }

    /// What happens to the group: a member is taken for dead, or partitions move.
    fn unrest(&mut self) {
        if self.env.chance(1, 2) {
            self.rebalance(true);
            return;
        }
        let Env { group, random, .. } = &mut self.env;
        if let Some(process) = group.expel(random) {
            self.env.count("members expelled");
            self.env
                .trace(|| format!("the member of process {process} is expelled"));
        }
    }

    fn rebalance(&mut self, moves: bool) {
        let awake: Vec<ProcessId> = (0..self.processes.len())
            .filter(|at| self.is_awake(*at))
            .map(|at| self.processes[at].id)
            .collect();
        let Env {
            group,
            random,
            faults,
            ..
        } = &mut self.env;
        // A dead member, or one that does not answer, holds the rebalance up until its session is over.
        let laggards = group.laggards(|process| awake.contains(&process));
        if !laggards.is_empty() {
            let waits = if *faults { 8 } else { 20 };
            if !random.random_ratio(1, waits) {
                return;
            }
            if *faults {
                group.expel_all(&laggards);
            } else {
                group.bury_dead();
                return;
            }
        }
        group.rebalance(random, moves);
        self.env.count("rebalances");
        self.env.trace(|| "the group rebalances".into());
    }

    fn is_awake(&self, at: usize) -> bool {
        !self.env.faults || self.processes[at].asleep_until <= self.env.steps
    }

    fn fault(&mut self) {
        let at = match self.processes.len() {
            0 => return,
            count => self.env.draw(count),
        };
        let process = &mut self.processes[at];
        let (id, host, instance) = (process.id, process.host, process.instance);
        match self.env.random.random_range(0..9) {
            0 | 1 => {
                self.env.count("kills");
                self.env.trace(|| format!("process {id} is killed"));
                self.processes.swap_remove(at).killed(&mut self.env);
            }
            2..5 => {
                self.env.count("pauses");
                process.asleep_until = self.env.steps + self.env.random.random_range(1..self.sleep_steps_max);
                self.env.trace(|| format!("process {id} sleeps"));
            }
            5 => {
                self.env.count("stops");
                process.stops = true;
            }
            6 if self.env.chance(1, 2) => {
                // A machine whose process is dead loses its disk, or a file of it.
                let idle = self
                    .hosts
                    .iter()
                    .flatten()
                    .copied()
                    .find(|host| !self.processes.iter().any(|process| process.host == *host));
                if let Some(idle) = idle {
                    if self.env.chance(1, 2) {
                        self.env.count("disks lost");
                        self.env.disks[idle] = Disk::default();
                    } else {
                        self.env.count("stores corrupted");
                        let partitions = self.env.partitions.clone();
                        self.env.disks[idle].corrupt = partitions;
                    }
                }
            }
            7 => {
                // The same instance is started on another machine.
                if self.env.group.is_static() && self.env.chance(1, 2) {
                    self.env.count("second processes");
                    self.env
                        .trace(|| format!("instance {instance} of process {id} on host {host} starts again"));
                    self.start_process(instance);
                }
            }
            _ => self.env.time_out_transactions(30),
        }
    }

    fn start_missing(&mut self) {
        for instance in 0..self.hosts.len() {
            let is_there = self.processes.iter().any(|process| process.instance == instance);
            if !is_there && self.env.chance(1, 4) {
                self.start_process(instance);
            }
        }
    }

    /// Starts a process on one of the instance's machines that are free, or on a new one.
    fn start_process(&mut self, instance: usize) {
        let is_free = |host: &usize| !self.processes.iter().any(|process| process.host == *host);
        let free: Vec<usize> = self.hosts[instance].iter().copied().filter(is_free).collect();
        let host = if free.is_empty() {
            self.env.disks.push(Disk::default());
            self.hosts[instance].push(self.env.disks.len() - 1);
            self.env.disks.len() - 1
        } else {
            free[self.env.draw(free.len())]
        };
        self.env.processes_ever += 1;
        let id = self.env.processes_ever;
        self.env
            .trace(|| format!("process {id} starts as instance {instance} on host {host}"));
        let process = Process::start(id, instance, host, &mut self.env);
        self.processes.push(process);
    }

    fn is_over(&self) -> bool {
        let env = &self.env;
        env.broker.is_at_rest()
            && env.network.is_empty()
            && env.partitions.iter().all(|partition| {
                env.checker.position(*partition) == env.orders.end(*partition)
                    && self
                        .processes
                        .iter()
                        .any(|process| process.works_on(*partition, env))
            })
    }

    fn stuck(&self) -> String {
        let env = &self.env;
        let partitions: Vec<String> = env
            .partitions
            .iter()
            .map(|partition| {
                format!(
                    "{partition} at {} of {}",
                    env.checker.position(*partition),
                    env.orders.end(*partition)
                )
            })
            .collect();
        format!(
            "it does not come to an end: {}; the brokers are {}at rest",
            partitions.join(", "),
            if env.broker.is_at_rest() { "" } else { "not " }
        )
    }
}

impl Env {
    /// `true` in so many of so many cases.
    pub(crate) fn chance(&mut self, of: u32, all: u32) -> bool {
        self.random.random_ratio(of, all)
    }

    /// Whether a process gives up waiting.
    pub(crate) fn gives_up(&mut self) -> bool {
        let every = if self.faults { self.gives_up_every } else { 1_000 };
        self.chance(1, every)
    }

    pub(crate) fn draw(&mut self, below: usize) -> usize {
        self.random.random_range(0..below)
    }

    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:5} {}", self.steps, what());
        }
    }

    /// One transactional id for each instance; in the mutation that fences by generation alone, where it
    /// would fence as well, one for each process.
    pub(crate) fn transactional_id(&self, instance: usize, process: ProcessId) -> Id {
        if self.is(Mutation::GenerationAlone) {
            self.instances + process as usize
        } else {
            instance
        }
    }

    pub(crate) fn producer(&mut self, id: Id, epoch: u32) -> Producer {
        self.producers_ever += 1;
        self.producers.insert(self.producers_ever);
        Producer::new(self.producers_ever, id, epoch)
    }

    /// The first reply of a kind to a producer.
    pub(crate) fn reply(&mut self, to: ProducerId, is_wanted: impl Fn(&Reply) -> bool) -> Option<Reply> {
        let at = self
            .replies
            .iter()
            .position(|(of, reply)| *of == to && is_wanted(reply))?;
        Some(self.replies.remove(at).1)
    }

    /// Replies to a producer that nobody waits for any longer.
    pub(crate) fn forget(&mut self, producer: ProducerId) {
        self.replies.retain(|(to, _)| *to != producer);
    }

    /// The coordinator aborts transactions that are open for too long.
    fn time_out_transactions(&mut self, steps: u64) {
        let late: Vec<Id> = self.broker.open_longer_than(steps, self.steps).collect();
        for id in late {
            self.count("transactions timed out");
            self.trace(|| format!("the transaction of {id} times out"));
            self.broker.abort_and_fence(id);
        }
    }

    /// A request arrives. Those of one producer to one partition arrive in their order.
    fn deliver(&mut self) -> Result<(), Violation> {
        let drawn = self.draw(self.network.len());
        let same_way = |message: &Message| match (&message.request, &self.network[drawn].request) {
            (Request::Produce(place, _), Request::Produce(other, _)) => {
                place == other && message.from == self.network[drawn].from
            }
            _ => false,
        };
        let at = self.network.iter().position(same_way).unwrap_or(drawn);
        let Message {
            from,
            id,
            epoch,
            request,
        } = self.network.remove(at);
        let is_heard = self.producers.contains(&from);
        if !is_heard {
            self.count("requests after their sender's end");
        }
        self.trace(|| format!("of producer {from} ({id}, epoch {epoch}) arrives {request:?}"));
        let reply = match request {
            Request::Produce(place, records) => {
                Reply::Produced(place, self.broker.produce(id, epoch, place, records))
            }
            Request::Offsets(offsets, meta) => Reply::Offsets(match self.group.check(meta) {
                Err(outsider) => Err(NotTaken::Group(outsider)),
                Ok(()) => self
                    .broker
                    .add_offsets(id, epoch, &offsets)
                    .map_err(|_| NotTaken::Transaction),
            }),
            Request::End { commit } => {
                if commit && self.broker.is_ongoing(id, epoch) {
                    self.checker.commits(&self.broker, &self.orders, id)?;
                }
                let ended = self.broker.end(id, epoch, commit);
                self.trace(|| format!("its end is answered by {ended:?}"));
                Reply::Ended(ended.map(|_| ()))
            }
        };
        // An answer may be lost; a produce request is then sent again by librdkafka until its time is over.
        let is_lost = self.faults && self.chance(1, 40);
        if is_heard {
            match reply {
                Reply::Produced(place, _) if is_lost => {
                    let timed_out = Err(crate::admission::broker::Refusal::Fenced);
                    self.replies.push((from, Reply::Produced(place, timed_out)));
                }
                _ if is_lost => {}
                reply => self.replies.push((from, reply)),
            }
        }
        self.trace(|| format!("answered by {:?}", self.replies.last()));
        Ok(())
    }
}
