//! Ownership lease: the time for which an acknowledged commit proves that the partitions are still ours.
//!
//! A partition may move to another caller once the group has not heard from this one for the session timeout,
//! and a process that was suspended does not notice. The proof is a commit that the group coordinator
//! acknowledged: it is fenced by the generation, and it restarts the session.

use std::time::{Duration, Instant};

/// Lease on all partitions of this member.
#[derive(Clone, Debug)]
pub(crate) struct OwnershipLease {
    length: Duration,
    proved_at: Option<Instant>,
}

impl OwnershipLease {
    /// A lease without proof. Once proved it lasts for `length`, which lies well inside the session timeout.
    pub(crate) const fn new(length: Duration) -> Self {
        Self {
            length,
            proved_at: None,
        }
    }

    /// Extends the lease by a commit that was sent at `sent_at` and is acknowledged.
    pub(crate) fn extend(&mut self, sent_at: Instant) {
        // Counts from the sending: the moment at which the coordinator restarted the session is not known,
        // and cannot be earlier. An older commit never shortens the lease.
        self.proved_at = self.proved_at.max(Some(sent_at));
    }

    /// Ends the lease, because the membership is over.
    pub(crate) fn end(&mut self) {
        self.proved_at = None;
    }

    /// Returns `true` if a request may be sent now.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// End of the lease; `None` without proof.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.proved_at.map(|at| at + self.length)
    }

    /// Time at which a new commit is due if there is anything to send; `None`: at once.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        // Half of the lease is left for the commit, so that a slow one does not hold up the calls.
        self.proved_at.map(|at| at + self.length / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_without_a_lease_or_past_its_end() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut lease = OwnershipLease::new(10 * second);
        assert!(!lease.may_send(start));
        assert_eq!(lease.renew_at(), None);
        lease.extend(start);
        assert!(lease.may_send(start + 9 * second));
        assert!(!lease.may_send(start + 10 * second));
        assert_eq!(lease.renew_at(), Some(start + 5 * second));
        lease.extend(start + 5 * second);
        lease.extend(start);
        assert!(
            lease.may_send(start + 14 * second),
            "an older proof shortened a newer one"
        );
        lease.end();
        assert!(!lease.may_send(start + 6 * second));
    }
}
