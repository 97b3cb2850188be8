//! The group: members, who owns what, and the committed offsets with their notes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::delivery::CommitResult;
use rand::RngExt as _;
use records::{CallNote, Offset, OffsetSet, Partition};

use crate::delivery::checks::{Broken, Place};
use crate::delivery::world::{Mutation, World};

/// How long a member may be silent.
pub(crate) const SESSION: Duration = Duration::from_millis(1_000);

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<u64, Member>,
    members_ever: u64,
    pub(crate) committed: BTreeMap<Partition, (Offset, String)>,
    /// The age of what is committed: what is taken later is newer.
    taken_as: BTreeMap<Partition, u64>,
    pub(crate) taken_ever: u64,
    /// Commits of processes that no longer wait for them; they may land at any time, or never.
    pub(crate) late: Vec<CommitOnItsWay>,
}

/// What the group knows of one member.
pub(crate) struct Member {
    pub(crate) process: u64,
    pub(crate) heard_of_at: Instant,
    /// Owned partitions, and whether they are being revoked.
    pub(crate) owned: BTreeMap<Partition, bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct CommitOnItsWay {
    pub(crate) member: u64,
    pub(crate) content: Vec<(Partition, Offset, String)>,
    pub(crate) result: CommitResult,
}

/// What the group tells a process, in this order.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    Lost,
}

impl Group {
    pub(crate) fn join(&mut self, process: u64, now: Instant) -> u64 {
        self.members_ever += 1;
        let member = Member {
            process,
            heard_of_at: now,
            owned: BTreeMap::new(),
        };
        self.members.insert(self.members_ever, member);
        self.members_ever
    }
}

fn without_beginnings(mut note: CallNote, offset: Offset) -> String {
    note.begun = OffsetSet::new();
    note.encode(offset).expect("a shorter note")
}

impl World {
    /// The group moves a partition from one member to another.
    pub(crate) fn rebalance(&mut self) {
        let owned: Vec<(u64, Partition)> = self
            .group
            .members
            .iter()
            .filter(|(_, member)| member.owned.values().all(|leaves| !leaves))
            .flat_map(|(id, member)| member.owned.keys().map(|partition| (*id, *partition)))
            .collect();
        if owned.is_empty() {
            return;
        }
        let (id, partition) = owned[self.random.random_range(0..owned.len())];
        let Some(member) = self.group.members.get_mut(&id) else {
            return;
        };
        member.owned.insert(partition, true);
        let process = member.process;
        self.count("revokes");
        if let Some(caller) = self.caller(process) {
            caller.notices.push_back(Notice::Revoked(vec![partition]));
        }
    }

    /// The group expels who is silent, and gives away what is free.
    pub(crate) fn group_turn(&mut self) {
        let now = self.now;
        for member in self.group.members.values_mut() {
            let caller = self
                .callers
                .iter()
                .find(|caller| caller.process == member.process);
            if caller.is_some_and(|caller| caller.asleep_until.is_none()) {
                member.heard_of_at = now;
            }
        }
        let is_silent = |member: &Member| now.duration_since(member.heard_of_at) > SESSION;
        let silent: Vec<u64> = self
            .group
            .members
            .iter()
            .filter(|(_, member)| is_silent(member))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.count("expelled");
            let Some(member) = self.group.members.remove(&id) else {
                continue;
            };
            if let Some(caller) = self.caller(member.process) {
                caller.notices.clear();
                caller.notices.push_back(Notice::Lost);
            }
        }
        for partition in self.partitions() {
            let is_owned = self
                .group
                .members
                .values()
                .any(|m| m.owned.contains_key(&partition));
            if is_owned || !self.random.random_ratio(1, 3) {
                continue;
            }
            let alive: Vec<u64> = self
                .group
                .members
                .iter()
                .filter(|(_, member)| self.callers.iter().any(|caller| caller.process == member.process))
                .map(|(id, _)| *id)
                .collect();
            if alive.is_empty() {
                continue;
            }
            let id = alive[self.random.random_range(0..alive.len())];
            if let Some(member) = self.group.members.get_mut(&id) {
                member.owned.insert(partition, false);
                let process = member.process;
                if let Some(caller) = self.caller(process) {
                    caller.notices.push_back(Notice::Assigned(vec![partition]));
                }
            }
        }
    }

    /// Commits that nobody waits for any more land, or are lost.
    pub(crate) fn late_commits_turn(&mut self) {
        if self.group.late.is_empty() || !self.random.random_ratio(1, 6) {
            return;
        }
        let at = self.random.random_range(0..self.group.late.len());
        let commit = self.group.late.swap_remove(at);
        if self.random.random_ratio(4, 5) && self.land(&commit) {
            self.count("late commits");
        }
    }

    /// A commit reaches the coordinator, which looks at the membership and at nothing else.
    pub(crate) fn land(&mut self, commit: &CommitOnItsWay) -> bool {
        let Some(member) = self.group.members.get_mut(&commit.member) else {
            return false;
        };
        member.heard_of_at = self.now;
        self.group.taken_ever += 1;
        let taken_as = self.group.taken_ever;
        self.apply(&commit.content, taken_as);
        true
    }

    /// Offsets count from now on, unless newer ones do.
    pub(crate) fn apply(&mut self, content: &[(Partition, Offset, String)], taken_as: u64) {
        for (partition, offset, note) in content {
            if self
                .group
                .taken_as
                .get(partition)
                .is_some_and(|newest| *newest > taken_as)
            {
                continue;
            }
            self.group.taken_as.insert(*partition, taken_as);
            let note_read = CallNote::decode(*offset, note).expect("a note");
            self.check_finals(*partition, *offset, &note_read);
            let before = self.group.committed.get(partition);
            let before = before.map_or(Offset(0), |(offset, _)| *offset);
            if *offset < before {
                self.checks.broken(Broken::WatermarkBack, || {
                    format!("{partition} from {before} to {offset}")
                });
            }
            let note = match self.setup.mutation {
                Some(Mutation::NoBeginnings) => without_beginnings(note_read, *offset),
                _ => note.clone(),
            };
            self.group.committed.insert(*partition, (*offset, note));
        }
    }

    /// What is committed as final has an end, or is continued.
    fn check_finals(&mut self, partition: Partition, offset: Offset, note: &CallNote) {
        let range = (partition, Offset(0))..(Partition(partition.0 + 1), Offset(0));
        let finals: Vec<(Place, bool)> = self
            .log
            .range(range)
            .filter(|(place, record)| {
                let is_final = place.1 < offset || note.finals.contains(place.1);
                is_final && self.is_visible(record)
            })
            .map(|(place, record)| (*place, self.is_continued(*place, record.origin)))
            .collect();
        for (place, is_continued) in finals {
            let origin = self.origin(place);
            if !is_continued && !self.checks.ends.contains_key(&origin) {
                self.checks.broken(Broken::FinalWithoutEnd, || {
                    format!("{place:?}, which is {origin:?}")
                });
            }
            self.checks.finals.insert(place);
        }
    }

    fn is_continued(&self, place: Place, origin: Place) -> bool {
        let range = (place.0, place.1.next())..(Partition(place.0.0 + 1), Offset(0));
        let mut behind = self.log.range(range);
        behind.any(|(_, record)| record.origin == origin && self.is_visible(record))
    }
}
