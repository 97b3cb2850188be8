//! Free ports for the processes under test.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Ports to choose from.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Maximum number of ports tried.
const ATTEMPTS_MAX: u32 = 100;

/// Returns a loopback port on which nobody listens, a different one each time.
///
/// # Errors
/// None of 100 random ports is free.
pub fn free_port() -> Result<u16> {
    static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..ATTEMPTS_MAX {
        // Nothing reserves the port until its process listens. So it lies below the system's ephemeral range
        // (from 32768): an outgoing connection could take it meanwhile, or while its process is down.
        let port = rand::random_range(PORTS);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        // A process that does not listen yet, or is down, still owns its port.
        if is_free
            && HANDED_OUT
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(port)
        {
            return Ok(port);
        }
    }
    bail!(
        "no free port among {ATTEMPTS_MAX} between {} and {}",
        PORTS.start,
        PORTS.end
    )
}
