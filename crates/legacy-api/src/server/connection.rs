//! One TCP connection: requests in, answers out, and its end, of whichever kind.

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
    api::{Api, Down, goes_down},
    connection_state::ConnectionState,
    payments,
    responses::Cut,
};

/// Serves one connection until either side ends it, or until the API goes down.
///
/// There is no time limit on idle connections: the caller's pool decides how long it keeps them.
pub(crate) async fn serve(api: Arc<Api>, control: Router, stream: TcpStream, mut down: Down) {
    let connection = ConnectionState::default();
    let control = TowerToHyperService::new(control);
    let service = service_fn(|request| route(&api, &connection, &control, request));
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut http => Some(ended),
        () = goes_down(&mut down) => None,
    };
    let reset = match ended {
        Some(ended) => wants_reset(ended),
        None if connection.cut_down() => true,
        None => {
            // Idle, or busy with the very request that takes the API down, whose answer still goes out.
            Pin::new(&mut http).graceful_shutdown();
            wants_reset((&mut http).await)
        }
    };
    let stream = http.into_parts().io.into_inner();
    if reset {
        // With a linger time of zero, closing sends RST instead of FIN. It can only fail on a socket
        // that is already dead.
        let _ = stream.set_zero_linger();
    }
}

async fn route(
    api: &Arc<Api>,
    connection: &ConnectionState,
    control: &TowerToHyperService<Router>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Unanswered> {
    if request.method() == Method::POST && request.uri().path() == api.path {
        connection.begin();
        let answer = payments::take(api, connection, request).await;
        connection.end();
        answer.map_err(Unanswered)
    } else {
        let answer: Result<_, Infallible> = control.call(request).await;
        Ok(answer.unwrap_or_else(|never| match never {}))
    }
}

/// Makes hyper end the connection without an answer.
#[derive(Debug, Error)]
#[error("the request gets no answer")]
struct Unanswered(Cut);

/// Whether our own service wanted the connection to end, and by a reset.
fn wants_reset(ended: hyper::Result<()>) -> bool {
    let error = ended.err();
    let unanswered = error
        .as_ref()
        .and_then(|error| error.source()?.downcast_ref::<Unanswered>());
    matches!(unanswered, Some(Unanswered(Cut::Reset)))
}
