//! Waits for a condition, with a timeout and an error that says what was missing.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition. Short, because it is added to every wait.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Calls `check` repeatedly until it breaks with a value.
///
/// `check` continues with a description of what it saw, which becomes part of the timeout's error.
///
/// # Errors
/// `check` failed, the timeout passed, or the user pressed Ctrl-C ([`interrupt`]).
pub fn await_until<T>(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> Result<ControlFlow<T, String>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match check()? {
            ControlFlow::Break(value) => return Ok(value),
            // After a check and not before: a condition that became true during a long check still counts.
            ControlFlow::Continue(seen) if started.elapsed() >= timeout => {
                bail!("timed out after {timeout:?}, waiting for: {what}; last seen: {seen}")
            }
            ControlFlow::Continue(_) => pause(POLL_INTERVAL)?,
        }
    }
}

/// Sleeps for a duration that is part of the scenario, such as an outage of three seconds. No substitute
/// for [`await_until`].
///
/// # Errors
/// The user pressed Ctrl-C.
pub fn pause(time: Duration) -> Result<()> {
    // In short steps, so that Ctrl-C ends it at once.
    let until = Instant::now() + time;
    while !interrupted() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
    bail!("interrupted")
}

/// Ends every wait of this process with an error, so that destructors stop the child processes.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Returns true once [`interrupt`] was called.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_error_says_what_was_seen_last() {
        let error = await_until::<()>("ten orders", Duration::from_millis(1), || {
            Ok(ControlFlow::Continue("seven orders".into()))
        })
        .expect_err("the condition never holds");
        let text = error.to_string();
        assert!(
            text.contains("ten orders") && text.contains("seven orders"),
            "{text}"
        );
        let value = await_until("now", Duration::ZERO, || Ok(ControlFlow::Break(3)));
        assert_eq!(value.expect("it is there"), 3);
    }
}
