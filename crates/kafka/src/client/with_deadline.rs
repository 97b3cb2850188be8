//! A deadline for requests of librdkafka that have none of their own, and for the end of clients.
//!
//! The request runs on a thread of its own and is abandoned at its deadline. The thread, and everything it
//! owns, stays until librdkafka returns after all; [`abandoned`] counts such threads, so that their number
//! can be limited.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of abandoned requests in a process.
// Each holds a thread and a client with its connections. A process that has this many is better restarted.
pub(crate) const ABANDONED_MAX: usize = 3;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of abandoned requests that have not returned yet.
pub(crate) fn abandoned() -> usize {
    ABANDONED.load(Ordering::Acquire)
}

/// A request on a thread of its own.
pub(crate) struct Request<T> {
    shared: Arc<(Mutex<State<T>>, Condvar)>,
}

impl<T: Send + 'static> Request<T> {
    /// Starts a request; `None` if no thread could be started. `name` is the thread's name.
    pub(crate) fn start(name: &str, request: impl FnOnce() -> T + Send + 'static) -> Option<Self> {
        let shared = Arc::new((Mutex::new(State::Running), Condvar::new()));
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                let result = request();
                let (state, changed) = &*shared;
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(*state, State::Abandoned) {
                    ABANDONED.fetch_sub(1, Ordering::AcqRel);
                } else {
                    *state = State::Finished(result);
                    changed.notify_one();
                }
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(run).ok()?;
        Some(Self { shared })
    }

    /// Returns the result, or `None` if it is not there by the deadline.
    pub(crate) fn finish(self, deadline: Instant) -> Option<T> {
        let (state, changed) = &*self.shared;
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut state, _) = changed
            .wait_timeout_while(
                state.lock().unwrap_or_else(PoisonError::into_inner),
                left,
                |state| matches!(*state, State::Running),
            )
            .unwrap_or_else(PoisonError::into_inner);
        // Decided under the lock: the thread sees either `Running` and its result is taken here, or `Abandoned`
        // and it counts itself down. So the counter cannot drift.
        match std::mem::replace(&mut *state, State::Abandoned) {
            State::Finished(result) => Some(result),
            State::Running | State::Abandoned => {
                ABANDONED.fetch_add(1, Ordering::AcqRel);
                None
            }
        }
    }
}

enum State<T> {
    Running,
    Finished(T),
    Abandoned,
}

/// A value whose drop may never return, such as a client that closes. It is dropped on a thread of its own, and
/// abandoned after a time limit.
pub(crate) struct DroppedWithin<T: Send + 'static> {
    /// Taken by `drop` alone.
    value: Option<T>,
    limit: Duration,
    /// Message for the log if the time was not enough.
    if_late: &'static str,
}

impl<T: Send + 'static> DroppedWithin<T> {
    pub(crate) fn new(value: T, limit: Duration, if_late: &'static str) -> Self {
        Self {
            value: Some(value),
            limit,
            if_late,
        }
    }
}

impl<T: Send + 'static> Deref for DroppedWithin<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("drop alone takes it")
    }
}

impl<T: Send + 'static> DerefMut for DroppedWithin<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("drop alone takes it")
    }
}

impl<T: Send + 'static> Drop for DroppedWithin<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        // Without a thread it is dropped here, with the closure.
        let Some(request) = Request::start("close", move || drop(value)) else {
            return;
        };
        if request.finish(Instant::now() + self.limit).is_none() {
            tracing::warn!(limit = ?self.limit, "{}", self.if_late);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// One test at a time: they share the number of abandoned requests.
    pub(crate) static COUNTED: Mutex<()> = Mutex::new(());

    #[test]
    fn late_request_counts_as_abandoned_until_it_returns() {
        let _counted = COUNTED.lock();
        let soon = Instant::now() + Duration::from_secs(60);
        let request = Request::start("returns", || 7).expect("a thread");
        assert_eq!(request.finish(soon), Some(7));
        assert_eq!(abandoned(), 0);

        let (response, waiting) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel::<()>();
        let silent = move || {
            let _end = end;
            waiting.recv()
        };
        let request = Request::start("silent", silent).expect("a thread");
        assert_eq!(request.finish(Instant::now()), None);
        assert_eq!(abandoned(), 1);

        response.send(()).expect("the request still waits");
        assert!(ended.recv().is_err(), "the request's closure is gone");
        while abandoned() > 0 {
            std::thread::yield_now();
        }
    }

    /// Waits in its drop.
    struct Slow(mpsc::Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn value_that_does_not_end_is_abandoned() {
        let _counted = COUNTED.lock();
        let (end, waiting) = mpsc::channel::<()>();
        let (dropped, is_dropped) = mpsc::channel();
        std::thread::spawn(move || {
            drop(DroppedWithin::new(
                Slow(waiting),
                Duration::ZERO,
                "not ended in time",
            ));
            dropped.send(abandoned())
        });
        let limit = Duration::from_secs(60);
        assert_eq!(is_dropped.recv_timeout(limit), Ok(1), "the drop has not returned");

        drop(end);
        while abandoned() > 0 {
            std::thread::yield_now();
        }
    }
}
