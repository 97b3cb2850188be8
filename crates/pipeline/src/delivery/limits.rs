//! Limits of the delivery: memory, concurrency and time.

use std::num::NonZeroU32;
use std::time::Duration;

/// Limits on what the delivery holds open, does at once, and waits for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of requests in flight. A call that waits for its next attempt does not count.
    pub calls_in_flight_max: usize,
    /// Maximum number of intents that are recorded ahead of free slots.
    pub intents_ahead_max: usize,
    /// Maximum number of open calls per partition, up to [`Limits::CALLS_OPEN_MAX`].
    pub calls_open_max: usize,
    /// Maximum size of all open calls, in bytes.
    // Intake stops only once the limit is reached, so a call that is larger than the limit does not block its
    // partition.
    pub bytes_open_max: usize,
    /// Time for which an acknowledged commit proves that the partitions are ours.
    // Well inside the session timeout, or a partition could move to another caller while the lease lasts.
    pub ownership_lease: Duration,
    /// Minimum interval between two commits that nothing waits for.
    pub commit_interval: Duration,
    /// Time after which the result of a commit counts as unknown.
    pub commit_max: Duration,
    /// Time that calls in flight have to finish when their partition leaves.
    pub drain_timeout: Duration,
    /// Number of ambiguous responses to one call under `retry` after which it is parked; `None`: no limit.
    pub ambiguous_attempts_max: Option<NonZeroU32>,
    /// Limits on calls that keep failing.
    pub deferral: DeferralLimits,
}

impl Limits {
    /// Largest number of open calls per partition for which the note always fits, however the calls end and
    /// however many final calls lie between them: see [`records::call_note::fits_always`].
    // Brokers refuse metadata over 4096 bytes by default (`offset.metadata.max.bytes`).
    pub const CALLS_OPEN_MAX: usize = 600;
}

/// Limits on calls that keep failing.
#[derive(Clone, Copy, Debug)]
pub struct DeferralLimits {
    /// Maximum number of offsets that a partition is read ahead of its commit position. They are read again,
    /// and skipped, after a restart.
    pub window_max: u64,
    /// Time after which a call that keeps failing is deferred; `None`: never.
    pub defer_after: Option<Duration>,
    /// Age at which a call that still fails is abandoned; `None`: never. It becomes a dead letter if it was
    /// surely not processed, and is parked otherwise. Under `verify` an ambiguous call has the limits of
    /// look-ups instead.
    pub abandon_after: Option<Duration>,
}
