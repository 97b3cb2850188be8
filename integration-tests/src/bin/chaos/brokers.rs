//! Injection of broker faults, one broker at a time: `min.insync.replicas` is 2, so two of three must run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::cluster::three_brokers::ThreeBrokers;
use harness::process::Interruption;
use harness::wait::pause;
use rand_chacha::ChaCha8Rng;
use records::Timestamp;

use crate::plan::{self, BrokerFault, BrokerFaultKind};
use crate::tally::{Incident, Tally};

/// Injects one fault after the other until this time; all brokers run afterwards. Returns the time span of
/// each fault.
pub(crate) fn inject_until(
    brokers: &ThreeBrokers,
    alone: &Mutex<()>,
    mut random: ChaCha8Rng,
    until: Instant,
    stop: &AtomicBool,
    tally: &Tally,
) -> Result<Vec<Interruption>> {
    let mut faults = Vec::new();
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let fault = plan::broker_fault(&mut random, ThreeBrokers::COUNT);
        let no_other_fault = alone.lock().unwrap_or_else(PoisonError::into_inner);
        let from = Timestamp::now();
        inject(brokers, fault, tally).with_context(|| format!("{fault:?}"))?;
        // The next fault may strike another broker: before, this one must have caught up, or two would be
        // missing.
        brokers
            .await_in_sync()
            .with_context(|| format!("after {fault:?}"))?;
        drop(no_other_fault);
        faults.push(Interruption {
            from,
            until: Timestamp::now(),
        });
        pause(fault.pause_after)?;
    }
    Ok(faults)
}

fn inject(brokers: &ThreeBrokers, fault: BrokerFault, tally: &Tally) -> Result<()> {
    let broker = brokers.broker(fault.broker);
    match fault.kind {
        BrokerFaultKind::Kill => {
            broker.kill()?;
            tally.count(Incident::BrokerKilled);
            pause(fault.downtime)?;
            broker.start().map(drop)
        }
        BrokerFaultKind::Restart => {
            broker.stop()?;
            tally.count(Incident::BrokerRestarted);
            pause(fault.downtime)?;
            broker.start().map(drop)
        }
        BrokerFaultKind::Freeze => {
            broker.freeze()?;
            let paused = pause(fault.downtime);
            // Also after Ctrl-C: a frozen broker does not react to the SIGTERM that stops it.
            broker.thaw()?;
            tally.count(Incident::BrokerFrozen);
            paused
        }
    }
}
