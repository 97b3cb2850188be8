//! Simulated consumer group: its coordinator, and the background threads of librdkafka in each process.
//!
//! Rebalances are cooperative. Each ends in a new generation, and every member gets the partitions to release
//! and those that are new to it. The next rebalance waits for all acknowledgements, or evicts members without
//! one. An evicted member usually gets all its partitions as lost. But librdkafka may also find the eviction
//! while it joins again; it then has a new member id without any event, and keeps its partitions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use records::Partition;

pub(crate) type MemberId = u32;
pub(crate) type ProcessId = u32;

/// Group metadata of a membership, as of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    pub(crate) member: MemberId,
    pub(crate) generation: u32,
    pub(crate) instance: usize,
}

/// Member id of a consumer that never joined. Kafka accepts it within a transaction, without a check.
pub(crate) const NO_MEMBER: MemberId = 0;

/// Event that a process gets from the consumer.
#[derive(Clone, Debug)]
pub(crate) enum GroupEvent {
    Assigned(Vec<Partition>, GroupMetadata),
    Revoked(Vec<Partition>, GroupMetadata),
    Lost(Vec<Partition>),
    /// Another process has joined with the same instance id.
    Fenced,
}

/// Error of a membership check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembershipError {
    Fenced,
    UnknownMember,
    OldGeneration,
}

struct Member {
    process: ProcessId,
    instance: usize,
    /// `true` if the member was part of the last rebalance.
    joined: bool,
    owned: BTreeSet<Partition>,
    /// Revoked partitions that are not released yet.
    leaving: BTreeSet<Partition>,
}

/// State of librdkafka in one process.
struct Client {
    member: MemberId,
    instance: usize,
    /// Partitions assigned to the process and not released.
    assigned: BTreeSet<Partition>,
    events: VecDeque<GroupEvent>,
    /// Number of events that the process has not acknowledged.
    unacknowledged: usize,
}

pub(crate) struct Group {
    is_static: bool,
    partitions: Vec<Partition>,
    generation: u32,
    members: BTreeMap<MemberId, Member>,
    clients: BTreeMap<ProcessId, Client>,
    members_joined: MemberId,
    /// `true` if the coordinator compares member ids, `false` if generations only.
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
            members_joined: NO_MEMBER,
            checks_members: true,
        }
    }

    /// Starts a process, which joins. A static member replaces the one with its instance id immediately.
    pub(crate) fn start(&mut self, process: ProcessId, instance: usize) {
        let client = Client {
            member: NO_MEMBER,
            instance,
            assigned: BTreeSet::new(),
            events: VecDeque::new(),
            unacknowledged: 0,
        };
        self.clients.insert(process, client);
        self.join(process);
    }

    fn join(&mut self, process: ProcessId) {
        self.members_joined += 1;
        let id = self.members_joined;
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
            let meta = self.metadata_of(id, instance);
            let client = self.clients.get_mut(&process).expect("a client");
            let new = member.owned.difference(&client.assigned).copied().collect();
            let revoked: Vec<Partition> = client.assigned.difference(&member.owned).copied().collect();
            if !revoked.is_empty() {
                client.events.push_back(GroupEvent::Revoked(revoked, meta));
            }
            client.events.push_back(GroupEvent::Assigned(new, meta));
        }
        self.members.insert(id, member);
    }

    fn of_instance(&self, instance: usize) -> Option<MemberId> {
        let mut members = self.members.iter();
        members
            .find(|(_, member)| member.instance == instance)
            .map(|(id, _)| *id)
    }

    /// Returns `true` if no member has this instance id.
    pub(crate) fn is_free(&self, instance: usize) -> bool {
        self.of_instance(instance).is_none()
    }

    /// Returns `true` if the member with this instance id is a live process.
    pub(crate) fn is_alive(&self, instance: usize) -> bool {
        self.of_instance(instance)
            .is_some_and(|id| self.clients.contains_key(&self.members[&id].process))
    }

    fn metadata_of(&self, member: MemberId, instance: usize) -> GroupMetadata {
        GroupMetadata {
            member,
            generation: self.generation,
            instance,
        }
    }

    /// Handles the death of a process. The coordinator detects it by the session timeout only.
    pub(crate) fn process_died(&mut self, process: ProcessId) {
        self.clients.remove(&process);
    }

    /// Handles the shutdown of a process. A static member does not leave, so its restart gets its partitions
    /// back.
    pub(crate) fn leave(&mut self, process: ProcessId) {
        if let Some(client) = self.clients.remove(&process)
            && !self.is_static
        {
            self.members.remove(&client.member);
        }
    }

    /// Returns the next event for the process.
    pub(crate) fn poll(&mut self, process: ProcessId) -> Option<GroupEvent> {
        let client = self.clients.get_mut(&process)?;
        let group_event = client.events.pop_front()?;
        client.unacknowledged += 1;
        if let GroupEvent::Assigned(partitions, _) = &group_event {
            client.assigned.extend(partitions);
        }
        Some(group_event)
    }

    /// Acknowledges an assignment.
    pub(crate) fn accept(&mut self, process: ProcessId) {
        let client = self.clients.get_mut(&process).expect("a client");
        client.unacknowledged -= 1;
    }

    /// Acknowledges a revocation or a loss.
    pub(crate) fn release(&mut self, process: ProcessId, partitions: &[Partition]) {
        let client = self.clients.get_mut(&process).expect("a client");
        client.unacknowledged -= 1;
        client
            .assigned
            .retain(|partition| !partitions.contains(partition));
        match self.members.get_mut(&client.member) {
            Some(member) => member.leaving.retain(|partition| !partitions.contains(partition)),
            None if client.member == NO_MEMBER && client.events.is_empty() => self.join(process),
            None => {}
        }
    }

    /// Returns the metadata that librdkafka has now, which the process may not have got yet.
    pub(crate) fn current_metadata(&self, process: ProcessId) -> Option<GroupMetadata> {
        let client = self.clients.get(&process)?;
        Some(self.metadata_of(client.member, client.instance))
    }

    /// Checks the membership that a transaction's offsets are sent with.
    pub(crate) fn check(&self, meta: GroupMetadata) -> Result<(), MembershipError> {
        if meta.member == NO_MEMBER || !self.checks_members {
            let is_current = meta.member == NO_MEMBER || meta.generation == self.generation;
            return is_current.then_some(()).ok_or(MembershipError::OldGeneration);
        }
        match self.members.get(&meta.member) {
            Some(member) if !member.joined => Err(MembershipError::UnknownMember),
            Some(_) if meta.generation != self.generation => Err(MembershipError::OldGeneration),
            Some(_) => Ok(()),
            None if self.is_static && self.of_instance(meta.instance).is_some() => {
                Err(MembershipError::Fenced)
            }
            None => Err(MembershipError::UnknownMember),
        }
    }

    /// Returns `true` if the process owns a partition, by the membership that it has got.
    pub(crate) fn owns(&self, process: ProcessId, meta: GroupMetadata, partition: Partition) -> bool {
        self.members.get(&meta.member).is_some_and(|member| {
            member.process == process
                && member.joined
                && meta.generation == self.generation
                && (member.owned.contains(&partition) || member.leaving.contains(&partition))
        })
    }

    /// Evicts a random member, as after a session timeout.
    pub(crate) fn evict(&mut self, random: &mut ChaCha8Rng) -> Option<ProcessId> {
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        let id = *ids.get(random.random_range(0..ids.len().max(1)))?;
        self.members.remove(&id).map(|member| member.process)
    }

    /// Lets a process detect that its member was evicted or replaced.
    pub(crate) fn detect_eviction(&mut self, process: ProcessId, random: &mut ChaCha8Rng) {
        let Some(client) = self.clients.get(&process) else {
            return;
        };
        if client.member == NO_MEMBER || self.members.contains_key(&client.member) {
            return;
        }
        let is_replaced = self.is_static && self.of_instance(client.instance).is_some();
        let client = self.clients.get_mut(&process).expect("a client");
        let is_acknowledged = client.events.is_empty() && client.unacknowledged == 0;
        if is_replaced {
            client.events = [GroupEvent::Fenced].into();
        } else if is_acknowledged && (client.assigned.is_empty() || random.random_ratio(1, 2)) {
            // librdkafka joins again without an event.
            self.join(process);
        } else {
            client.member = NO_MEMBER;
            let lost = client.assigned.iter().copied().collect();
            client.events = [GroupEvent::Lost(lost)].into();
        }
    }

    pub(crate) fn is_static(&self) -> bool {
        self.is_static
    }

    /// Returns `true` if a member or a partition waits for a rebalance.
    pub(crate) fn wants_rebalance(&self) -> bool {
        let is_owned = |partition: &Partition| {
            self.members
                .values()
                .any(|member| member.owned.contains(partition))
        };
        self.members.values().any(|member| !member.joined) || !self.partitions.iter().all(is_owned)
    }

    /// Returns the members that hold up a rebalance: dead, asleep, or without acknowledgement of an event.
    pub(crate) fn unresponsive_members(&self, is_awake: impl Fn(ProcessId) -> bool) -> Vec<MemberId> {
        let is_responsive = |member: &Member| {
            is_awake(member.process)
                && self
                    .clients
                    .get(&member.process)
                    .is_some_and(|client| client.events.is_empty() && client.unacknowledged == 0)
        };
        let members = self.members.iter();
        members
            .filter(|(_, member)| !is_responsive(member))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Removes members whose process is dead.
    pub(crate) fn remove_dead(&mut self) {
        let clients = &self.clients;
        self.members
            .retain(|_, member| clients.contains_key(&member.process));
    }

    pub(crate) fn evict_all(&mut self, members: &[MemberId]) {
        self.members.retain(|id, _| !members.contains(id));
    }

    /// Rebalances all members, which are all responsive. With `moves` it revokes partitions, too.
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
            let meta = self.metadata_of(id, self.members[&id].instance);
            let member = self.members.get_mut(&id).expect("a member");
            member.joined = true;
            let client = self.clients.get_mut(&member.process).expect("a client");
            let revoked: Vec<Partition> = client.assigned.difference(&member.owned).copied().collect();
            let new = member.owned.difference(&client.assigned).copied().collect();
            if !revoked.is_empty() {
                client.events.push_back(GroupEvent::Revoked(revoked, meta));
            }
            client.events.push_back(GroupEvent::Assigned(new, meta));
        }
    }
}
