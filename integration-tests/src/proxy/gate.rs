//! The state of a rule: a lock, waits for its changes, and the end of all waits when the proxy closes.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// State that all connections of a proxy share.
#[derive(Default)]
pub(super) struct Gate<S> {
    // The closed flag is under the same lock: a wait cannot miss the close.
    shared: Mutex<Shared<S>>,
    changed: Condvar,
}

/// The state under the lock.
#[derive(Default)]
pub(super) struct Shared<S> {
    state: S,
    closed: bool,
}

/// Access to the state while it is locked.
pub(super) type Locked<'a, S> = MutexGuard<'a, Shared<S>>;

impl<S> Gate<S> {
    /// Locks the state, to read it or to take several steps under one lock.
    pub(super) fn lock(&self) -> Locked<'_, S> {
        // A connection that panicked must not end the others: each change of the state is whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes every wait.
    pub(super) fn update(&self, change: impl FnOnce(&mut S)) {
        change(&mut self.lock());
        self.notify();
    }

    /// Wakes every wait, after a change under [`Gate::lock`].
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits while the condition holds and the proxy is open. Returns the state still locked.
    pub(super) fn wait_while<'a>(
        &'a self,
        locked: Locked<'a, S>,
        condition: impl Fn(&S) -> bool,
    ) -> Locked<'a, S> {
        self.changed
            .wait_while(locked, |shared| condition(shared) && !shared.closed)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all waits, now and later.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.notify();
    }
}

impl<S> Shared<S> {
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl<S> Deref for Shared<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for Shared<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}
