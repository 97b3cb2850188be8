//! Counts of all incidents, kept by the threads that cause or observe them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Incident of a run: an injected fault, or what a program did on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Incident {
    Killed,
    KilledWhileStarting,
    KilledAndStayedDown,
    DiskLost,
    StoreLost,
    StoreDamaged,
    DiskFull,
    Zombie,
    FrozenBriefly,
    Restarted,
    RollingRestart,
    AllStateLost,
    GroupDeleted,
    ChangelogTailLost,
    CallerKilled,
    CallerKilledWhileStarting,
    CallerKilledAndStayedDown,
    CallerZombie,
    CallerRestarted,
    CallersGroupDeleted,
    ExitedByItself,
    Rejoined,
    BrokerKilled,
    BrokerRestarted,
    BrokerFrozen,
}

impl Incident {
    /// All incidents, in the order of the table.
    pub(crate) const ALL: [Self; 25] = [
        Self::Killed,
        Self::KilledWhileStarting,
        Self::KilledAndStayedDown,
        Self::DiskLost,
        Self::StoreLost,
        Self::StoreDamaged,
        Self::DiskFull,
        Self::Zombie,
        Self::FrozenBriefly,
        Self::Restarted,
        Self::RollingRestart,
        Self::AllStateLost,
        Self::GroupDeleted,
        Self::ChangelogTailLost,
        Self::CallerKilled,
        Self::CallerKilledWhileStarting,
        Self::CallerKilledAndStayedDown,
        Self::CallerZombie,
        Self::CallerRestarted,
        Self::CallersGroupDeleted,
        Self::ExitedByItself,
        Self::Rejoined,
        Self::BrokerKilled,
        Self::BrokerRestarted,
        Self::BrokerFrozen,
    ];

    /// Returns true if a validator got SIGKILL.
    pub(crate) const fn is_kill(self) -> bool {
        match self {
            Self::Killed
            | Self::KilledWhileStarting
            | Self::KilledAndStayedDown
            | Self::DiskLost
            | Self::StoreLost
            | Self::StoreDamaged => true,
            Self::Zombie
            | Self::FrozenBriefly
            | Self::Restarted
            | Self::DiskFull
            | Self::RollingRestart
            | Self::AllStateLost
            | Self::GroupDeleted
            | Self::ChangelogTailLost
            | Self::CallerKilled
            | Self::CallerKilledWhileStarting
            | Self::CallerKilledAndStayedDown
            | Self::CallerZombie
            | Self::CallerRestarted
            | Self::CallersGroupDeleted
            | Self::ExitedByItself
            | Self::Rejoined
            | Self::BrokerKilled
            | Self::BrokerRestarted
            | Self::BrokerFrozen => false,
        }
    }

    /// Returns true if the run injects the incident, and a long run must have it.
    pub(crate) const fn is_injected(self) -> bool {
        !matches!(self, Self::ExitedByItself | Self::Rejoined)
    }

    /// Returns the label of the incident in the table.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Killed => "validator killed (kill -9) while it works",
            Self::KilledWhileStarting => "validator killed while it starts",
            Self::KilledAndStayedDown => "validator killed, down past its session",
            Self::DiskLost => "validator killed, state directory lost",
            Self::StoreLost => "validator killed, one store lost",
            Self::StoreDamaged => "validator killed, one store damaged",
            Self::DiskFull => "validator restarted on a full disk, noticed and survived",
            Self::Zombie => "validator frozen past session and transaction (zombie)",
            Self::FrozenBriefly => "validator frozen for a moment",
            Self::Restarted => "validator restarted (SIGTERM)",
            Self::RollingRestart => "rolling restart, down to one validator and back",
            Self::AllStateLost => "all validators killed, all state directories lost",
            Self::GroupDeleted => "all validators killed, their group deleted",
            Self::ChangelogTailLost => "changelog's tail lost on all replicas, rebuilt",
            Self::CallerKilled => "caller killed (kill -9) while it works",
            Self::CallerKilledWhileStarting => "caller killed while it starts",
            Self::CallerKilledAndStayedDown => "caller killed, down past its session",
            Self::CallerZombie => "caller frozen past its session (zombie)",
            Self::CallerRestarted => "caller restarted (SIGTERM)",
            Self::CallersGroupDeleted => "all callers killed, their group deleted, halted and recovered",
            Self::ExitedByItself => "validator or caller exited by itself",
            Self::Rejoined => "validator fenced by a stale static member, rejoined",
            Self::BrokerKilled => "broker killed (kill -9)",
            Self::BrokerRestarted => "broker restarted (SIGTERM)",
            Self::BrokerFrozen => "broker frozen for a while",
        }
    }
}

/// Counts of the incidents, and the last log lines of programs that exited by themselves.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<Incident, u64>>,
    exits: Mutex<Vec<String>>,
}

// Nothing can panic while it holds one of these locks, so a poisoned one still guards complete data.
impl Tally {
    pub(crate) fn count(&self, incident: Incident) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(incident).or_default() += 1;
    }

    /// Counts a program that exited by itself, with its status and its last log line.
    pub(crate) fn exited_by_itself(&self, description: String) {
        self.count(Incident::ExitedByItself);
        let mut all = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(description);
    }

    pub(crate) fn of(&self, incident: Incident) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&incident).copied().unwrap_or(0)
    }

    /// Returns the number of SIGKILLs of validators.
    pub(crate) fn kills(&self) -> u64 {
        Incident::ALL
            .into_iter()
            .filter(|incident| incident.is_kill())
            .map(|incident| self.of(incident))
            .sum()
    }

    /// Returns the injected incidents that never happened.
    pub(crate) fn missing(&self) -> Vec<Incident> {
        Incident::ALL
            .into_iter()
            .filter(|incident| incident.is_injected() && self.of(*incident) == 0)
            .collect()
    }

    /// Returns the descriptions of all programs that exited by themselves.
    pub(crate) fn exits(&self) -> Vec<String> {
        let all = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}
