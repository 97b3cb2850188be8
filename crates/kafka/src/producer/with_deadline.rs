//! A time limit for a request of librdkafka that keeps none of its own.
//!
//! The request runs on a thread of its own, and is given up at its deadline; the thread, and whatever it holds, stays
//! until librdkafka answers after all. How many there are is limited: see [`given_up`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// So many requests may be without an answer after their deadline, each with a thread and a producer. A process that
/// has come so far is better started anew.
pub(crate) const GIVEN_UP_MAX: usize = 3;

static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

/// How many requests of this process were given up, and still have no answer.
pub(crate) fn given_up() -> usize {
    GIVEN_UP.load(Ordering::Acquire)
}

/// What `request` answers, or `None` if it has not done so by the deadline, or there is no thread for it. `name` is
/// the thread's.
pub(crate) fn with_deadline<T: Send + 'static>(
    deadline: Instant,
    name: &str,
    request: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let asked = Arc::new((Mutex::new(State::Asked), Condvar::new()));
    let asking = {
        let asked = Arc::clone(&asked);
        move || {
            let answer = request();
            let (state, changed) = &*asked;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*state, State::GivenUp) {
                GIVEN_UP.fetch_sub(1, Ordering::AcqRel);
            } else {
                *state = State::Answered(answer);
                changed.notify_one();
            }
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(asking).ok()?;
    let (state, changed) = &*asked;
    let left = deadline.saturating_duration_since(Instant::now());
    let (mut state, _) = changed
        .wait_timeout_while(
            state.lock().unwrap_or_else(PoisonError::into_inner),
            left,
            |state| matches!(*state, State::Asked),
        )
        .unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *state, State::GivenUp) {
        State::Answered(answer) => Some(answer),
        State::Asked | State::GivenUp => {
            GIVEN_UP.fetch_add(1, Ordering::AcqRel);
            None
        }
    }
}

enum State<T> {
    Asked,
    Answered(T),
    GivenUp,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_comes_back_and_a_missing_one_is_counted_until_it_comes() {
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!(with_deadline(soon, "answers", || 7), Some(7));
        assert_eq!(given_up(), 0);

        let (answer, waiting) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel::<()>();
        let silent = move || {
            let _end = end;
            waiting.recv()
        };
        assert_eq!(with_deadline(Instant::now(), "silent", silent), None);
        assert_eq!(given_up(), 1);

        answer.send(()).expect("the request still waits");
        assert!(ended.recv().is_err(), "the request's closure is gone");
        while given_up() > 0 {
            std::thread::yield_now();
        }
    }
}
