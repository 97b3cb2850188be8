//! Waiting for something to become true, with a limit and a message that says what was missing.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. It only bounds how late its truth is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks `look` again and again until it breaks with a value.
///
/// `look` continues with a sentence on what it saw, which stands in the error at the limit.
///
/// # Errors
/// The limit passed, or the user pressed Ctrl-C ([`interrupt`]).
pub fn await_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<ControlFlow<T, String>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match look()? {
            ControlFlow::Break(value) => return Ok(value),
            ControlFlow::Continue(seen) if started.elapsed() >= limit => {
                bail!("waited {limit:?} for: {what}; last seen: {seen}")
            }
            ControlFlow::Continue(_) => pause(LOOK_EVERY)?,
        }
    }
}

/// Lets time pass in a story that is told by the clock (an outage of three seconds); no substitute for
/// [`await_until`].
///
/// # Errors
/// The user pressed Ctrl-C.
pub fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while !interrupted() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
    bail!("interrupted")
}

/// Makes every wait of this process end with an error, so that all is cleaned up on the way out.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_awaited_and_what_was_seen() {
        let error = await_until::<()>("ten orders", Duration::from_millis(1), || {
            Ok(ControlFlow::Continue("seven orders".into()))
        })
        .expect_err("it never comes");
        let text = error.to_string();
        assert!(
            text.contains("ten orders") && text.contains("seven orders"),
            "{text}"
        );
        let value = await_until("now", Duration::ZERO, || Ok(ControlFlow::Break(3)));
        assert_eq!(value.expect("it is there"), 3);
    }
}
