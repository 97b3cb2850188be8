//! The consumer group: its coordinator, and what librdkafka does of it in the background of each process.
//!
//! Rebalances are cooperative: each ends in a new generation, of which every member hears with the partitions
//! it has to give up and those that are new to it; the next one waits for the answers, or expels who does not
//! answer. A member that was expelled mostly hears that all is lost. But librdkafka may also meet its expulsion
//! while it joins anew, and then joins under a new member id without a word, its partitions still in hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use records::Partition;

pub(crate) type MemberId = u32;
pub(crate) type ProcessId = u32;

/// A membership as of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) member: MemberId,
    pub(crate) generation: u32,
    pub(crate) instance: usize,
}

/// The membership of a consumer that never joined. Kafka takes it within a transaction and checks nothing.
pub(crate) const NO_MEMBER: MemberId = 0;

/// What a process hears of the group when it polls.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Assigned(Vec<Partition>, Meta),
    Revoked(Vec<Partition>, Meta),
    Lost(Vec<Partition>),
    /// Another process has joined under the same instance id.
    Replaced,
}

/// Why a membership is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outsider {
    Replaced,
    UnknownMember,
    OldGeneration,
}

struct Member {
    process: ProcessId,
    instance: usize,
    /// Whether it was part of the last rebalance.
    joined: bool,
    owned: BTreeSet<Partition>,
    /// Taken from it, and not yet given up.
    leaving: BTreeSet<Partition>,
}

/// The background of one process.
struct Client {
    member: MemberId,
    instance: usize,
    /// The partitions that the process was handed and has not given up.
    holds: BTreeSet<Partition>,
    notices: VecDeque<Notice>,
    /// Notices that were handed out and are not answered yet.
    serving: usize,
}

pub(crate) struct Group {
    is_static: bool,
    partitions: Vec<Partition>,
    generation: u32,
    members: BTreeMap<MemberId, Member>,
    clients: BTreeMap<ProcessId, Client>,
    members_ever: MemberId,
    /// Whether the coordinator compares member ids, or generations alone.
    pub(crate) checks_members: bool,
}

impl Group {
    pub(crate) fn new(is_static: bool, partitions: Vec<Partition>) -> Self {
        Self {
            is_static,
            partitions,
            generation: 0,
            members: BTreeMap::new(),
            clients: BTreeMap::new(),
            members_ever: NO_MEMBER,
            checks_members: true,
        }
    }

    /// A process starts and joins. A static member takes the place of the one before it at once.
    pub(crate) fn start(&mut self, process: ProcessId, instance: usize) {
        let client = Client {
            member: NO_MEMBER,
            instance,
            holds: BTreeSet::new(),
            notices: VecDeque::new(),
            serving: 0,
        };
        self.clients.insert(process, client);
        self.join(process);
    }

    fn join(&mut self, process: ProcessId) {
        self.members_ever += 1;
        let id = self.members_ever;
        let client = self.clients.get_mut(&process).expect("a client");
        client.member = id;
        let instance = client.instance;
        let before = self.is_static.then(|| self.of_instance(instance)).flatten();
        let mut member = Member {
            process,
            instance,
            joined: false,
            owned: BTreeSet::new(),
            leaving: BTreeSet::new(),
        };
        if let Some(before) = before.and_then(|before| self.members.remove(&before))
            && before.joined
        {
            member.owned = before.owned;
            member.joined = true;
            let meta = self.meta_of(id, instance);
            let client = self.clients.get_mut(&process).expect("a client");
            let new = member.owned.difference(&client.holds).copied().collect();
            let gone: Vec<Partition> = client.holds.difference(&member.owned).copied().collect();
            if !gone.is_empty() {
                client.notices.push_back(Notice::Revoked(gone, meta));
            }
            client.notices.push_back(Notice::Assigned(new, meta));
        }
        self.members.insert(id, member);
    }

    fn of_instance(&self, instance: usize) -> Option<MemberId> {
        let mut members = self.members.iter();
        members
            .find(|(_, member)| member.instance == instance)
            .map(|(id, _)| *id)
    }

    /// Whether no member has this instance id.
    pub(crate) fn is_free(&self, instance: usize) -> bool {
        self.of_instance(instance).is_none()
    }

    /// Whether the member that has it is a process.
    pub(crate) fn is_alive(&self, instance: usize) -> bool {
        self.of_instance(instance)
            .is_some_and(|id| self.clients.contains_key(&self.members[&id].process))
    }

    fn meta_of(&self, member: MemberId, instance: usize) -> Meta {
        Meta {
            member,
            generation: self.generation,
            instance,
        }
    }

    /// A process is gone; the coordinator learns of it by silence alone.
    pub(crate) fn gone(&mut self, process: ProcessId) {
        self.clients.remove(&process);
    }

    /// A process leaves. A static member says nothing, so that its restart finds its partitions.
    pub(crate) fn leave(&mut self, process: ProcessId) {
        if let Some(client) = self.clients.remove(&process)
            && !self.is_static
        {
            self.members.remove(&client.member);
        }
    }

    /// What the process hears next.
    pub(crate) fn poll(&mut self, process: ProcessId) -> Option<Notice> {
        let client = self.clients.get_mut(&process)?;
        let notice = client.notices.pop_front()?;
        client.serving += 1;
        if let Notice::Assigned(partitions, _) = &notice {
            client.holds.extend(partitions);
        }
        Some(notice)
    }

    /// An assignment is answered.
    pub(crate) fn accept(&mut self, process: ProcessId) {
        let client = self.clients.get_mut(&process).expect("a client");
        client.serving -= 1;
    }

    /// A revoke or a loss is answered.
    pub(crate) fn give_up(&mut self, process: ProcessId, partitions: &[Partition]) {
        let client = self.clients.get_mut(&process).expect("a client");
        client.serving -= 1;
        client.holds.retain(|partition| !partitions.contains(partition));
        match self.members.get_mut(&client.member) {
            Some(member) => member.leaving.retain(|partition| !partitions.contains(partition)),
            None if client.member == NO_MEMBER && client.notices.is_empty() => self.join(process),
            None => {}
        }
    }

    /// The membership as librdkafka has it now, whatever the process was told.
    pub(crate) fn meta_now(&self, process: ProcessId) -> Option<Meta> {
        let client = self.clients.get(&process)?;
        Some(self.meta_of(client.member, client.instance))
    }

    /// What the coordinator makes of a membership that a transaction's offsets come with.
    pub(crate) fn check(&self, meta: Meta) -> Result<(), Outsider> {
        if meta.member == NO_MEMBER || !self.checks_members {
            let is_current = meta.member == NO_MEMBER || meta.generation == self.generation;
            return is_current.then_some(()).ok_or(Outsider::OldGeneration);
        }
        match self.members.get(&meta.member) {
            Some(member) if !member.joined => Err(Outsider::UnknownMember),
            Some(_) if meta.generation != self.generation => Err(Outsider::OldGeneration),
            Some(_) => Ok(()),
            None if self.is_static && self.of_instance(meta.instance).is_some() => Err(Outsider::Replaced),
            None => Err(Outsider::UnknownMember),
        }
    }

    /// Whether a partition is a process's own, by the membership that the process knows of.
    pub(crate) fn owns(&self, process: ProcessId, meta: Meta, partition: Partition) -> bool {
        self.members.get(&meta.member).is_some_and(|member| {
            member.process == process
                && member.joined
                && meta.generation == self.generation
                && (member.owned.contains(&partition) || member.leaving.contains(&partition))
        })
    }

    /// The coordinator takes a member for dead.
    pub(crate) fn expel(&mut self, random: &mut ChaCha8Rng) -> Option<ProcessId> {
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        let id = *ids.get(random.random_range(0..ids.len().max(1)))?;
        self.members.remove(&id).map(|member| member.process)
    }

    /// A process's background learns that it was expelled or replaced, if it was.
    pub(crate) fn discover(&mut self, process: ProcessId, random: &mut ChaCha8Rng) {
        let Some(client) = self.clients.get(&process) else {
            return;
        };
        if client.member == NO_MEMBER || self.members.contains_key(&client.member) {
            return;
        }
        let is_replaced = self.is_static && self.of_instance(client.instance).is_some();
        let client = self.clients.get_mut(&process).expect("a client");
        let answers_all = client.notices.is_empty() && client.serving == 0;
        if is_replaced {
            client.notices = [Notice::Replaced].into();
        } else if answers_all && (client.holds.is_empty() || random.random_ratio(1, 2)) {
            // Its background joins anew, and says nothing of it.
            self.join(process);
        } else {
            client.member = NO_MEMBER;
            let lost = client.holds.iter().copied().collect();
            client.notices = [Notice::Lost(lost)].into();
        }
    }

    pub(crate) fn is_static(&self) -> bool {
        self.is_static
    }

    /// Whether somebody waits for a rebalance.
    pub(crate) fn wants_rebalance(&self) -> bool {
        let is_owned = |partition: &Partition| {
            self.members
                .values()
                .any(|member| member.owned.contains(partition))
        };
        self.members.values().any(|member| !member.joined) || !self.partitions.iter().all(is_owned)
    }

    /// Members that do not take part in a rebalance: dead, asleep, or with a notice that is not answered.
    pub(crate) fn laggards(&self, is_awake: impl Fn(ProcessId) -> bool) -> Vec<MemberId> {
        let answers = |member: &Member| {
            is_awake(member.process)
                && self
                    .clients
                    .get(&member.process)
                    .is_some_and(|client| client.notices.is_empty() && client.serving == 0)
        };
        let members = self.members.iter();
        members
            .filter(|(_, member)| !answers(member))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Members whose process is gone.
    pub(crate) fn bury_dead(&mut self) {
        let clients = &self.clients;
        self.members
            .retain(|_, member| clients.contains_key(&member.process));
    }

    pub(crate) fn expel_all(&mut self, members: &[MemberId]) {
        self.members.retain(|id, _| !members.contains(id));
    }

    /// A rebalance of all members, which all answer. With `moves` it also takes partitions away.
    pub(crate) fn rebalance(&mut self, random: &mut ChaCha8Rng, moves: bool) {
        self.generation += 1;
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        for partition in &self.partitions {
            let owner = ids.iter().find(|id| self.members[id].owned.contains(partition));
            let is_leaving = ids.iter().any(|id| self.members[id].leaving.contains(partition));
            match owner {
                Some(owner) if moves && ids.len() > 1 && random.random_ratio(1, 3) => {
                    let owner = self.members.get_mut(owner).expect("a member");
                    owner.owned.remove(partition);
                    owner.leaving.insert(*partition);
                }
                None if !is_leaving => {
                    let to = ids[random.random_range(0..ids.len())];
                    let to = self.members.get_mut(&to).expect("a member");
                    to.owned.insert(*partition);
                }
                Some(_) | None => {}
            }
        }
        for id in ids {
            let meta = self.meta_of(id, self.members[&id].instance);
            let member = self.members.get_mut(&id).expect("a member");
            member.joined = true;
            let client = self.clients.get_mut(&member.process).expect("a client");
            let gone: Vec<Partition> = client.holds.difference(&member.owned).copied().collect();
            let new = member.owned.difference(&client.holds).copied().collect();
            if !gone.is_empty() {
                client.notices.push_back(Notice::Revoked(gone, meta));
            }
            client.notices.push_back(Notice::Assigned(new, meta));
        }
    }
}
