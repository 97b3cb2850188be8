//! Counts of all incidents, kept by the threads that cause or observe them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Incident of a run: an injected fault, or what a validator did on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Incident {
    Killed,
    KilledWhileStarting,
    KilledAndStayedDown,
    DiskLost,
    StoreLost,
    StoreDamaged,
    Zombie,
    FrozenBriefly,
    Restarted,
    RollingRestart,
    ExitedByItself,
    Rejoined,
    BrokerKilled,
    BrokerRestarted,
    BrokerFrozen,
}

impl Incident {
    /// All incidents, in the order of the table.
    pub(crate) const ALL: [Self; 15] = [
        Self::Killed,
        Self::KilledWhileStarting,
        Self::KilledAndStayedDown,
        Self::DiskLost,
        Self::StoreLost,
        Self::StoreDamaged,
        Self::Zombie,
        Self::FrozenBriefly,
        Self::Restarted,
        Self::RollingRestart,
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
            | Self::RollingRestart
            | Self::ExitedByItself
            | Self::Rejoined
            | Self::BrokerKilled
            | Self::BrokerRestarted
            | Self::BrokerFrozen => false,
        }
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
            Self::Zombie => "validator frozen past session and transaction (zombie)",
            Self::FrozenBriefly => "validator frozen for a moment",
            Self::Restarted => "validator restarted (SIGTERM)",
            Self::RollingRestart => "rolling restart, down to one validator and back",
            Self::ExitedByItself => "validator exited by itself",
            Self::Rejoined => "validator fenced by a stale static member, rejoined",
            Self::BrokerKilled => "broker killed (kill -9)",
            Self::BrokerRestarted => "broker restarted (SIGTERM)",
            Self::BrokerFrozen => "broker frozen for a while",
        }
    }
}

/// Counts of the incidents, and the last log lines of validators that exited by themselves.
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

    /// Counts a validator that exited by itself, with its status and its last log line.
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

    /// Returns the descriptions of all validators that exited by themselves.
    pub(crate) fn exits(&self) -> Vec<String> {
        let all = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}
