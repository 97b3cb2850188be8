//! The brokers' faults, one broker at a time: two must be there for each record to count.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::cluster::three_brokers::ThreeBrokers;
use harness::wait::pause;
use rand_chacha::ChaCha8Rng;

use crate::plan::{self, BrokerFault, BrokerHow};
use crate::tally::{ClientError, Tally};

/// Lets one fault follow the other until then; all brokers are there afterwards.
pub(crate) fn suffer_until(
    brokers: &ThreeBrokers,
    mut random: ChaCha8Rng,
    until: Instant,
    over: &AtomicBool,
    tally: &Tally,
) -> Result<()> {
    while Instant::now() < until && !over.load(Ordering::Relaxed) {
        let fault = plan::broker_fault(&mut random, ThreeBrokers::COUNT);
        suffer(brokers, fault, tally).with_context(|| format!("{fault:?}"))?;
        brokers
            .await_in_sync()
            .with_context(|| format!("after {fault:?}"))?;
        pause(fault.peace)?;
    }
    Ok(())
}

fn suffer(brokers: &ThreeBrokers, fault: BrokerFault, tally: &Tally) -> Result<()> {
    let broker = brokers.broker(fault.broker);
    match fault.how {
        BrokerHow::Killed => {
            broker.kill()?;
            tally.count(ClientError::BrokerKilled);
            pause(fault.away)?;
            broker.start().map(drop)
        }
        BrokerHow::Bounced => {
            broker.stop()?;
            tally.count(ClientError::BrokerBounced);
            pause(fault.away)?;
            broker.start().map(drop)
        }
        BrokerHow::Frozen => {
            broker.freeze()?;
            let slept = pause(fault.away);
            broker.thaw()?;
            tally.count(ClientError::BrokerFrozen);
            slept
        }
    }
}
