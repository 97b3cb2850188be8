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
//! * A call is sent only while there is fresh proof that the partition is ours ([`ownership`]).
//! * Calls of one idempotency key are made one after the other, in the order of the outbox; what `deferring.rs`
//!   says of deferred ones is the exception.
//! * Events of an assignment that is over do nothing.
//! * Under the policies `park` and `verify` ([`policy`]) a call is sent only once its beginning is committed,
//!   and sent again only if it was surely not processed: its own answer says so, or a look-up at a time when
//!   no earlier request can be at work any more.
//!
//! Under `retry` the beginnings in a note are hints: they go with the commit that comes next, and no call
//! waits for them. They let the next owner say which calls it repeats.
//!
//! Where it stands: `machine.rs` holds the state and says what follows from what. What follows is told in
//! `loading.rs` (partitions come), `intake.rs` (calls are taken in), `beginning.rs` (what is noted before a
//! call is sent), `calling.rs` (from sending to the acknowledged end), `settling.rs` (what nobody can know),
//! `deferral.rs` and `deferring.rs` (a call that fails again and again moves to the outbox's tail),
//! `committing.rs`, `leaving.rs` (partitions go) and `pacing.rs` (how fast the API is called, and what happens while
//! it is ill).

mod adaptive;
pub mod answer;
mod away;
mod beginning;
mod breaker;
pub mod call;
mod calling;
mod committing;
mod continued;
mod deferral;
mod deferring;
pub mod event;
mod gauges;
mod held;
mod intake;
mod leaving;
mod limits;
mod loading;
pub mod lookup;
mod machine;
pub mod ownership;
mod pace;
mod pacing;
pub mod policy;
pub mod progress;
mod rate;
mod requests;
mod settling;
mod sign;
#[cfg(test)]
mod tests;

pub use answer::{
    Field, FieldRule, HttpResponse, Lost, NotSent, Otherwise, Response, ResponseClass, ResponseClassifier,
    StatusClass, Statuses,
};
pub use breaker::{BreakerSettings, BreakerState, Outage};
pub use call::{Ambiguity, Call, CallState, Evidence, FinalState, History};
pub use continued::DeferralContext;
pub use event::{
    Action, Assignment, CallId, Commit, CommitResult, DeferredCopy, Event, HaltReason, LoadedNotes, Pending,
    Rejoin, WaitReason,
};
pub use gauges::Gauges;
pub use limits::{DeferralLimits, Limits};
pub use lookup::LookupResult;
pub use machine::Delivery;
pub use pace::FlowControlSettings;
pub use policy::{Policy, Verify};
pub use rate::RateSettings;
