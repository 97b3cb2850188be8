//! Results of effects that finish outside the run loop.

use std::time::Duration;

use kafka::ClientError;
use kafka::consumer::CommitResponse;
use pipeline::delivery::{Ambiguity, Assignment, CallId, LoadedNotes, Response};
use records::{Offset, Partition};
use schemas::{Answer, SchemaId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::calls_endpoint::CallView;
use crate::control::Control;
use crate::outbox::deferral_txn::DeferralResult;

/// Sending half of the run loop's channel.
#[derive(Clone)]
pub(crate) struct Completions(pub(crate) UnboundedSender<Completion>);

impl Completions {
    /// Hands a completion to the run loop.
    pub(crate) fn send(&self, completion: Completion) {
        // The channel is closed only when the program exits, and nothing acts on a completion then.
        let _ = self.0.send(completion);
    }

    /// Returns `true` once the run loop has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Result of an effect, or a query, on its way to the run loop.
///
/// The channel is unbounded, but there is at most one completion per request in flight, per record to publish
/// and per partition to load, and each of those is bounded.
pub(crate) enum Completion {
    /// Response to an attempt's request.
    Response {
        call: CallId,
        response: Response,
        /// Ambiguity of an earlier attempt that this one repeated.
        repeats: Option<Ambiguity>,
        took: Duration,
    },
    /// Response to a look-up.
    LookUp {
        call: CallId,
        response: Response,
        took: Duration,
    },
    /// Delivery report of a terminal record, with its offset.
    Published {
        token: usize,
        result: Result<Offset, ClientError>,
    },
    /// Committed offset and call notes of a partition.
    NotesLoaded {
        assignment: Assignment,
        partition: Partition,
        loaded: LoadedNotes,
    },
    /// Partitions that could not be loaded, with their errors.
    NotesNotLoaded {
        assignment: Assignment,
        failed: Vec<(Partition, String)>,
    },
    /// Response to a commit.
    Committed {
        number: u64,
        response: CommitResponse,
        took: Duration,
    },
    /// Result of a deferral transaction.
    Deferred {
        number: u64,
        result: DeferralResult,
        calls: usize,
        took: Duration,
    },
    /// Answer of the schema registry.
    Schema(SchemaId, Answer),
    /// State of the control topic.
    Control(Control),
    /// Vacant instance id, or the error that a live process owns it.
    InstanceIdResolved(anyhow::Result<()>),
    /// Query of `GET /calls`.
    CallsQuery(oneshot::Sender<Vec<CallView>>),
}
