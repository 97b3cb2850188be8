//! What a partition has forgotten: the keys of orders that are older than the retention window.

use crate::{Offset, Timestamp};

/// Keys that a partition has forgotten, and that its changelog may have lost with them. Both values only rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Changelog offset below which each record is of a forgotten key.
    pub below: Offset,
    /// Recorded time before which keys are forgotten: an order that is older may have been admitted already.
    pub before: Timestamp,
}
