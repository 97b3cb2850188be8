//! States of a call, its final state, and the evidence that goes with it.

use std::sync::Arc;
use std::time::Instant;

use crate::delivery::response::{HttpResponse, Response};

/// State of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallState {
    /// Waits for an earlier call of the same key.
    BlockedByKey,
    /// May be sent, or may have its intent recorded.
    Ready,
    /// Its intent goes with the commit in flight, or with the next one.
    RecordingIntent,
    /// Its intent is committed, and it waits for a slot.
    IntentCommitted,
    /// Its request is sent, and there is no response yet.
    InFlight,
    /// Waits for its next attempt.
    BackingOff,
    /// Its copy goes with the next deferral transaction.
    AwaitingDeferral,
    /// The transaction with its copy is in flight.
    Deferring,
    /// Waits until this time: before, an earlier request may be sent or processed, or the next look-up is not
    /// due.
    AwaitingQuiescence(Instant),
    /// Its look-up is due or in flight.
    LookingUp,
    /// Its final state could not be written to Kafka, and waits for the next try.
    Unpublished(Arc<FinalState>),
    /// Its final state is being written to Kafka.
    Publishing(Arc<FinalState>),
}

/// Final state of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalState {
    /// The API accepted it: an outcome.
    Accepted(HttpResponse),
    /// A look-up found that the API has processed it: an outcome.
    Found(HttpResponse),
    /// The API rejected it: a dead letter.
    Rejected(HttpResponse),
    /// Retried past the limit, and surely not processed: a dead letter, with the last response if there was
    /// one.
    Abandoned(Option<Response>),
    /// Its outcome is unknown: operator action required.
    Parked(Evidence),
    /// The record is no pending call: a dead letter, and nothing was called.
    NotACall,
}

/// Evidence of a parked call, for the operator who decides on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Reason why its outcome is unknown.
    pub ambiguity: Ambiguity,
    /// Last response that left the outcome unknown, if this process received one.
    pub last: Option<Response>,
    /// Number of inconclusive look-ups.
    pub lookups: u32,
}

/// Attempts made so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Number of requests sent.
    pub attempts: u32,
    /// Number of requests with an ambiguous response.
    pub attempts_ambiguous: u32,
    /// Time of the first request.
    pub first_attempt_at: Option<Instant>,
    /// Time of the last response.
    pub responded_at: Option<Instant>,
}

/// Reason why the outcome of a call is unknown. A request that is sent all the same is a repeated call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ambiguity {
    /// The response to an earlier request was ambiguous.
    AmbiguousResponse,
    /// An earlier owner of the partition recorded the intent to send it, and no final state.
    Redelivered,
}

impl Ambiguity {
    /// All reasons, so that each has its metric from the start.
    pub const ALL: [Self; 2] = [Self::AmbiguousResponse, Self::Redelivered];

    /// Name of the reason in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousResponse => "ambiguous",
            Self::Redelivered => "redelivered",
        }
    }
}

impl CallState {
    /// Name of the state in the list of open calls.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BlockedByKey => "blocked by an earlier call of its key",
            Self::Ready => "ready",
            Self::RecordingIntent => "recording its intent",
            Self::IntentCommitted => "intent committed",
            Self::InFlight => "in flight",
            Self::BackingOff => "backing off",
            Self::AwaitingDeferral => "awaiting deferral",
            Self::Deferring => "being deferred",
            Self::AwaitingQuiescence(_) => "awaiting quiescence",
            Self::LookingUp => "looking up",
            Self::Unpublished(_) => "waiting to publish its final state again",
            Self::Publishing(_) => "publishing its final state",
        }
    }
}
