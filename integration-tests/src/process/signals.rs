//! Ctrl-C and SIGTERM, for the programs that tell stories.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::wait;

/// From now on Ctrl-C and SIGTERM end every wait, so that the processes are ended on the way out.
///
/// # Errors
/// The operating system does not let this process take signals.
pub fn interrupt_waits() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime for signals")?;
    let (mut terminate, mut interrupt) = {
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
        wait::interrupt();
    });
    Ok(())
}
