//! Shutdown by SIGTERM or SIGINT: the first signal starts the drain, a second one exits immediately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Shutdown request: a flag for a loop that blocks, a future for one that awaits. Clones share the request.
#[derive(Clone, Debug)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    requested: AtomicBool,
    changed: watch::Sender<bool>,
}

impl Shutdown {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// The handlers or their thread cannot be created.
    pub fn on_signals() -> anyhow::Result<Self> {
        let shutdown = Self::new();
        // A thread and a runtime of its own: the program may have no runtime, and a busy run loop would see
        // the signal late.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start the runtime of the signal handlers")?;
        // The handlers exist before this returns, so that a signal from here on drains and does not kill.
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            let listen = |kind| signal(kind).context("cannot install a handler for SIGTERM or SIGINT");
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
        };
        let listener = shutdown.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listener.listen(terminate, interrupt)))
            .context("cannot start the thread of the signal handlers")?;
        tracing::info!(pid = std::process::id(), "signal handlers installed");
        Ok(shutdown)
    }

    fn new() -> Self {
        let (changed, _) = watch::channel(false);
        Self {
            inner: Arc::new(Inner {
                requested: AtomicBool::new(false),
                changed,
            }),
        }
    }

    /// Requests the shutdown, as the first signal does.
    pub fn request(&self) {
        self.inner.requested.store(true, Ordering::Release);
        // Not `send`: it fails without a subscriber, and one that subscribes later would miss the request.
        self.inner.changed.send_replace(true);
    }

    /// Returns `true` once the shutdown is requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Waits until the shutdown is requested.
    pub async fn requested(&self) {
        let mut changed = self.inner.changed.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = changed.wait_for(|requested| *requested).await;
    }

    /// Ends the process with status 1 once `drain_timeout` has passed since the request, drained or not.
    ///
    /// # Errors
    /// The thread that waits cannot be started.
    pub fn limit_drain(&self, drain_timeout: Duration) -> anyhow::Result<()> {
        // A call that hangs in a library would hold up the restart until the supervisor's SIGKILL, which
        // leaves no log line. A thread of its own, since the run loop is the one that may hang.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .context("cannot start the runtime of the drain timeout")?;
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("drain".into())
            .spawn(move || {
                runtime.block_on(shutdown.requested());
                std::thread::sleep(drain_timeout);
                // As safe as a kill -9: the broker aborts the open transaction, and the next owner restores.
                tracing::error!(
                    drain_timeout_s = drain_timeout.as_secs(),
                    "drain timeout expired, exiting without a complete drain; nothing is lost",
                );
                std::process::exit(1);
            })
            .context("cannot start the thread of the drain timeout")?;
        Ok(())
    }

    async fn listen(self, mut terminate: Signal, mut interrupt: Signal) {
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if self.is_requested() {
                tracing::warn!(signal = name, "second signal, exiting without draining");
                // 128 plus the signal's number: the status that shells report for a process ended by a
                // signal.
                std::process::exit(128 + number);
            }
            tracing::info!(
                signal = name,
                "shutdown requested, draining; a second signal exits immediately"
            );
            self.request();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[tokio::test]
    async fn request_sets_the_flag_and_wakes_the_future() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        shutdown.request();
        waiting.await.expect("the future completes");
        assert!(shutdown.is_requested());
        shutdown.requested().await;
    }

    /// A program without a runtime gets SIGTERM and sees the flag. It hangs in its drain, gets a second
    /// signal, and exits. The program is this test, run as a child process.
    #[test]
    fn second_signal_exits_without_draining() {
        const CHILD: &str = "OUTBOX_TEST_SHUTDOWN_CHILD";
        let deadline = Instant::now() + Duration::from_secs(30);
        if std::env::var_os(CHILD).is_some() {
            let shutdown = Shutdown::on_signals().expect("listening");
            let own = Pid::this();
            kill(own, Signal::SIGTERM).expect("sent");
            while !shutdown.is_requested() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            kill(own, Signal::SIGINT).expect("sent");
            while Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            unreachable!("the second signal did not end the process");
        }
        let name = "shutdown::tests::second_signal_exits_without_draining";
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", name])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .status()
            .expect("started");
        assert_eq!(status.code(), Some(130));
    }
}
