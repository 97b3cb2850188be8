//! What comes back to the loop from outside of it.

use std::time::Duration;

use kafka::ClientError;
use pipeline::delivery::{Ambiguity, Assignment, CallId, LoadedNotes, Response};
use records::{Offset, Partition};
use tokio::sync::oneshot;

use crate::calls_endpoint::CallView;
use crate::outbox::deferral_txn::Deferred;

/// What comes back from outside the loop. There are as many as there are requests under way, calls to be
/// published and partitions to be loaded, so what they travel through is bounded by those.
pub(crate) enum Arrived {
    Answered {
        call: CallId,
        report: Response,
        repeats: Option<Ambiguity>,
        took: Duration,
    },
    LookedUp {
        call: CallId,
        report: Response,
        took: Duration,
    },
    Published {
        token: usize,
        result: Result<Offset, ClientError>,
    },
    LoadedNotes {
        assignment: Assignment,
        partition: Partition,
        loaded: LoadedNotes,
    },
    NotLoaded {
        assignment: Assignment,
        partitions: Vec<Partition>,
    },
    Committed {
        number: u64,
        result: Result<(), ClientError>,
        took: Duration,
    },
    Deferred {
        number: u64,
        deferred: Deferred,
        calls: usize,
        took: Duration,
    },
    /// Vacant instance id, or the error that a live process owns it.
    InstanceIdResolved(anyhow::Result<()>),
    Calls(oneshot::Sender<Vec<CallView>>),
}
