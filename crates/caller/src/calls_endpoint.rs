//! `GET /calls`: the open calls that have begun, for operators.
//!
//! The calls belong to the run loop, so each query goes to it and the result comes back by a channel.

use std::time::Instant;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use pipeline::delivery::{CallState, Delivery};
use records::Position;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::outbox::pending_call::PendingCall;

/// Open call, as the endpoint shows it.
#[derive(Serialize)]
pub(crate) struct CallView {
    key: String,
    position: String,
    state: &'static str,
    attempt: u32,
    attempts_ambiguous: u32,
    /// Time in this state, in milliseconds.
    in_state_ms: u64,
}

/// Maximum number of calls in a response: the loop builds it, and sends nothing meanwhile.
const CALLS_SHOWN_MAX: usize = 10_000;

/// Returns the route. `query` hands the sender of the result to the run loop.
pub(crate) fn route(
    query: impl Fn(oneshot::Sender<Vec<CallView>>) + Clone + Send + Sync + 'static,
) -> Router {
    let calls = move || {
        let (result, calls) = oneshot::channel();
        query(result);
        // The sender is dropped when the loop has ended.
        async move { calls.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE) }
    };
    Router::new().route("/calls", get(calls))
}

/// Returns the calls with an attempt that are not final; `pending` is the outbox topic.
pub(crate) fn view(delivery: &Delivery<PendingCall>, pending: &str, now: Instant) -> Vec<CallView> {
    // Calls that were only read are left out: there may be tens of thousands, and nothing has happened to
    // them.
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
        let (state, since) = call.state();
        let position = Position {
            topic: pending.to_owned(),
            partition: id.partition,
            offset: id.offset,
        };
        CallView {
            key: call.key().map(ToString::to_string).unwrap_or_default(),
            position: position.to_string(),
            state: state.as_str(),
            attempt: call.history().attempts,
            attempts_ambiguous: call.history().attempts_ambiguous,
            in_state_ms: u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX),
        }
    });
    view.take(CALLS_SHOWN_MAX).collect()
}
