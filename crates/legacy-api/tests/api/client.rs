//! A raw TCP client that tells every kind of ending apart, and a server to aim it at.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use legacy_api::{RequestLine, Server, Settings, Stats};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes, so that a hang is a failure with a name.
const PATIENCE: Duration = Duration::from_secs(30);

/// How an exchange ended, as the client saw it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Answer { status: u16, head: String, body: String },
    Reset,
    Closed,
}

impl Seen {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Seen::Answer { status, .. } => *status,
            Seen::Reset | Seen::Closed => panic!("no answer but {self:?}"),
        }
    }

    pub(crate) fn body(&self) -> &str {
        match self {
            Seen::Answer { body, .. } => body,
            Seen::Reset | Seen::Closed => panic!("no answer but {self:?}"),
        }
    }
}

/// A server on free ports, which ends with the test's runtime.
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

    /// Sends a payment and hands out the connection on which the answer is due.
    pub(crate) async fn send(&self, order_id: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(payment(order_id, "").as_bytes()).await.unwrap();
        stream
    }

    /// Asks over the control listener, which is there even while the API is down.
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

    /// The only request for an order.
    pub(crate) async fn line(&self, order_id: &str) -> RequestLine {
        let mut lines = self.lines(&format!("/requests?order_id={order_id}")).await;
        assert_eq!(lines.len(), 1, "requests for {order_id}");
        lines.remove(0)
    }

    /// Asks until the order's only request looks as it should.
    pub(crate) async fn line_when(
        &self,
        order_id: &str,
        right: impl Fn(&RequestLine) -> bool,
    ) -> RequestLine {
        let path = format!("/requests?order_id={order_id}");
        let asking = async {
            loop {
                match self.lines::<RequestLine>(&path).await.pop() {
                    Some(line) if right(&line) => return line,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        timeout(PATIENCE, asking)
            .await
            .expect("the request comes to look as it should")
    }
}

pub(crate) fn payment(order_id: &str, headers: &str) -> String {
    let body = format!(r#"{{"order_id":"{order_id}","amount":100,"currency":"EUR","customer_id":"c"}}"#);
    request("POST", "/payments", headers, &body)
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer, or how there is none.
pub(crate) async fn receive(stream: &mut TcpStream) -> Seen {
    timeout(PATIENCE, receive_patiently(stream))
        .await
        .expect("an answer or an end")
}

async fn receive_patiently(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    loop {
        if let Some(answer) = whole_answer(&bytes) {
            return answer;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => {
                assert!(
                    bytes.is_empty(),
                    "an answer in part: {}",
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

/// `None` until all of it is there.
fn whole_answer(bytes: &[u8]) -> Option<Seen> {
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
    Some(Seen::Answer {
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
