//! The admin HTTP server: `/metrics`, `/healthz`, `/readyz`, and what the program adds.

use std::io;
use std::net::{SocketAddr, TcpListener};
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

use crate::health::{Health, Pulse};
use crate::metrics;

/// Where a process serves this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSettings {
    /// The address and port; port 0: any that is free.
    pub listen: SocketAddr,
}

impl AdminSettings {
    /// For this machine only, on a program's own port, so that two programs do not meet.
    #[must_use]
    pub fn on_port(port: u16) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

/// Requests answered at the same time; more are told 503 at once, as nobody needs so many.
const REQUESTS_MAX: usize = 32;
/// The longest time that a request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// Serves on the runtime of the caller's, until that ends. `extra` are the program's own paths. Returns the
/// real address, which differs from `listen` where the port is 0, and logs it as `addr`.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    registry: Arc<Registry>,
    health: Health,
    extra: Router,
) -> anyhow::Result<SocketAddr> {
    let (listener, addr) = bind(listen)?;
    let listener = tokio::net::TcpListener::from_std(listener).with_context(|| cannot_listen(listen))?;
    let router = router(registry, health, extra);
    tokio::spawn(async move { run(listener, router).await });
    Ok(addr)
}

/// The same for a program without a runtime: a thread called `admin-http` with a runtime of its own.
///
/// # Errors
/// The address cannot be listened on, or the thread cannot be started.
pub fn spawn_thread(
    listen: SocketAddr,
    registry: Arc<Registry>,
    health: Health,
    extra: Router,
) -> anyhow::Result<SocketAddr> {
    let (listener, addr) = bind(listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| cannot_listen(listen))?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).with_context(|| cannot_listen(listen))?
    };
    let router = router(registry, health, extra);
    std::thread::Builder::new()
        .name("admin-http".into())
        .spawn(move || runtime.block_on(run(listener, router)))
        .context("the thread of the admin HTTP server cannot be started")?;
    Ok(addr)
}

fn bind(listen: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let bind = || -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    };
    let (listener, addr) = bind().with_context(|| cannot_listen(listen))?;
    tracing::info!(%addr, "admin http listens");
    Ok((listener, addr))
}

fn cannot_listen(listen: SocketAddr) -> String {
    format!("the admin HTTP server cannot listen on {listen} (the setting admin.listen)")
}

async fn run(listener: tokio::net::TcpListener, router: Router) {
    // Its errors are those of single connections and stay inside; it does not return by itself.
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin http server has stopped");
    }
}

fn router(registry: Arc<Registry>, health: Health, extra: Router) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    Router::new()
        .route("/metrics", get(scrape).with_state(registry))
        .route("/healthz", get(alive).with_state(health.clone()))
        .route("/readyz", get(ready).with_state(health))
        .merge(extra)
        .layer(from_fn_with_state(permits, limited))
}

async fn limited(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests at the same time\n",
        )
            .into_response();
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
    let (status, alive, silent) = match health.pulse() {
        Pulse::NotStarted => (StatusCode::OK, true, None),
        Pulse::Ticking(silent) => (StatusCode::OK, true, Some(silent)),
        Pulse::Stopped(silent) => (StatusCode::SERVICE_UNAVAILABLE, false, Some(silent)),
    };
    let silent_ms = silent.map(|silent| silent.as_millis());
    (
        status,
        Json(json!({ "alive": alive, "last_tick_ms_ago": silent_ms })),
    )
        .into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.reasons();
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
        let mut stream = TcpStream::connect(addr).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time limit");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[track_caller]
    fn check(addr: SocketAddr, path: &str, status: u16, contains: &[&str]) {
        let answer = get_text(addr, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        for text in contains {
            assert!(answer.contains(text), "{text:?} is not in {answer}");
        }
    }

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn a_program_without_a_runtime_is_asked_for_its_health_and_metrics() {
        let health = Health::new(Duration::ZERO);
        let registry = Arc::new(metrics::registry("test", "0"));
        let extra = Router::new().route("/orders/{key}", get(async || "an order"));
        let addr = spawn_thread(ANY.parse().expect("an address"), registry, health.clone(), extra)
            .expect("listening");

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
        check(addr, "/elsewhere", 404, &[]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_program_with_a_runtime_serves_on_it_and_a_taken_address_is_named() {
        let start = |listen: SocketAddr| {
            let registry = Arc::new(metrics::registry("test", "0"));
            serve(
                listen,
                registry,
                Health::new(Duration::from_secs(1)),
                Router::new(),
            )
        };
        let addr = start(ANY.parse().expect("an address")).await.expect("listening");
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
