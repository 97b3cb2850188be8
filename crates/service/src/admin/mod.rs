//! Admin HTTP server: `/metrics`, `/healthz`, `/readyz`, and the routes of the program, among them [`/status`].
//!
//! Metrics and probes answer everybody; the routes of the program, which show orders and calls, have a guard.
//!
//! [`/status`]: crate::status

mod guard;
pub mod probe;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

use self::guard::{Guard, guarded};
use crate::health::{Health, Liveness};
use crate::metrics;

/// Settings of the admin HTTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// Address and port to listen on; port 0 takes any free port.
    pub listen: SocketAddr,
    /// File with the token for the routes that show orders and calls; empty for none.
    #[serde(default)]
    pub token_file: PathBuf,
}

impl AdminSettings {
    /// Returns the default of a program: its own port, on the loopback address.
    #[must_use]
    pub fn on_port(port: u16) -> Self {
        // Loopback only: without a token the paths have no authentication, and `/orders` and `/calls` show what
        // customers pay for.
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            token_file: PathBuf::new(),
        }
    }
}

/// Maximum number of requests served at a time; further ones get 503 immediately.
// Probes and a scraper need a handful. More is a client in a loop, which must not slow down the payments.
const REQUESTS_MAX: usize = 32;
/// Maximum time of a request.
// The default of Prometheus's `scrape_timeout`: a scraper does not wait longer, and probes wait less.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// Serves on the current runtime until it ends. `extra` has the routes of the program. Returns the bound
/// address, which differs from the setting if the port is 0, and logs it as `addr`.
///
/// # Errors
/// The address cannot be bound, or the token cannot be read.
pub async fn serve(
    settings: &AdminSettings,
    registry: Arc<Registry>,
    health: Health,
    extra: Router,
) -> anyhow::Result<SocketAddr> {
    let (guard, listen) = (Guard::of(settings)?, settings.listen);
    let (listener, addr) = bind(listen)?;
    let listener = tokio::net::TcpListener::from_std(listener).with_context(|| cannot_listen(listen))?;
    let router = router(registry, health, extra, guard);
    tokio::spawn(async move { run(listener, router).await });
    Ok(addr)
}

/// Serves like [`serve`], for a program without a runtime: on a thread `admin-http` with a runtime of its
/// own.
///
/// # Errors
/// The address cannot be bound, the token cannot be read, or the thread cannot be started.
pub fn spawn_thread(
    settings: &AdminSettings,
    registry: Arc<Registry>,
    health: Health,
    extra: Router,
) -> anyhow::Result<SocketAddr> {
    let (guard, listen) = (Guard::of(settings)?, settings.listen);
    let (listener, addr) = bind(listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| cannot_listen(listen))?;
    let listener = {
        // A tokio listener registers with the runtime that is entered while it is created.
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).with_context(|| cannot_listen(listen))?
    };
    let router = router(registry, health, extra, guard);
    std::thread::Builder::new()
        .name("admin-http".into())
        .spawn(move || runtime.block_on(run(listener, router)))
        .context("cannot start the thread of the admin HTTP server")?;
    Ok(addr)
}

fn bind(listen: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let bind = || -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(listen)?;
        // tokio requires it: a blocking accept would stall the runtime.
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    };
    let (listener, addr) = bind().with_context(|| cannot_listen(listen))?;
    tracing::info!(%addr, "admin http server listening");
    Ok((listener, addr))
}

fn cannot_listen(listen: SocketAddr) -> String {
    format!("the admin HTTP server cannot listen on {listen} (the setting admin.listen)")
}

async fn run(listener: tokio::net::TcpListener, router: Router) {
    // axum handles the errors of single connections itself, and does not return. If it does, the payments go on
    // without the server, and the probes fail.
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "admin http server stopped");
    }
}

fn router(registry: Arc<Registry>, health: Health, extra: Router, guard: Guard) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    // Routes alone, so that an unknown path stays unknown.
    let extra = match extra.has_routes() {
        true => extra.route_layer(from_fn_with_state(guard, guarded)),
        false => extra,
    };
    Router::new()
        .route("/metrics", get(scrape).with_state(registry))
        .route("/healthz", get(alive).with_state(health.clone()))
        .route("/readyz", get(ready).with_state(health))
        .merge(extra)
        .layer(from_fn_with_state(permits, limited))
}

async fn limited(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n").into_response();
    };
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the request took too long\n").into_response(),
    }
}

async fn scrape(State(registry): State<Arc<Registry>>) -> Response {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::encode(&registry),
    )
        .into_response()
}

async fn alive(State(health): State<Health>) -> Response {
    let (status, alive, tick_age) = match health.liveness() {
        // Alive: a supervisor that killed a program for a slow start would make it start for ever.
        Liveness::NotStarted => (StatusCode::OK, true, None),
        Liveness::Ticking(age) => (StatusCode::OK, true, Some(age)),
        Liveness::Stopped(age) => (StatusCode::SERVICE_UNAVAILABLE, false, Some(age)),
    };
    let tick_age_ms = tick_age.map(|age| age.as_millis());
    (
        status,
        Json(json!({ "alive": alive, "last_tick_ms_ago": tick_age_ms })),
    )
        .into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.unready_conditions();
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": ready, "reasons": reasons }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn get_text(addr: SocketAddr, path: &str) -> String {
        get_with(addr, path, "")
    }

    fn get_with(addr: SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(addr).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time limit");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
        )
        .expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        response
    }

    #[track_caller]
    fn check(addr: SocketAddr, path: &str, status: u16, contains: &[&str]) {
        let response = get_text(addr, path);
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        for text in contains {
            assert!(response.contains(text), "{text:?} is not in {response}");
        }
    }

    fn any_port(ip: [u8; 4], token_file: &std::path::Path) -> AdminSettings {
        AdminSettings {
            listen: SocketAddr::from((ip, 0)),
            token_file: token_file.to_owned(),
        }
    }

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    /// Starts a server with a route, and returns its loopback address.
    fn serving(settings: &AdminSettings) -> SocketAddr {
        let registry = Arc::new(metrics::registry("test", "0"));
        let health = Health::new(Duration::from_secs(60));
        let extra = Router::new().route("/orders/{key}", get(async || "an order"));
        let bound = spawn_thread(settings, registry, health, extra).expect("listening");
        SocketAddr::from((LOOPBACK, bound.port()))
    }

    #[test]
    fn orders_are_not_shown_to_other_machines() {
        let addr = serving(&any_port([0, 0, 0, 0], "".as_ref()));
        check(addr, "/orders/k1", 403, &["admin.token_file"]);
        for path in ["/metrics", "/healthz"] {
            check(addr, path, 200, &[]);
        }
        check(addr, "/readyz", 503, &["started"]);
        check(addr, "/unknown", 404, &[]);
    }

    #[test]
    fn orders_are_shown_to_who_has_the_token() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "token-of-operators\n").expect("written");
        let addr = serving(&any_port(LOOPBACK, file.path()));
        check(
            addr,
            "/orders/k1",
            401,
            &["www-authenticate: Bearer", "admin.token_file"],
        );
        check(addr, "/metrics", 200, &[]);
        let with = |token: &str| get_with(addr, "/orders/k1", &format!("authorization: Bearer {token}\r\n"));
        let shown = with("token-of-operators");
        assert!(
            shown.starts_with("HTTP/1.1 200 ") && shown.contains("an order"),
            "{shown}"
        );
        let refused = with("token-of-operatorz");
        assert!(
            refused.starts_with("HTTP/1.1 401 ") && !refused.contains("token-of"),
            "{refused}"
        );
        // Changed while the program runs.
        std::fs::write(file.path(), "token-of-tomorrow").expect("written");
        assert!(with("token-of-operators").starts_with("HTTP/1.1 401 "));
        assert!(with("token-of-tomorrow").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn thread_serves_health_metrics_and_extra_routes() {
        let health = Health::new(Duration::ZERO);
        let registry = Arc::new(metrics::registry("test", "0"));
        let extra = Router::new().route("/orders/{key}", get(async || "an order"));
        let settings = any_port(LOOPBACK, "".as_ref());
        let addr = spawn_thread(&settings, registry, health.clone(), extra).expect("listening");

        check(
            addr,
            "/metrics",
            200,
            &[
                "content-type: application/openmetrics-text; version=1.0.0",
                "outbox_build_info{",
                "# EOF",
            ],
        );
        check(
            addr,
            "/readyz",
            503,
            &[
                "application/json",
                r#"{"ready":false,"reasons":[{"condition":"started","reason":"the program is starting"}]}"#,
            ],
        );
        health.set_ready(Health::STARTED);
        check(addr, "/readyz", 200, &[r#"{"ready":true,"reasons":[]}"#]);
        check(addr, "/healthz", 200, &[r#""alive":true"#]);
        health.tick();
        let ticked = std::time::Instant::now();
        while ticked.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        check(addr, "/healthz", 503, &[r#""alive":false"#]);
        check(addr, "/orders/k1", 200, &["an order"]);
        check(addr, "/unknown", 404, &[]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn runtime_serves_and_a_taken_address_is_named() {
        let start = async |listen: SocketAddr| {
            let registry = Arc::new(metrics::registry("test", "0"));
            let settings = AdminSettings {
                listen,
                token_file: PathBuf::new(),
            };
            serve(
                &settings,
                registry,
                Health::new(Duration::from_secs(1)),
                Router::new(),
            )
            .await
        };
        let addr = start(SocketAddr::from((LOOPBACK, 0))).await.expect("listening");
        tokio::task::spawn_blocking(move || check(addr, "/healthz", 200, &["null"]))
            .await
            .expect("checked");
        let error = format!("{:#}", start(addr).await.expect_err("the address is taken"));
        assert!(
            error.contains(&addr.to_string()) && error.contains("admin.listen"),
            "{error}"
        );
    }
}
