//! The brokers' mishaps, one broker at a time: two must be there for each record to count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::cluster::three_brokers::ThreeBrokers;
use harness::wait::pause;
use rand_chacha::ChaCha8Rng;

use crate::plan::{self, BrokerHow, BrokerMishap};
use crate::tally::{ClientError, Tally};

/// Lets one mishap follow the other until then; all brokers are there afterwards.
pub(crate) fn suffer_until(
    brokers: &ThreeBrokers,
    mut random: ChaCha8Rng,
    until: Instant,
    over: &AtomicBool,
    tally: &Tally,
) -> Result<()> {
    while Instant::now() < until && !over.load(Ordering::Relaxed) {
        let mishap = plan::broker_mishap(&mut random, ThreeBrokers::COUNT);
        suffer(brokers, mishap, tally).with_context(|| format!("{mishap:?}"))?;
        brokers
            .await_in_sync()
            .with_context(|| format!("after {mishap:?}"))?;
        pause(mishap.peace)?;
    }
    Ok(())
}

fn suffer(brokers: &ThreeBrokers, mishap: BrokerMishap, tally: &Tally) -> Result<()> {
    let broker = brokers.broker(mishap.broker);
    match mishap.how {
        BrokerHow::Killed => {
            broker.kill()?;
            tally.count(ClientError::BrokerKilled);
            pause(mishap.away)?;
            broker.start().map(drop)
        }
        BrokerHow::Bounced => {
            broker.stop()?;
            tally.count(ClientError::BrokerBounced);
            pause(mishap.away)?;
            broker.start().map(drop)
        }
        BrokerHow::Frozen => {
            broker.freeze()?;
            let slept = pause(mishap.away);
            broker.thaw()?;
            tally.count(ClientError::BrokerFrozen);
            slept
        }
    }
}
