//! What comes back to the loop from outside of it.

use std::time::Duration;

use kafka::Fault;
use kafka::namesake::Standing;
use pipeline::delivery::{Assignment, CallId, Doubt, Loaded, Report};
use records::{Offset, Partition};
use tokio::sync::oneshot;

use crate::calls::CallView;
use crate::deferrals::Deferred;

/// What comes back from outside the loop. There are as many as there are requests under way, calls to be
/// published and partitions to be loaded, so what they travel through is bounded by those.
pub(crate) enum Arrived {
    Answered {
        call: CallId,
        report: Report,
        repeats: Option<Doubt>,
        took: Duration,
    },
    LookedUp {
        call: CallId,
        report: Report,
        took: Duration,
    },
    Published {
        token: usize,
        result: Result<Offset, Fault>,
    },
    Loaded {
        assignment: Assignment,
        partition: Partition,
        loaded: Loaded,
    },
    NotLoaded {
        assignment: Assignment,
        partitions: Vec<Partition>,
    },
    Committed {
        number: u64,
        result: Result<(), Fault>,
        took: Duration,
    },
    Deferred {
        number: u64,
        deferred: Deferred,
        calls: usize,
        took: Duration,
    },
    /// Whose the instance id is that another member had taken.
    Settled(Standing),
    Calls(oneshot::Sender<Vec<CallView>>),
}
