//! What all connections share: the ledger behind its lock, the faults in force, and whether the API is down.

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

/// Follows whether the API is down, and until when.
pub(crate) type Down = watch::Receiver<Option<Instant>>;

/// One running API.
pub(crate) struct Api {
    pub(crate) path: String,
    ledger: Mutex<Ledger>,
    faults: RwLock<Faults>,
    down: watch::Sender<Option<Instant>>,
    told_full: AtomicBool,
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
            told_full: AtomicBool::new(false),
        }
    }

    /// The ledger, for as short as can be: every request needs it.
    ///
    /// A panic under the lock is a broken invariant of the ledger. It has been printed; the rest of the record
    /// is still worth reading.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> Faults {
        *self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Goes down for this long from now, or comes back at once if it is zero. The last call counts.
    pub(crate) fn go_down(&self, duration: Duration) {
        self.down
            .send_replace((!duration.is_zero()).then(|| Instant::now() + duration));
    }

    pub(crate) fn watch_down(&self) -> Down {
        self.down.subscribe()
    }

    /// Waits for the end of the outage, which may be moved meanwhile.
    pub(crate) async fn comes_back(&self) {
        let mut down = self.watch_down();
        loop {
            let Some(until) = *down.borrow_and_update() else {
                return;
            };
            tokio::select! {
                // Another outage may begin in this very moment: only one that is over is taken away.
                () = sleep_until(until) => {
                    self.down.send_if_modified(|until| {
                        until.take_if(|until| *until <= Instant::now()).is_some()
                    });
                }
                _ = down.changed() => {}
            }
        }
    }

    /// Says once on stderr that there is no more room.
    pub(crate) fn tell_full(&self, full: &crate::ledger::Full) {
        if !self.told_full.swap(true, Ordering::Relaxed) {
            eprintln!("legacy-api: {full}");
        }
    }
}

/// Waits for an outage to begin; returns at once in the midst of one.
pub(crate) async fn goes_down(down: &mut Down) {
    // It fails only when the `Api` is gone, and then there is nothing left to wait for either.
    let _ = down.wait_for(Option::is_some).await;
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
