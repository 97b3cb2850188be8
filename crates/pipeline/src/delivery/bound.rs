//! What bounds the number of calls per second at one moment, for the metrics.

/// Cause for which calls are not made faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// Nothing: no call waits, or those that wait do so for their own sake, such as a backoff.
    #[default]
    None,
    /// No partition is assigned, or none of those that are is active.
    Partitions,
    /// An operator has paused the calls, or the control topic is not read yet.
    Pause,
    /// The API: all requests that may be in flight are, or the circuit breaker is open.
    Api,
    /// The rate limit.
    RateLimit,
    /// Commits to Kafka: calls wait for their intents, for those of earlier calls, or for the ownership lease.
    Commits,
}

/// What a delivery knows of its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) has_active_partition: bool,
    pub(super) is_paused: bool,
    pub(super) is_breaker_open: bool,
    /// A call may be sent as soon as there is a slot.
    pub(super) has_ready: bool,
    /// A call waits for its intent, for the commits of earlier calls, or for the ownership lease.
    pub(super) awaits_commit: bool,
    /// The API takes one more request: fewer than the limit are in flight, and fewer than after the last outage so far.
    pub(super) has_free_slot: bool,
    pub(super) rate_has_room: bool,
}

impl Bound {
    /// All bounds, so that each has its metric from the start.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Partitions,
        Self::Pause,
        Self::Api,
        Self::RateLimit,
        Self::Commits,
    ];

    /// Name of the bound in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Partitions => "partitions",
            Self::Pause => "pause",
            Self::Api => "api",
            Self::RateLimit => "rate-limit",
            Self::Commits => "commits",
        }
    }

    /// Returns the first thing that has to change before more calls are made.
    pub(super) const fn of(facts: Facts) -> Self {
        match facts {
            Facts {
                has_active_partition: false,
                ..
            } => Self::Partitions,
            Facts { is_paused: true, .. } => Self::Pause,
            Facts {
                is_breaker_open: true,
                ..
            } => Self::Api,
            Facts {
                has_ready: false,
                awaits_commit: false,
                ..
            } => Self::None,
            Facts {
                has_free_slot: false, ..
            } => Self::Api,
            Facts {
                rate_has_room: false, ..
            } => Self::RateLimit,
            Facts {
                awaits_commit: true, ..
            } => Self::Commits,
            // It is sent at the next event.
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_obstacle_is_the_bound() {
        let mut facts = Facts::default();
        let mut bounds = vec![Bound::of(facts)];
        // Each obstacle is removed in turn, and the next one is found.
        for remove in [
            (|facts| {
                facts.has_active_partition = true;
                facts.is_paused = true;
                facts.is_breaker_open = true;
            }) as fn(&mut Facts),
            |facts| facts.is_paused = false,
            |facts| facts.is_breaker_open = false,
            |facts| facts.has_ready = true,
            |facts| facts.has_free_slot = true,
            |facts| {
                facts.rate_has_room = true;
                facts.awaits_commit = true;
            },
            |facts| facts.awaits_commit = false,
        ] {
            remove(&mut facts);
            bounds.push(Bound::of(facts));
        }
        let expected = [
            Bound::Partitions,
            Bound::Pause,
            Bound::Api,
            Bound::None,
            Bound::Api,
            Bound::RateLimit,
            Bound::Commits,
            Bound::None,
        ];
        assert_eq!(bounds, expected);
    }

    #[test]
    fn call_that_awaits_its_intent_is_bound_by_commits() {
        let facts = Facts {
            has_active_partition: true,
            awaits_commit: true,
            has_free_slot: true,
            rate_has_room: true,
            ..Facts::default()
        };
        assert_eq!(Bound::of(facts), Bound::Commits);
    }
}
