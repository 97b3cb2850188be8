//! CallState two: from the outbox to one outcome per call.
//!
//! The program tells what happened ([`Event`]) and what time it is; [`Delivery`] answers with what is to be
//! done ([`Action`]). It reads no clock, draws no random number and knows neither Kafka nor HTTP.
//!
//! ```text
//! Assigned ─▶ Load ─▶ NotesLoaded ─▶ Start ─▶ Pending ─▶ Send ─▶ Answered ─▶ Publish ─▶ Published
//!                                               ▲ Wait ◀─────────────┘                     │
//!          GiveUp ◀── nothing in flight ◀── Revoked, Stop              Commit ◀── watermark, note
//! ```
//!
//! What always holds:
//! * A call is final only after Kafka has acknowledged its outcome or dead letter, or its copy at the outbox's
//!   tail, which continues it.
//! * One commit is in flight at most. A partition is given up only when none is.
//! * A partition that is lost commits nothing more.
//! * A call is sent only while there is fresh proof that the partition is ours (`partition/ownership_lease.rs`).
//! * Calls of one idempotency key are made one after the other, in the order of the outbox; what `deferring.rs`
//!   says of deferred ones is the exception.
//! * Events of an assignment that is over do nothing.
//! * Under the policies `park` and `verify` ([`Policy`]) a call is sent only once its beginning is committed,
//!   and sent again only if it was surely not processed: its own answer says so, or a look-up at a time when
//!   no earlier request can be at work any more.
//!
//! Under `retry` the beginnings in a note are hints: they go with the commit that comes next, and no call
//! waits for them. They let the next owner say which calls it repeats.
//!
//! Where it stands: `machine/` holds the state and says what follows from what, one file for each step: `assign`,
//! `intake`, `write_ahead`, `dispatch`, `resolve_ambiguous`, `retry_limits` and `defer`, `commit`, `revoke`,
//! `backpressure`. `call/`, `partition/`, `flow/` and `response/` are what it works with.

mod call;
mod event;
mod flow;
mod gauges;
mod limits;
mod machine;
mod partition;
mod response;
mod schedule;

pub use call::{
    Ambiguity, Call, CallState, DeferralContext, Evidence, FinalState, History, LookupResponse, LookupResult,
    Policy, Verify,
};
pub use event::{
    Action, Assignment, CallId, Commit, CommitResult, DeferredCopy, Event, HaltReason, LoadedNotes, Pending,
    Rejoin, WaitReason,
};
pub use flow::{BreakerSettings, BreakerState, FlowControlSettings, Outage, RateSettings};
pub use gauges::Gauges;
pub use limits::{DeferralLimits, Limits};
pub use machine::Delivery;
pub use response::{
    ClassifiedResponse, Field, FieldRule, HttpResponse, InvalidRule, InvalidStatusClasses, Lost, NotSent,
    Otherwise, Response, ResponseClass, ResponseClassifier, ResponseSummary, StatusClass, Statuses,
};
