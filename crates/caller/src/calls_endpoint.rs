//! `GET /calls`: the calls in flight, for people.
//!
//! The calls belong to the run loop, so the question goes to it and the answer comes back.

use std::time::Instant;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use pipeline::delivery::{CallState, Delivery};
use records::Position;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::outbox::pending_call::Job;

/// A call in flight, for people.
#[derive(Serialize)]
pub(crate) struct CallView {
    key: String,
    position: String,
    stage: &'static str,
    attempt: u32,
    attempts_ambiguous: u32,
    /// In this stage for so long.
    since_ms: u64,
}

/// How many calls `/calls` shows.
const CALLS_SHOWN_MAX: usize = 10_000;

/// The route. `ask` hands the question to the loop; if it drops it, there is no answer.
pub(crate) fn route(ask: impl Fn(oneshot::Sender<Vec<CallView>>) + Clone + Send + Sync + 'static) -> Router {
    let calls = move || {
        let (answer, calls) = oneshot::channel();
        ask(answer);
        async move { calls.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE) }
    };
    Router::new().route("/calls", get(calls))
}

/// The calls that were begun and are not final, of the topic `pending`.
pub(crate) fn view(delivery: &Delivery<Job>, pending: &str, now: Instant) -> Vec<CallView> {
    let started = delivery.calls().filter(|(_, call)| match call.state().0 {
        CallState::BlockedByKey | CallState::Ready => call.history().attempts > 0,
        CallState::RecordingIntent
        | CallState::IntentCommitted
        | CallState::AwaitingQuiescence(_)
        | CallState::LookingUp
        | CallState::AwaitingDeferral
        | CallState::Deferring
        | CallState::InFlight
        | CallState::BackingOff
        | CallState::Unpublished(_)
        | CallState::Publishing(_) => true,
    });
    let view = started.map(|(id, call)| {
        let (stage, since) = call.state();
        let position = Position {
            topic: pending.to_owned(),
            partition: id.partition,
            offset: id.offset,
        };
        CallView {
            key: call.key().map(ToString::to_string).unwrap_or_default(),
            position: position.to_string(),
            stage: stage.as_str(),
            attempt: call.history().attempts,
            attempts_ambiguous: call.history().attempts_ambiguous,
            since_ms: u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX),
        }
    });
    view.take(CALLS_SHOWN_MAX).collect()
}
