//! What has happened, counted by all who make it happen.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientError {
    Killed,
    KilledStarting,
    Gone,
    DiskLost,
    StoreLost,
    StoreDamaged,
    Zombie,
    Hiccup,
    Bounced,
    Rolled,
    EndedByItself,
    BegunAgain,
    BrokerKilled,
    BrokerBounced,
    BrokerFrozen,
}

impl ClientError {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 15] = [
        Self::Killed,
        Self::KilledStarting,
        Self::Gone,
        Self::DiskLost,
        Self::StoreLost,
        Self::StoreDamaged,
        Self::Zombie,
        Self::Hiccup,
        Self::Bounced,
        Self::Rolled,
        Self::EndedByItself,
        Self::BegunAgain,
        Self::BrokerKilled,
        Self::BrokerBounced,
        Self::BrokerFrozen,
    ];

    /// Whether a validator got SIGKILL.
    pub(crate) const fn is_kill(self) -> bool {
        match self {
            Self::Killed
            | Self::KilledStarting
            | Self::Gone
            | Self::DiskLost
            | Self::StoreLost
            | Self::StoreDamaged => true,
            Self::Zombie
            | Self::Hiccup
            | Self::Bounced
            | Self::Rolled
            | Self::EndedByItself
            | Self::BegunAgain
            | Self::BrokerKilled
            | Self::BrokerBounced
            | Self::BrokerFrozen => false,
        }
    }

    /// As a row of the table.
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Killed => "validator killed (kill -9) at work",
            Self::KilledStarting => "validator killed while it started",
            Self::Gone => "validator killed, and away past its session",
            Self::DiskLost => "validator killed, state directory lost",
            Self::StoreLost => "validator killed, one store lost",
            Self::StoreDamaged => "validator killed, one store damaged",
            Self::Zombie => "zombie: stopped past session and transaction, then went on",
            Self::Hiccup => "validator stopped for a moment",
            Self::Bounced => "validator restarted (SIGTERM)",
            Self::Rolled => "rolling restart, from all to 1 to all",
            Self::EndedByItself => "validator ended by itself",
            Self::BegunAgain => "validator shut out by a ghost of itself, and joined again",
            Self::BrokerKilled => "broker killed (kill -9)",
            Self::BrokerBounced => "broker restarted (SIGTERM)",
            Self::BrokerFrozen => "broker stopped for a while",
        }
    }
}

/// The counts, and what the validators that ended by themselves said last.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<ClientError, u64>>,
    last_words: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn count(&self, fault: ClientError) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(fault).or_default() += 1;
    }

    pub(crate) fn ended_by_itself(&self, words: String) {
        self.count(ClientError::EndedByItself);
        let mut all = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(words);
    }

    pub(crate) fn of(&self, fault: ClientError) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&fault).copied().unwrap_or(0)
    }

    /// How often a validator got SIGKILL.
    pub(crate) fn kills(&self) -> u64 {
        ClientError::ALL
            .into_iter()
            .filter(|fault| fault.is_kill())
            .map(|fault| self.of(fault))
            .sum()
    }

    pub(crate) fn last_words(&self) -> Vec<String> {
        let all = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}
