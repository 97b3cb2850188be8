//! Command `health`: asks a running stand-in on this machine for its statistics.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;

/// Maximum time of the question.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Maximum size of the statistics.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Asks the stand-in that listens on `listen`, and returns what was asked and answered.
///
/// # Errors
/// There is no answer within 3 s, as in an outage, or not the expected one.
pub async fn ask(listen: SocketAddr) -> anyhow::Result<String> {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    let url = format!("http://{address}/stats");
    let (status, body) = tokio::time::timeout(TIME_MAX, get(address))
        .await
        .with_context(|| format!("{url} did not answer within {TIME_MAX:?}"))?
        .with_context(|| {
            format!("asking {url} failed: the API is not running, down, or listens elsewhere")
        })?;
    let answer = format!("{url} answered {status}: {body}");
    ensure!(status == StatusCode::OK, "{answer}");
    Ok(answer)
}

async fn get(address: SocketAddr) -> anyhow::Result<(StatusCode, String)> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .context("connecting failed")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the runtime, which the question does not outlive.
    tokio::spawn(connection);
    let request = Request::get("/stats")
        .header(header::HOST, address.to_string())
        .body(Body::empty())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("reading the response failed: {error}"))?;
    Ok((
        head.status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Server, Settings};

    #[tokio::test]
    async fn api_answers_until_it_is_down() {
        let server = Server::bind(&Settings::on_a_free_port()).await.unwrap();
        let address = server.address();
        let running = tokio::spawn(server.run());
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let answer = ask(everywhere).await.unwrap();
        assert!(
            answer.starts_with(&format!("http://{address}/stats answered 200")),
            "{answer}"
        );
        running.abort();
    }

    #[tokio::test]
    async fn api_that_is_not_running_is_an_error() {
        // Bound and not listening: connections are refused, and no other test gets the port.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = format!("{:#}", ask(socket.local_addr().unwrap()).await.unwrap_err());
        assert!(error.contains("connecting failed"), "{error}");
    }
}
