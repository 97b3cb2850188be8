//! Raw TCP client that distinguishes all ways in which an exchange can end, and a server for it.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use legacy_api::{RequestLine, Server, Settings, Stats};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// Time limit of each step, so that a hang fails with a message.
const LIMIT: Duration = Duration::from_secs(30);

/// End of an exchange, as the client saw it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Response { status: u16, head: String, body: String },
    Reset,
    Closed,
}

impl Seen {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Seen::Response { status, .. } => *status,
            Seen::Reset | Seen::Closed => panic!("no response but {self:?}"),
        }
    }

    pub(crate) fn body(&self) -> &str {
        match self {
            Seen::Response { body, .. } => body,
            Seen::Reset | Seen::Closed => panic!("no response but {self:?}"),
        }
    }
}

/// Server on free ports, which stops with the runtime of the test.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) control: SocketAddr,
    _running: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn start(change: impl FnOnce(&mut Settings)) -> Api {
        let mut settings = Settings::on_a_free_port();
        settings.control_listen = Some("127.0.0.1:0".parse().unwrap());
        change(&mut settings);
        let server = Server::bind(&settings).await.unwrap();
        let (address, control) = (server.address(), server.control_address().unwrap());
        let running = tokio::spawn(async move { server.run().await.unwrap() });
        Api {
            address,
            control,
            _running: running,
        }
    }

    pub(crate) async fn pay(&self, order_id: &str) -> Seen {
        let mut stream = self.send(order_id).await;
        receive(&mut stream).await
    }

    /// Sends a payment, and returns its connection before the response.
    pub(crate) async fn send(&self, order_id: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(payment(order_id, "").as_bytes()).await.unwrap();
        stream
    }

    /// Makes a request to the control listener, which stays up while the API is down.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Seen {
        let mut stream = TcpStream::connect(self.control).await.unwrap();
        stream
            .write_all(request(method, path, "", body).as_bytes())
            .await
            .unwrap();
        receive(&mut stream).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let seen = self.ask("GET", path, "").await;
        assert_eq!(seen.status(), 200, "{path}: {seen:?}");
        serde_json::from_str(seen.body()).unwrap()
    }

    pub(crate) async fn lines<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        let seen = self.ask("GET", path, "").await;
        assert_eq!(seen.status(), 200, "{path}: {seen:?}");
        seen.body()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.get("/stats").await
    }

    /// Returns the only request for an order.
    pub(crate) async fn line(&self, order_id: &str) -> RequestLine {
        let mut lines = self.lines(&format!("/requests?order_id={order_id}")).await;
        assert_eq!(lines.len(), 1, "requests for {order_id}");
        lines.remove(0)
    }

    /// Polls until the only request for the order meets the condition, and returns it.
    pub(crate) async fn line_when(
        &self,
        order_id: &str,
        is_met: impl Fn(&RequestLine) -> bool,
    ) -> RequestLine {
        let path = format!("/requests?order_id={order_id}");
        let polling = async {
            loop {
                match self.lines::<RequestLine>(&path).await.pop() {
                    Some(line) if is_met(&line) => return line,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        timeout(LIMIT, polling).await.expect("the condition is met")
    }
}

pub(crate) fn payment(order_id: &str, headers: &str) -> String {
    let body = format!(r#"{{"order_id":"{order_id}","amount":100,"currency":"EUR","customer_id":"c"}}"#);
    request("POST", "/payments", headers, &body)
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n{headers}content-length: \
         {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one response, or the end of the connection.
pub(crate) async fn receive(stream: &mut TcpStream) -> Seen {
    timeout(LIMIT, receive_without_limit(stream))
        .await
        .expect("a response or an end")
}

async fn receive_without_limit(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    loop {
        if let Some(response) = parse_response(&bytes) {
            return response;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => {
                assert!(
                    bytes.is_empty(),
                    "an incomplete response: {}",
                    String::from_utf8_lossy(&bytes)
                );
                return Seen::Closed;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Seen::Reset,
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

/// Parses a response; `None` if it is incomplete.
fn parse_response(bytes: &[u8]) -> Option<Seen> {
    let text = str::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let field = |name: &str| {
        head.lines().find_map(|line| {
            line.split_once(": ")
                .filter(|(n, _)| *n == name)
                .map(|(_, value)| value)
        })
    };
    let body = if field("transfer-encoding") == Some("chunked") {
        unchunk(rest)?
    } else {
        let length: usize = field("content-length")?.parse().unwrap();
        rest.get(..length)?.to_owned()
    };
    let status = head[9..12].parse().unwrap();
    Some(Seen::Response {
        status,
        head: head.to_owned(),
        body,
    })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
}
