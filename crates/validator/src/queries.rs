//! `GET /orders/{key}`: what this validator's stores know of an order.
//!
//! The stores belong to the run loop, so the question goes to it and the answer comes back.

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

/// A question for the run loop.
pub(crate) struct Query {
    /// The key that is asked for.
    pub(crate) key: IdempotencyKey,
    /// Where the answer goes: the partition and the entry, if a store here has the key.
    pub(crate) answer: oneshot::Sender<Option<(Partition, Entry)>>,
}

/// Questions that wait at the same time; more are told to come again.
const QUERIES_MAX: usize = 64;
/// The run loop turns far more often, except while it waits for a commit.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The route, and where its questions come out.
pub(crate) fn route() -> (Router, Receiver<Query>) {
    let (ask, queries) = crossbeam_channel::bounded(QUERIES_MAX);
    (
        Router::new().route("/orders/{key}", get(order)).with_state(ask),
        queries,
    )
}

async fn order(State(ask): State<Sender<Query>>, Path(key): Path<String>) -> Response {
    let failed = |status: StatusCode, error: &str| (status, Json(json!({ "error": error }))).into_response();
    let key = match IdempotencyKey::new(&key) {
        Ok(key) => key,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let (answer, answered) = oneshot::channel();
    if ask
        .try_send(Query {
            key: key.clone(),
            answer,
        })
        .is_err()
    {
        return failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many questions wait; ask again",
        );
    }
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(Ok(Some((partition, entry)))) => Json(json!({
            "key": key.as_str(),
            "status": "PENDING",
            "fingerprint": entry.fingerprint.to_string(),
            "admitted_at": entry.admitted_at.0,
            "source_offset": entry.source.0,
            "partition": partition.0,
        }))
        .into_response(),
        Ok(Ok(None)) => failed(
            StatusCode::NOT_FOUND,
            "none of the partitions of this validator knows the key; another validator may own its partition",
        ),
        Ok(Err(_)) | Err(_) => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "the run loop did not answer; ask again",
        ),
    }
}
