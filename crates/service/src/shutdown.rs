//! SIGTERM and SIGINT ask the program to drain and leave; the second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The request to leave, as a flag for a loop that blocks and as a future for one that waits. Clones share
/// the request.
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
    /// Begins to listen for the signals, in a thread of its own, so that neither a busy run loop nor one
    /// without a runtime misses them.
    ///
    /// # Errors
    /// The process cannot listen for signals, or has no thread left.
    pub fn on_signals() -> anyhow::Result<Self> {
        let shutdown = Self::by_hand();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("the signals cannot be listened for")?;
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            let listen = |kind| signal(kind).context("the signals cannot be listened for");
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
        };
        let listener = shutdown.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(listener.listen(terminate, interrupt)))
            .context("the thread that listens for signals cannot be started")?;
        tracing::info!(pid = std::process::id(), "signals are taken");
        Ok(shutdown)
    }

    /// A request that comes by [`Self::request`] alone.
    #[must_use]
    pub fn by_hand() -> Self {
        let (changed, _) = watch::channel(false);
        Self {
            inner: Arc::new(Inner {
                requested: AtomicBool::new(false),
                changed,
            }),
        }
    }

    /// Asks for the shutdown.
    pub fn request(&self) {
        self.inner.requested.store(true, Ordering::Release);
        self.inner.changed.send_replace(true);
    }

    /// Whether the shutdown was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Waits until the shutdown is asked for.
    pub async fn requested(&self) {
        let mut changed = self.inner.changed.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = changed.wait_for(|requested| *requested).await;
    }

    /// Ends the process so long after the request, drained or not: what hangs in a library would otherwise hold up
    /// the restart, and a supervisor's SIGKILL says nothing.
    ///
    /// # Errors
    /// There is no thread left.
    pub fn limit_drain(&self, drain_max: Duration) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .context("the drain cannot be limited")?;
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("drain".into())
            .spawn(move || {
                runtime.block_on(shutdown.requested());
                std::thread::sleep(drain_max);
                tracing::error!(
                    drain_max_s = drain_max.as_secs(),
                    "not drained in time: ends as if it were killed, which loses nothing",
                );
                std::process::exit(1);
            })
            .context("the thread that limits the drain cannot be started")?;
        Ok(())
    }

    async fn listen(self, mut terminate: Signal, mut interrupt: Signal) {
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if self.is_requested() {
                tracing::warn!(
                    signal = name,
                    "second request to leave: ends at once, without draining"
                );
                // The status that a shell reports for a process ended by this signal.
                std::process::exit(128 + number);
            }
            tracing::info!(signal = name, "asked to leave: draining; once more ends at once");
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
    async fn a_request_is_a_flag_and_a_future() {
        let shutdown = Shutdown::by_hand();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        shutdown.request();
        waiting.await.expect("the future ends");
        assert!(shutdown.is_requested());
        shutdown.requested().await;
    }

    /// Story: a program without a runtime gets SIGTERM and sees the flag; it hangs while it drains, gets a
    /// second one, and is gone. The program is this test, started once more.
    #[test]
    fn the_first_signal_sets_the_flag_and_the_second_ends_the_process() {
        const CHILD: &str = "OUTBOX_TEST_SHUTDOWN_CHILD";
        let deadline = Instant::now() + Duration::from_secs(30);
        if std::env::var_os(CHILD).is_some() {
            let shutdown = Shutdown::on_signals().expect("listening");
            let me = Pid::this();
            kill(me, Signal::SIGTERM).expect("sent");
            while !shutdown.is_requested() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            kill(me, Signal::SIGINT).expect("sent");
            while Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            unreachable!("the second signal did not end the process");
        }
        let name = "shutdown::tests::the_first_signal_sets_the_flag_and_the_second_ends_the_process";
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", name])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .status()
            .expect("started");
        assert_eq!(status.code(), Some(130));
    }
}
