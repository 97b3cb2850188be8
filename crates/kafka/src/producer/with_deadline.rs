//! A deadline for requests of librdkafka that have none of their own.
//!
//! The request runs on a thread of its own and is abandoned at its deadline. The thread, and everything it
//! owns, stays until librdkafka returns after all; [`abandoned`] counts such threads, so that their number
//! can be limited.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Maximum number of abandoned requests in a process.
// Each holds a thread and a producer with its connections. A process that has this many is better restarted.
pub(super) const ABANDONED_MAX: usize = 3;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of abandoned requests that have not returned yet.
pub(super) fn abandoned() -> usize {
    ABANDONED.load(Ordering::Acquire)
}

/// A request on a thread of its own.
pub(super) struct Request<T> {
    shared: Arc<(Mutex<State<T>>, Condvar)>,
}

impl<T: Send + 'static> Request<T> {
    /// Starts a request; `None` if no thread could be started. `name` is the thread's name.
    pub(super) fn start(name: &str, request: impl FnOnce() -> T + Send + 'static) -> Option<Self> {
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
    pub(super) fn finish(self, deadline: Instant) -> Option<T> {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn late_request_counts_as_abandoned_until_it_returns() {
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
}
