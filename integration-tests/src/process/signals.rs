//! Ctrl-C and SIGTERM for the demo, the measurements and the chaos run.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::wait;

/// Makes Ctrl-C and SIGTERM end every wait ([`wait::interrupt`]).
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn interrupt_waits() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime for signals")?;
    let (mut terminate, mut interrupt) = {
        // Installed here and not in the thread: a signal before the thread runs must not kill the process.
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // Not exit(): the destructors kill the child processes on the way out.
        wait::interrupt();
    });
    Ok(())
}
