//! One TCP connection: its requests, its responses, and the way it ends.

use std::{convert::Infallible, error::Error as _, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::{
    api::{Api, Outage, outage_started},
    connection_state::ConnectionState,
    payments,
    responses::Cut,
};

/// Serves one connection until either side ends it, or until the API goes down.
///
/// Idle connections have no time limit: the pool of the client decides how long it keeps them.
pub(crate) async fn serve(api: Arc<Api>, control: Router, stream: TcpStream, mut outage: Outage) {
    let connection = ConnectionState::default();
    let control = TowerToHyperService::new(control);
    let service = service_fn(|request| route(&api, &connection, &control, request));
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut http => Some(ended),
        () = outage_started(&mut outage) => None,
    };
    // Only hyper's error says what the service asked for: it passes the error of the service through as its
    // source.
    let reset = match ended {
        Some(ended) => wants_reset(ended),
        None if connection.cut_off() => true,
        None => {
            // Idle, or handling the control request that takes the API down, whose response is still sent.
            Pin::new(&mut http).graceful_shutdown();
            wants_reset((&mut http).await)
        }
    };
    let stream = http.into_parts().io.into_inner();
    if reset {
        // With a linger time of zero, closing sends RST instead of FIN. It fails only on a dead socket.
        let _ = stream.set_zero_linger();
    }
}

async fn route(
    api: &Arc<Api>,
    connection: &ConnectionState,
    control: &TowerToHyperService<Router>,
    request: Request<Incoming>,
) -> Result<Response<Body>, NoResponse> {
    // Payments bypass axum, which cannot end a connection without a response.
    if request.method() == Method::POST && request.uri().path() == api.path {
        connection.payment_started();
        let result = payments::take(api, connection, request).await;
        connection.payment_ended();
        result.map_err(NoResponse)
    } else {
        let response: Result<_, Infallible> = control.call(request).await;
        Ok(response.unwrap_or_else(|never| match never {}))
    }
}

/// Error that makes hyper close the connection without a response.
#[derive(Debug, Error)]
#[error("the request gets no response")]
struct NoResponse(Cut);

/// Reports whether the service asked for the connection to be reset.
fn wants_reset(ended: hyper::Result<()>) -> bool {
    let error = ended.err();
    let no_response = error
        .as_ref()
        .and_then(|error| error.source()?.downcast_ref::<NoResponse>());
    matches!(no_response, Some(NoResponse(Cut::Reset)))
}
