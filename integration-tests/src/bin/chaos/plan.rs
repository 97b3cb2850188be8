//! Faults, drawn from the seed. Each validator, each caller, the brokers together, and the mishaps of all
//! validators have a random stream of their own, so that the faults of one do not depend on how long those of
//! another take.

use std::time::Duration;

use harness::pipeline::SESSION_TIMEOUT;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Transaction timeout of the validators: the brokers abort the transaction of a frozen one after this time.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);
/// Time that a zombie is frozen, in ms: longer than the session and the transaction timeout.
const ZOMBIE_MS: std::ops::Range<u64> = 9_500..12_000;

/// Fault of one validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValidatorFault {
    /// `kill -9` after this time.
    Kill(Duration),
    /// `kill -9`, and another one this long after the restart, ready or not.
    KillWhileStarting(Duration),
    /// `kill -9`, and no restart for this time, so that others take over.
    KillAndStayDown(Duration),
    /// SIGSTOP past its session and its transaction, then SIGCONT: a zombie.
    FreezePastSession(Duration),
    /// SIGSTOP and SIGCONT before others take over.
    FreezeBriefly(Duration),
    /// `kill -9`, and its state directory is deleted.
    LoseDisk,
    /// `kill -9`, and the store of one partition is deleted; the number picks one of those that exist.
    LoseStore(u64),
    /// `kill -9`, and the store of one partition is damaged.
    DamageStore(u64, Damage),
    /// `kill -9`, and a restart on a full disk, which has space again later.
    FillDisk,
    /// SIGTERM and a restart.
    Restart,
}

/// Fault of one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerFault {
    /// `kill -9` after this time.
    Kill(Duration),
    /// `kill -9`, and another one this long after the restart, ready or not.
    KillWhileStarting(Duration),
    /// `kill -9`, and no restart for this time, so that others take over.
    KillAndStayDown(Duration),
    /// SIGSTOP past its session, with requests in flight, then SIGCONT: a zombie.
    FreezePastSession(Duration),
    /// SIGTERM and a restart.
    Restart,
}

/// Mishap of all validators together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mishap {
    /// `kill -9` of all, and all state directories are deleted.
    AllStateLost,
    /// `kill -9` of all, and their consumer group is deleted.
    GroupDeleted,
    /// Down to one with SIGTERM, back to all, and a restart of each.
    RollingRestart,
    /// All brokers are killed, and each replica of the changelog loses its last transactions.
    ChangelogTailLost,
}

/// Damage to the file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The second half is missing.
    Truncated,
    /// The first 8 KiB are zeros.
    Zeroed,
    /// Some bytes in the middle are overwritten.
    Garbled,
}

/// Fault of one broker while the others run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerFault {
    /// Index of the broker.
    pub(crate) broker: usize,
    pub(crate) kind: BrokerFaultKind,
    /// Time until it runs again.
    pub(crate) downtime: Duration,
    /// Time until the next fault of a broker.
    pub(crate) pause_after: Duration,
}

/// Kind of a broker's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerFaultKind {
    /// `kill -9`: the others elect new leaders.
    Kill,
    /// SIGTERM: the broker hands its partitions over.
    Restart,
    /// SIGSTOP and SIGCONT: its connections stay open.
    Freeze,
}

/// Number of the random stream of the brokers.
pub(crate) const BROKERS: u32 = 0;
/// Number of the random stream of the mishaps of all validators.
const MISHAPS: u32 = 1_000;
/// Number of the random stream of the first caller.
pub(crate) const CALLERS: u32 = 2_000;

/// Returns the random stream with this number: that of a validator is its own number, from 1 on.
pub(crate) fn random_stream(seed: u64, number: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::from(number) + 1);
    random
}

/// Draws the next fault of a validator.
pub(crate) fn validator_fault(random: &mut ChaCha8Rng) -> ValidatorFault {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(1);
    let drawn = random.random_range(0..100);
    let mut ms = |range| Duration::from_millis(random.random_range::<u64, _>(range));
    // Faults that take seconds are rare, so that a run has many kills.
    match drawn {
        0..46 => ValidatorFault::Kill(ms(0..1_200)),
        46..64 => ValidatorFault::KillWhileStarting(ms(0..1_000)),
        64..67 => ValidatorFault::KillAndStayDown(longer_than_session + ms(0..2_000)),
        67..77 => ValidatorFault::FreezePastSession(ms(ZOMBIE_MS)),
        77..81 => ValidatorFault::FreezeBriefly(ms(100..4_000)),
        81..85 => ValidatorFault::LoseDisk,
        85..88 => ValidatorFault::LoseStore(random.random()),
        88..93 => {
            let damage = match random.random_range(0..3) {
                0 => Damage::Truncated,
                1 => Damage::Zeroed,
                _ => Damage::Garbled,
            };
            ValidatorFault::DamageStore(random.random(), damage)
        }
        93..97 => ValidatorFault::FillDisk,
        _ => ValidatorFault::Restart,
    }
}

/// Draws the next fault of a caller.
pub(crate) fn caller_fault(random: &mut ChaCha8Rng) -> CallerFault {
    let drawn = random.random_range(0..100);
    let mut ms = |range| Duration::from_millis(random.random_range::<u64, _>(range));
    match drawn {
        // Long enough that calls are made and not only resolved: each fault of one makes all wait for a
        // rebalance, and the unknown outcomes wait for the API's longest processing time.
        0..55 => CallerFault::Kill(ms(2_000..10_000)),
        55..70 => CallerFault::KillWhileStarting(ms(0..1_500)),
        70..78 => CallerFault::KillAndStayDown(SESSION_TIMEOUT + ms(1_000..3_000)),
        78..88 => CallerFault::FreezePastSession(SESSION_TIMEOUT + ms(1_000..5_000)),
        _ => CallerFault::Restart,
    }
}

/// Mishaps that take seconds: each run has them, however short it is.
pub(crate) const CHEAP_MISHAPS: [Mishap; 3] =
    [Mishap::GroupDeleted, Mishap::RollingRestart, Mishap::AllStateLost];

/// Draws the mishaps of all validators, without end: first the cheap ones, then all of them again and again.
pub(crate) fn mishaps(seed: u64) -> impl Iterator<Item = Mishap> {
    let mut random = random_stream(seed, MISHAPS);
    let later = std::iter::repeat_with(move || {
        let mut all = [
            Mishap::ChangelogTailLost,
            Mishap::AllStateLost,
            Mishap::GroupDeleted,
            Mishap::RollingRestart,
        ];
        all.shuffle(&mut random);
        all
    });
    CHEAP_MISHAPS.into_iter().chain(later.flatten())
}

/// Draws the next fault of a broker.
pub(crate) fn broker_fault(random: &mut ChaCha8Rng, brokers: usize) -> BrokerFault {
    let kind = match random.random_range(0..10) {
        0..5 => BrokerFaultKind::Kill,
        5..9 => BrokerFaultKind::Restart,
        _ => BrokerFaultKind::Freeze,
    };
    let downtime_ms = match kind {
        BrokerFaultKind::Kill | BrokerFaultKind::Restart => random.random_range(0..4_000),
        BrokerFaultKind::Freeze => random.random_range(1_000..10_000),
    };
    BrokerFault {
        broker: random.random_range(0..brokers),
        kind,
        downtime: Duration::from_millis(downtime_ms),
        pause_after: Duration::from_millis(random.random_range(0..3_000)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn faults_depend_only_on_seed_and_number() {
        let faults = |seed, number| {
            let mut random = random_stream(seed, number);
            (0..50).map(|_| validator_fault(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(faults(7, 1), faults(7, 1));
        assert_ne!(faults(7, 1), faults(7, 2));
        assert_ne!(faults(7, 1), faults(8, 1));
    }

    #[test]
    fn every_fault_is_drawn() {
        let mut random = random_stream(1, 1);
        let drawn: HashSet<_> = (0..500)
            .map(|_| std::mem::discriminant(&validator_fault(&mut random)))
            .collect();
        assert_eq!(drawn.len(), 10);
        let drawn: HashSet<_> = (0..500)
            .map(|_| std::mem::discriminant(&caller_fault(&mut random)))
            .collect();
        assert_eq!(drawn.len(), 5);
        let kinds: HashSet<_> = (0..100)
            .map(|_| std::mem::discriminant(&broker_fault(&mut random, 3).kind))
            .collect();
        assert_eq!(kinds.len(), 3);
    }

    #[test]
    fn every_mishap_is_among_the_first_seven() {
        for seed in 0..50 {
            let drawn: Vec<_> = mishaps(seed).take(7).collect();
            assert_eq!(drawn[..3], CHEAP_MISHAPS);
            assert_eq!(drawn.into_iter().collect::<HashSet<_>>().len(), 4);
        }
    }
}
