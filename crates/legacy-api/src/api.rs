//! State shared by all connections: the ledger behind its lock, the faults in force, and the outage.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{Faults, Settings, ledger::Ledger};

/// Receiver of the outage: its end, or `None` while the API is up.
pub(crate) type Outage = watch::Receiver<Option<Instant>>;

/// State of one running API.
pub(crate) struct Api {
    pub(crate) path: String,
    ledger: Mutex<Ledger>,
    faults: RwLock<Faults>,
    down: watch::Sender<Option<Instant>>,
    full_logged: AtomicBool,
}

impl Api {
    pub(crate) fn new(settings: &Settings) -> Self {
        Api {
            path: settings.path.clone(),
            ledger: Mutex::new(Ledger::new(
                settings.requests_max,
                settings.honour_idempotency_key,
            )),
            faults: RwLock::new(settings.faults),
            down: watch::Sender::new(None),
            full_logged: AtomicBool::new(false),
        }
    }

    /// Locks the ledger. Every request needs it, so callers hold it briefly.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic under the lock is a broken invariant and was printed. The rest of the record stays
        // readable.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> Faults {
        *self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Takes the API down for this time from now; zero ends an outage. The latest call replaces earlier ones.
    pub(crate) fn go_down(&self, duration: Duration) {
        self.down
            .send_replace((!duration.is_zero()).then(|| Instant::now() + duration));
    }

    pub(crate) fn watch_outage(&self) -> Outage {
        self.down.subscribe()
    }

    /// Waits for the end of the outage, which may be moved in the meantime.
    pub(crate) async fn outage_over(&self) {
        let mut outage = self.watch_outage();
        loop {
            let Some(until) = *outage.borrow_and_update() else {
                return;
            };
            tokio::select! {
                // Another outage may start at this moment, so only one that is over is cleared.
                () = sleep_until(until) => {
                    self.down.send_if_modified(|until| {
                        until.take_if(|until| *until <= Instant::now()).is_some()
                    });
                }
                _ = outage.changed() => {}
            }
        }
    }

    /// Logs once that the ledger is full.
    pub(crate) fn log_full(&self, full: &crate::ledger::Full) {
        // Each further payment fails the same way, thousands of times a second.
        if !self.full_logged.swap(true, Ordering::Relaxed) {
            eprintln!("legacy-api: {full}");
        }
    }
}

/// Waits for an outage to start; returns at once during one.
pub(crate) async fn outage_started(outage: &mut Outage) {
    // Fails only if the `Api` is dropped, which means that the server is stopping.
    let _ = outage.wait_for(Option::is_some).await;
}

/// Returns the current time in milliseconds since 1970-01-01 UTC.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
