//! What happens next, drawn from the seed: each validator, and the brokers together, have a row of their own, so
//! that one row does not hang on how long another takes.

use std::time::Duration;

use harness::pipeline::SESSION_TIMEOUT;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The brokers end a transaction of one who fell silent after this; a zombie sleeps for longer.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);
/// Longer than a session and a transaction.
const ZOMBIE_MS: std::ops::Range<u64> = 9_500..12_000;

/// What happens to one validator, which is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessFault {
    /// `kill -9` after this time.
    Killed(Duration),
    /// `kill -9`, and again so long after its next start, ready or not.
    KilledStarting(Duration),
    /// `kill -9`, and it stays away for so long that others take over.
    Gone(Duration),
    /// It stands still past its session and its transaction, and then goes on.
    Zombie(Duration),
    /// It stands still, and goes on before anybody has taken over.
    Hiccup(Duration),
    /// `kill -9`, and its state directory is lost.
    DiskLost,
    /// `kill -9`, and the store of one partition is lost, of those that there are.
    StoreLost(u64),
    /// `kill -9`, and the store of one partition is damaged.
    StoreDamaged(u64, Damage),
    /// SIGTERM, and a start.
    Bounced,
}

/// What a disk leaves of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Half of it.
    Cut,
    /// Its first kilobytes are zeros.
    Zeroed,
    /// Some bytes in its midst are others.
    Garbled,
}

/// What happens to one of the brokers while the others live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerFault {
    /// Which.
    pub(crate) broker: usize,
    /// In which way.
    pub(crate) how: BrokerHow,
    /// How long it is away.
    pub(crate) away: Duration,
    /// How long all are left alone afterwards.
    pub(crate) peace: Duration,
}

/// How a broker goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerHow {
    /// `kill -9`.
    Killed,
    /// SIGTERM: it hands its partitions over.
    Bounced,
    /// It stands still, with its connections open.
    Frozen,
}

/// The row of a validator (from 1 on) or, as number 0, of the brokers.
pub(crate) fn row(seed: u64, number: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::from(number) + 1);
    random
}

/// The next fault of a validator.
pub(crate) fn fault(random: &mut ChaCha8Rng) -> ProcessFault {
    let longer_than_session = SESSION_TIMEOUT + Duration::from_secs(1);
    let drawn = random.random_range(0..100);
    let mut ms = |range| Duration::from_millis(random.random_range::<u64, _>(range));
    match drawn {
        0..46 => ProcessFault::Killed(ms(0..1_200)),
        46..64 => ProcessFault::KilledStarting(ms(0..1_000)),
        64..67 => ProcessFault::Gone(longer_than_session + ms(0..2_000)),
        67..77 => ProcessFault::Zombie(ms(ZOMBIE_MS)),
        77..81 => ProcessFault::Hiccup(ms(100..4_000)),
        81..85 => ProcessFault::DiskLost,
        85..89 => ProcessFault::StoreLost(random.random()),
        89..95 => {
            let damage = match random.random_range(0..3) {
                0 => Damage::Cut,
                1 => Damage::Zeroed,
                _ => Damage::Garbled,
            };
            ProcessFault::StoreDamaged(random.random(), damage)
        }
        _ => ProcessFault::Bounced,
    }
}

/// The next fault of the brokers.
pub(crate) fn broker_fault(random: &mut ChaCha8Rng, brokers: usize) -> BrokerFault {
    let how = match random.random_range(0..10) {
        0..5 => BrokerHow::Killed,
        5..9 => BrokerHow::Bounced,
        _ => BrokerHow::Frozen,
    };
    let away_ms = match how {
        BrokerHow::Killed | BrokerHow::Bounced => random.random_range(0..4_000),
        BrokerHow::Frozen => random.random_range(1_000..10_000),
    };
    BrokerFault {
        broker: random.random_range(0..brokers),
        how,
        away: Duration::from_millis(away_ms),
        peace: Duration::from_millis(random.random_range(0..3_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_one_row_and_another_number_another() {
        let rows = |seed, number| {
            let mut random = row(seed, number);
            (0..50).map(|_| fault(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(rows(7, 1), rows(7, 1));
        assert_ne!(rows(7, 1), rows(7, 2));
        assert_ne!(rows(7, 1), rows(8, 1));
    }

    #[test]
    fn every_mishap_is_drawn() {
        let mut random = row(1, 1);
        let drawn: std::collections::HashSet<_> = (0..500)
            .map(|_| std::mem::discriminant(&fault(&mut random)))
            .collect();
        assert_eq!(drawn.len(), 9);
        let hows: std::collections::HashSet<_> = (0..100)
            .map(|_| std::mem::discriminant(&broker_fault(&mut random, 3).how))
            .collect();
        assert_eq!(hows.len(), 3);
    }
}
