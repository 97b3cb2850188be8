//! Endpoints other than payments: look-up, statistics, records, and control of faults and outages.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Faults,
    api::Api,
    responses::{Lookup, Stats},
};

mod ndjson;

use ndjson::Lines;

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route(&format!("{}/{{order_id}}", api.path), get(lookup))
        .route("/stats", get(stats))
        .route("/requests", get(requests))
        .route("/charges", get(charges))
        .route("/control/faults", get(faults).put(change_faults))
        .route("/control/down", post(down))
        .with_state(api)
}

async fn lookup(State(api): State<Arc<Api>>, Path(order_id): Path<String>) -> Result<Json<Lookup>, Refused> {
    // Never seen and seen but not yet charged are both 404, as in a real API.
    let found = api.ledger().lookup(&order_id);
    found.map(Json).ok_or_else(|| {
        Refused(
            StatusCode::NOT_FOUND,
            format!("order {order_id:?} was never processed"),
        )
    })
}

async fn stats(State(api): State<Arc<Api>>) -> Json<Stats> {
    Json(api.ledger().stats())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestsQuery {
    order_id: Option<String>,
}

async fn requests(State(api): State<Arc<Api>>, Query(query): Query<RequestsQuery>) -> Response {
    let sequences = match &query.order_id {
        Some(order_id) => api.ledger().requests_of(order_id),
        // All requests by number, without a list of them: there may be millions.
        None => {
            return ndjson(Lines::new(
                0..api.ledger().requests(),
                api.clone(),
                |ledger, n| ledger.request_line(n),
            ));
        }
    };
    ndjson(Lines::new(sequences.into_iter(), api, |ledger, n| {
        ledger.request_line(n)
    }))
}

async fn charges(State(api): State<Arc<Api>>) -> Response {
    let orders = 0..api.ledger().orders();
    ndjson(Lines::new(orders, api, |ledger, n| ledger.charge_line(n)))
}

async fn faults(State(api): State<Arc<Api>>) -> Json<Faults> {
    Json(api.faults())
}

/// Changes the faults that the JSON names; the others keep their values.
async fn change_faults(
    State(api): State<Arc<Api>>,
    Json(changes): Json<Map<String, Value>>,
) -> Result<Json<Faults>, Refused> {
    let refused = |error: String| {
        Refused(
            StatusCode::BAD_REQUEST,
            format!("invalid faults, nothing was changed: {error}"),
        )
    };
    // Merged as JSON and parsed as a whole, so that an unknown name or a wrong type changes nothing.
    let mut merged = serde_json::to_value(api.faults()).map_err(|error| refused(error.to_string()))?;
    if let Value::Object(fields) = &mut merged {
        fields.extend(changes);
    }
    let faults: Faults = serde_json::from_value(merged).map_err(|error| refused(error.to_string()))?;
    faults.check().map_err(|error| refused(error.to_string()))?;
    api.set_faults(faults);
    Ok(Json(faults))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DownQuery {
    #[serde(rename = "for", with = "humantime_serde")]
    duration: Duration,
}

#[derive(Serialize)]
struct Down {
    #[serde(with = "humantime_serde")]
    down_for: Duration,
}

async fn down(State(api): State<Arc<Api>>, Query(query): Query<DownQuery>) -> Json<Down> {
    api.go_down(query.duration);
    Json(Down {
        down_for: query.duration,
    })
}

fn ndjson<L>(lines: L) -> Response
where
    L: hyper::body::Body<Data = bytes::Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(lines)).into_response()
}

/// Error response with its reason.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Problem {
            error: String,
        }
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}
