//! How much the delivery may hold and do at once.

use std::time::Duration;

/// How much the delivery may hold and do at once, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests under way at once. A call that waits for its next attempt does not count.
    pub calls_in_flight_max: usize,
    /// Calls whose beginning is noted although there is no place in flight for them yet.
    pub intents_ahead_max: usize,
    /// Calls of one partition that are not final; at most [`Limits::CALLS_OPEN_MAX`].
    pub calls_open_max: usize,
    /// Bytes of all calls that are not final. One call is taken however long it is.
    pub bytes_open_max: usize,
    /// How long an acknowledged commit proves that the partitions are ours.
    pub ownership_lease: Duration,
    /// The shortest time from one commit to the next.
    pub commit_interval: Duration,
    /// How long a commit may take until nobody can know its result.
    pub commit_max: Duration,
    /// How long calls in flight may take to finish when their partition goes.
    pub drain_timeout: Duration,
    /// How long a call that is tried in vain may hold up its partition, or be tried at all.
    pub deferral: DeferralLimits,
}

impl Limits {
    /// With this many calls of a partition open, the note fits however they end, and however many finished
    /// calls lie between them: see [`records::call_note::fits_always`].
    pub const CALLS_OPEN_MAX: usize = 600;
}

/// How long a call that is tried in vain may hold up its partition, or be tried at all.
#[derive(Clone, Copy, Debug)]
pub struct DeferralLimits {
    /// So many offsets a partition may be read ahead of its watermark. It bounds what is read again, and
    /// skipped, after a restart.
    pub window_max: u64,
    /// A call that was tried in vain for so long is deferred; `None`: none ever is.
    pub defer_after: Option<Duration>,
    /// A call that fails so long after it was first seen is given up: a dead letter if it was surely not
    /// processed, parked otherwise; under `verify` what nobody can know is looked up within the limits of look-ups.
    /// `None`: none ever is.
    pub abandon_after: Option<Duration>,
}
