//! Stage two: each pending call goes from the outbox to exactly one final state.
//!
//! The program reports what happened ([`Event`]) and the time; [`Delivery`] returns what to do ([`Action`]).
//! It reads no clock, draws no random number, and knows neither Kafka nor HTTP.
//!
//! ```text
//! Assigned ─▶ Load ─▶ NotesLoaded ─▶ Start ─▶ Pending ─▶ Send ─▶ ResponseReceived ─▶ Publish ─▶ Published
//!                                                ▲ Wait ◀───────────┘                              │
//!          Release ◀── nothing in flight ◀── Revoked, Stop           Commit ◀── commit position, call note
//! ```
//!
//! The memory of stage two is the group's committed offset and its metadata, the *call note*. The committed
//! offset is the *commit position*: every call below is final. The note says which calls from there on are
//! final too, and for which ones the *intent* to send them is recorded. The next owner of a partition reads
//! both. An intent without a final state is an *ambiguous* call: its request may have been sent, and the
//! policy decides ([`Policy`]).
//!
//! # Invariants
//!
//! * A call is final only after Kafka has acknowledged its outcome or dead letter, or its copy at the
//!   outbox's tail, which continues it.
//! * A copy that another group of callers has appended is final at once, and says nothing of this group's calls.
//! * At most one commit is in flight. A partition is released only when none is.
//! * A lost partition commits nothing.
//! * A request is sent only while the *ownership lease* lasts: the time for which the last acknowledged
//!   commit proves that the partition is ours.
//! * Calls of one idempotency key are made one after the other, in the order of the outbox;
//!   `machine/defer.rs` has the exception for deferred calls.
//! * Events of an earlier assignment do nothing.
//! * Under the policies `park` and `verify` a request is sent only after its intent is committed, and sent
//!   again only if the order was surely not processed: its response says so, or a look-up after *quiescence*,
//!   when no earlier request can be processed any more.
//!
//! Under `retry` intents are hints: they go with the next commit, and no call waits for them. From them the
//! next owner knows which calls it repeats.
//!
//! # Where to find what
//!
//! | folder | holds |
//! | --- | --- |
//! | `response` | responses of the API, and their classification |
//! | `call` | the life of one call, and the policies |
//! | `loaded_notes`, `halt_reason` | where a partition begins, or why it is halted and what the operator does |
//! | `partition` | owned partitions: open calls, commit position, ownership lease |
//! | `flow` | circuit breaker, rate limit, concurrency limit |
//! | `schedule` | what waits, what is in flight, and what is due |
//! | `machine` | [`Delivery`], which brings them together; one file per step |
//!
//! The steps, in the order of a call's life: `assign`, `intake`, `write_ahead`, `dispatch`, `respond`,
//! `resolve_ambiguous`, `retry_limits` and `defer`, `commit`, `revoke`; `backpressure` holds calls back.

mod bound;
mod call;
mod event;
mod flow;
mod gauges;
mod halt_reason;
mod limits;
mod loaded_notes;
mod machine;
mod partition;
mod response;
mod schedule;

pub use bound::Bound;
pub use call::{
    Ambiguity, Call, CallState, DeferralContext, Evidence, FinalState, History, LookupResponse, LookupResult,
    Pending, Policy, Verify,
};
pub use event::{Action, Assignment, CallId, Commit, CommitResult, DeferredCopy, Event, Rejoin, WaitReason};
pub use flow::{BreakerSettings, BreakerState, FlowControlSettings, Outage, OutageCause, RateSettings};
pub use gauges::Gauges;
pub use halt_reason::HaltReason;
pub use limits::{DeferralLimits, Limits};
pub use loaded_notes::LoadedNotes;
pub use machine::Delivery;
pub use partition::Phase;
pub use response::{
    ClassifiedResponse, Field, FieldRule, HttpResponse, InvalidRule, InvalidStatusClasses, Lost, NotSent,
    Otherwise, Response, ResponseClass, ResponseClassifier, ResponseSummary, StatusClass, Statuses,
};
