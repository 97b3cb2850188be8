//! `GET /orders/{key}`: the store entry of an order.
//!
//! The stores belong to the run loop, so each query goes to it and the result comes back by a channel.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crossbeam_channel::{Receiver, Sender};
use records::{Entry, IdempotencyKey, Partition};
use serde_json::json;
use tokio::sync::oneshot;

/// Query for the run loop.
pub(crate) struct Query {
    /// Key to look up.
    pub(crate) key: IdempotencyKey,
    /// Receiver of the result: partition and entry, if a store here has the key.
    pub(crate) result: oneshot::Sender<Option<(Partition, Entry)>>,
}

/// Maximum number of queries that wait for the run loop; more are rejected with 503.
const QUERIES_MAX: usize = 64;
/// Timeout of a query. The run loop takes queries every few milliseconds, except while it waits for a commit.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the route, and the channel on which its queries arrive.
pub(crate) fn route() -> (Router, Receiver<Query>) {
    // Bounded: queries must not pile up in memory while the run loop waits for the brokers.
    let (sender, queries) = crossbeam_channel::bounded(QUERIES_MAX);
    (
        Router::new()
            .route("/orders/{key}", get(order))
            .with_state(sender),
        queries,
    )
}

async fn order(State(queries): State<Sender<Query>>, Path(key): Path<String>) -> Response {
    let failed = |status: StatusCode, error: &str| (status, Json(json!({ "error": error }))).into_response();
    let key = match IdempotencyKey::new(&key) {
        Ok(key) => key,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let (sender, result) = oneshot::channel();
    let query = Query {
        key: key.clone(),
        result: sender,
    };
    // Without waiting: a blocked handler would hold up `/healthz` on the same thread.
    if queries.try_send(query).is_err() {
        return failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many queries are waiting; retry later",
        );
    }
    match tokio::time::timeout(QUERY_TIMEOUT, result).await {
        Ok(Ok(Some((partition, entry)))) => Json(json!({
            "key": key.as_str(),
            "status": "PENDING",
            "fingerprint": entry.fingerprint.to_string(),
            "fingerprint_of": entry.selection.to_string(),
            "admitted_at": entry.admitted_at.0,
            // Of an order on another partition, before the topics grew, the offset is not known.
            "source_offset": Some(entry.source).filter(|source| *source != Entry::MOVED).map(|source| source.0),
            "partition": partition.0,
        }))
        .into_response(),
        Ok(Ok(None)) => failed(
            StatusCode::NOT_FOUND,
            "no partition of this validator has the key; another validator may own its partition",
        ),
        Ok(Err(_)) | Err(_) => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "the run loop did not respond in time; retry later",
        ),
    }
}
