//! Until when calls may be sent: proof of ownership, and its deadline.
//!
//! A partition may go to another caller once the group has not heard of this one for the session time-out,
//! and a process that was paused does not know that it was. The proof is a commit that the group's
//! coordinator acknowledged: it is fenced by the generation, and it restarts the session. As nobody knows
//! when it arrived there, it counts from the moment it was sent.

use std::time::{Duration, Instant};

/// What this process knows of its own membership.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    max: Duration,
    proved_at: Option<Instant>,
}

impl Ownership {
    /// Without proof. A proof lasts `max`, which lies well inside the session time-out.
    #[must_use]
    pub(crate) const fn new(max: Duration) -> Self {
        Self { max, proved_at: None }
    }

    /// A commit that was sent at `sent_at` was acknowledged.
    pub(crate) fn prove(&mut self, sent_at: Instant) {
        self.proved_at = self.proved_at.max(Some(sent_at));
    }

    /// The membership is over.
    pub(crate) fn forget(&mut self) {
        self.proved_at = None;
    }

    /// Whether a call may be sent now.
    #[must_use]
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// When calls may no longer be sent; `None` without proof.
    #[must_use]
    pub(crate) fn until(&self) -> Option<Instant> {
        self.proved_at.map(|at| at + self.max)
    }

    /// When a new proof is wanted, if there is anything to send: at half of the old one's time, so that a
    /// commit that takes long does not hold up the calls. `None`: at once.
    #[must_use]
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.proved_at.map(|at| at + self.max / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_without_proof_or_past_its_deadline() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut ownership = Ownership::new(10 * second);
        assert!(!ownership.may_send(start));
        assert_eq!(ownership.renew_at(), None);
        ownership.prove(start);
        assert!(ownership.may_send(start + 9 * second));
        assert!(!ownership.may_send(start + 10 * second));
        assert_eq!(ownership.renew_at(), Some(start + 5 * second));
        ownership.prove(start + 5 * second);
        ownership.prove(start);
        assert!(
            ownership.may_send(start + 14 * second),
            "an older proof shortened a newer one"
        );
        ownership.forget();
        assert!(!ownership.may_send(start + 6 * second));
    }
}
