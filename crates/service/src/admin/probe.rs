//! Command `health`: asks the admin server of the program in this container or on this machine whether it is ready.
//!
//! Images need no shell and no HTTP client for their health check, and an operator sees the reasons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;

/// Maximum time of the question, from connecting to the end of the response.
// Health checks ask every few seconds, and a supervisor that waits for one has a timeout of its own, often 5 s.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Maximum size of a response. The reasons of a program with thousands of partitions fit into it.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Asks `/readyz` of the admin server that listens on `listen`, and returns what was asked and answered. A token is
/// not needed.
///
/// # Errors
/// The program is not ready, with its reasons; or there is no answer within 3 s; or it is not the answer of such a
/// program.
pub fn ask_ready(listen: SocketAddr) -> anyhow::Result<String> {
    let address = address_to_ask(listen)?;
    let url = format!("http://{address}/readyz");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let (status, body) = runtime
        .block_on(async { tokio::time::timeout(TIME_MAX, get(address)).await })
        .with_context(|| {
            format!("{url} did not answer within {TIME_MAX:?}: the program hangs, or is overloaded")
        })?
        .with_context(|| {
            format!(
                "asking {url} failed: the program is not running, or the setting admin.listen is another one"
            )
        })?;
    let answer = format!("{url} answered {status}: {}", printable(&body));
    match readiness(status, &body) {
        Readiness::Ready => Ok(answer),
        Readiness::Unready => bail!("not ready: {answer}"),
        Readiness::Unknown => {
            bail!("not an answer of this program: {answer}; does another one listen there?")
        }
    }
}

/// Returns an address at which this machine reaches the listener.
fn address_to_ask(listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    ensure!(
        listen.port() != 0,
        "the address to ask is {listen}: port 0 is replaced by a free one when the program starts, which is not known \
         here; set admin.listen to a fixed port"
    );
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

async fn get(address: SocketAddr) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .context("connecting failed")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the runtime, which the question does not outlive.
    tokio::spawn(connection);
    let request = Request::get("/readyz")
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Body::empty())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("reading the response failed: {error}"))?;
    Ok((head.status, body.to_bytes()))
}

/// What a response says of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    Unready,
    /// Neither: another program answered, or the admin server refused the request.
    Unknown,
}

fn readiness(status: StatusCode, body: &[u8]) -> Readiness {
    #[derive(Deserialize)]
    struct Answer {
        ready: bool,
    }
    // The status alone would take any web server on this port for a program that is ready.
    match (status, serde_json::from_slice(body)) {
        (StatusCode::OK, Ok(Answer { ready: true })) => Readiness::Ready,
        (_, Ok(Answer { ready: false })) => Readiness::Unready,
        (_, Ok(Answer { ready: true }) | Err(_)) => Readiness::Unknown,
    }
}

/// Returns the text on one line, without what a terminal would obey.
fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use axum::Router;

    use super::*;
    use crate::Health;
    use crate::admin::{AdminSettings, spawn_thread};

    /// Starts an admin server on all addresses, and returns its health and the address as it is in the settings.
    fn serving() -> (Health, SocketAddr) {
        let mut settings = AdminSettings::on_port(0);
        settings.listen = "0.0.0.0:0".parse().expect("an address");
        let health = Health::new(Duration::from_secs(60));
        let registry = Arc::new(crate::metrics::registry("test", "0"));
        let bound = spawn_thread(&settings, registry, health.clone(), Router::new()).expect("listening");
        (health, bound)
    }

    /// Answers the request of one connection with these bytes, and keeps it open until the client leaves.
    fn answering(response: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let mut stream = BufReader::new(stream);
            // The whole request first: a response that comes before it is none to it, and the client says so.
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).expect("a line of the request");
            }
            stream.get_mut().write_all(response).expect("sent");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    }

    #[track_caller]
    fn check_fails(listen: SocketAddr, contains: &[&str]) {
        let error = format!("{:#}", ask_ready(listen).expect_err("not ready"));
        for text in contains {
            assert!(error.contains(text), "{text:?} is not in {error}");
        }
    }

    #[test]
    fn readiness_is_asked_of_the_own_listener() {
        let (health, listen) = serving();
        assert!(listen.ip().is_unspecified());
        let asked = format!("http://127.0.0.1:{}/readyz answered", listen.port());
        check_fails(listen, &[&format!("{asked} 503"), "the program is starting"]);
        health.set_ready(Health::STARTED);
        let answer = ask_ready(listen).expect("ready");
        assert!(
            answer.starts_with(&format!("{asked} 200 OK: {{\"ready\":true")),
            "{answer}"
        );
    }

    #[test]
    fn program_that_is_not_running_is_not_ready() {
        // Bound and not listening: connections are refused, and no other test gets the port.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("bound");
        let address = socket.local_addr().expect("an address");
        check_fails(
            address,
            &[&address.to_string(), "connecting failed", "admin.listen"],
        );
        check_fails(
            "0.0.0.0:0".parse().expect("an address"),
            &["port 0", "admin.listen"],
        );
    }

    #[test]
    fn another_web_server_is_not_ready() {
        let page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello";
        check_fails(answering(page), &["200 OK: Hello", "another one"]);
        check_fails(
            answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"),
            &["503", "busy"],
        );
    }

    #[test]
    fn listener_without_an_answer_is_not_ready() {
        check_fails(answering(b""), &["did not answer within 3s"]);
        check_fails(
            answering(b"HTTP/1.1 200 OK\r\n\r\n{\"ready\":"),
            &["did not answer within 3s"],
        );
    }

    #[test]
    fn status_and_body_decide() {
        for (status, body, expected) in [
            (200, r#"{"ready":true,"reasons":[]}"#, Readiness::Ready),
            (503, r#"{"ready":false,"reasons":[]}"#, Readiness::Unready),
            (200, r#"{"ready":false}"#, Readiness::Unready),
            (503, r#"{"ready":true}"#, Readiness::Unknown),
            (404, "", Readiness::Unknown),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(readiness(status, body.as_bytes()), expected, "{status} {body}");
        }
    }

    #[test]
    fn address_is_reachable_from_the_machine() {
        for (listen, asked) in [
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("[::]:9", "[::1]:9"),
            ("10.0.0.7:9", "10.0.0.7:9"),
        ] {
            let address = address_to_ask(listen.parse().expect("an address")).expect("a port");
            assert_eq!(address.to_string(), asked);
        }
    }
}
