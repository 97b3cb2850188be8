//! What each misbehaviour of a server is reported as, on real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;

/// What the server does with a connection once it has read a request from it, or before.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Closes it before reading anything.
    ResetsUnread,
    /// Reads a request, then closes in an orderly way.
    ClosesUnanswered,
    /// Reads a request, then resets.
    ResetsUnanswered,
    /// Reads a request, and is silent.
    Hangs,
    /// Reads a request, writes this, and closes.
    Answers(&'static str),
    /// Reads requests and answers each with this, as long as the client likes.
    AnswersAll(&'static str),
    /// Answers one request, waits to be told, and closes the idle connection.
    AnswersOneThenCloses(&'static str),
}

struct Server {
    addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    close: Arc<Notify>,
    closed: Arc<Notify>,
}

const OK: &str = "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";

impl Server {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            addr: listener.local_addr().expect("an address"),
            requests: Arc::default(),
            connections: Arc::default(),
            close: Arc::default(),
            closed: Arc::default(),
        };
        let (requests, connections) = (Arc::clone(&server.requests), Arc::clone(&server.connections));
        let (close, closed) = (Arc::clone(&server.close), Arc::clone(&server.closed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(
                    stream,
                    does,
                    Arc::clone(&requests),
                    Arc::clone(&close),
                    Arc::clone(&closed),
                ));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}/payments", self.addr)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Does,
    requests: Arc<AtomicUsize>,
    close: Arc<Notify>,
    closed: Arc<Notify>,
) {
    loop {
        if let Does::ResetsUnread = does {
            // Unread bytes and a linger of zero: the client sees a reset.
            stream.set_zero_linger().expect("a linger of zero");
            return;
        }
        if !read_request(&mut stream).await {
            return;
        }
        requests.fetch_add(1, Ordering::SeqCst);
        match does {
            Does::ResetsUnread | Does::ClosesUnanswered => return,
            Does::ResetsUnanswered => return stream.set_zero_linger().expect("a linger of zero"),
            Does::Hangs => std::future::pending::<()>().await,
            Does::Answers(answer) => {
                stream.write_all(answer.as_bytes()).await.expect("written");
                return;
            }
            Does::AnswersAll(answer) => stream.write_all(answer.as_bytes()).await.expect("written"),
            Does::AnswersOneThenCloses(answer) => {
                stream.write_all(answer.as_bytes()).await.expect("written");
                close.notified().await;
                drop(stream);
                closed.notify_one();
                return;
            }
        }
    }
}

/// Reads a head and its body. Returns false at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            if body.len() >= length {
                return true;
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => bytes.extend_from_slice(&more[..n]),
        }
    }
}

fn settings(url: &str) -> ApiSettings {
    ApiSettings {
        url: url.into(),
        timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(200),
        answer_bytes_max: bytesize::ByteSize::b(16),
        ..ApiSettings::default()
    }
}

fn permitted() -> Permit {
    let permit = Permit::new(Instant::now());
    permit.extend(Instant::now() + Duration::from_secs(60));
    permit
}

async fn call(api: &Api, permit: Permit) -> Report {
    let request = Request {
        url: api.url("order/1?").expect("a url"),
        idempotency_key: HeaderValue::from_static("key-1"),
        traceparent: Some(HeaderValue::from_static("00-1-2-01")),
        body: Bytes::from_static(b"{\"order_id\":\"order/1?\"}"),
    };
    api.call(request, permit).await
}

/// Makes one call; returns what it is reported as, and how many requests the server has seen.
async fn check(does: Does, expected: Report, requests: usize) {
    let server = Server::start(does).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    assert_eq!(call(&api, permitted()).await, expected, "{does:?}");
    assert_eq!(server.requests(), requests, "{does:?}");
}

fn status(status: u16, retry_after: Option<u64>, body: &str, body_cut: bool) -> Report {
    let retry_after = retry_after.map(Duration::from_secs);
    Report::Status(Reply {
        status,
        retry_after,
        body: body.into(),
        body_cut,
    })
}

#[tokio::test]
async fn a_refused_connection_was_surely_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    drop(listener);
    let api = Api::new(&settings(&url)).expect("an API");
    assert_eq!(
        call(&api, permitted()).await,
        Report::NotSent(NotSent::NoConnection)
    );
}

#[tokio::test]
async fn an_unknown_host_was_surely_not_sent() {
    // Names under .invalid never exist (RFC 2606).
    let api = Api::new(&settings("http://api.invalid/payments")).expect("an API");
    assert_eq!(
        call(&api, permitted()).await,
        Report::NotSent(NotSent::NoConnection)
    );
}

/// A listener whose queue is full does not answer new connections: neither accepted nor refused.
#[tokio::test]
async fn a_time_out_while_connecting_was_surely_not_sent() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let listener = socket.listen(1).expect("listening");
    let addr = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    let is_full = loop {
        let connecting = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await;
        match connecting {
            Ok(Ok(stream)) => waiting.push(stream),
            Ok(Err(_)) => break false,
            Err(_) => break true,
        }
        assert!(waiting.len() < 100, "the listener's queue has no end");
    };
    assert!(
        is_full,
        "the listener refuses instead of leaving connections waiting"
    );
    for (timeout, connect_timeout) in [(5_000, 200), (200, 5_000)] {
        let settings = ApiSettings {
            timeout: Duration::from_millis(timeout),
            connect_timeout: Duration::from_millis(connect_timeout),
            ..settings(&format!("http://{addr}/"))
        };
        let api = Api::new(&settings).expect("an API");
        let report = call(&api, permitted()).await;
        assert_eq!(
            report,
            Report::NotSent(NotSent::NoConnection),
            "{timeout} {connect_timeout}"
        );
    }
}

#[tokio::test]
async fn once_it_left_and_no_status_came_nobody_can_know() {
    check(Does::ClosesUnanswered, Report::Lost(Lost::Closed), 1).await;
    check(Does::ResetsUnanswered, Report::Lost(Lost::Closed), 1).await;
    check(Does::Hangs, Report::Lost(Lost::TimedOut), 1).await;
    check(Does::Answers("HTTP/1.1 2"), Report::Lost(Lost::Closed), 1).await;
    check(
        Does::Answers("SMTP ready\r\n\r\n"),
        Report::Lost(Lost::NotHttp),
        1,
    )
    .await;
}

/// The kernel takes the request before the reset arrives, or not: both are honest, and neither is a
/// second request.
#[tokio::test]
async fn a_reset_before_anything_was_read_is_not_taken_for_an_answer() {
    let server = Server::start(Does::ResetsUnread).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    let report = call(&api, permitted()).await;
    let expected = [
        Report::Lost(Lost::Closed),
        Report::NotSent(NotSent::NoConnection),
        Report::NotSent(NotSent::NotWritten),
    ];
    assert!(expected.contains(&report), "{report:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_status_counts_whatever_becomes_of_its_body() {
    check(Does::Answers(OK), status(201, None, "{}", false), 1).await;
    let truncated = "HTTP/1.1 201 Created\r\ncontent-length: 99\r\n\r\n{\"id\":";
    check(Does::Answers(truncated), status(201, None, "{\"id\":", true), 1).await;
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    check(
        Does::Answers(long),
        status(200, None, "0123456789012345", true),
        1,
    )
    .await;
    // Its end never comes.
    let hanging = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123";
    check(Does::AnswersAll(hanging), status(200, None, "0123", true), 1).await;
}

#[tokio::test]
async fn retry_after_is_read() {
    let with = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    check(Does::Answers(with), status(503, Some(7), "", false), 1).await;
    let unreadable = "HTTP/1.1 503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n";
    check(Does::Answers(unreadable), status(503, Some(0), "", false), 1).await;
    let without = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    check(Does::Answers(without), status(503, None, "", false), 1).await;
    let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(retry_after(&date, at(784_111_770)), Duration::from_secs(7));
    assert_eq!(retry_after(&date, at(784_111_778)), Duration::ZERO);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(Does::AnswersAll(OK)).await;
    let moved: &'static str = Box::leak(
        format!(
            "HTTP/1.1 307 Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        )
        .into_boxed_str(),
    );
    check(Does::Answers(moved), status(307, None, "", false), 1).await;
    assert_eq!(elsewhere.requests(), 0);
}

/// Story: the server closes an idle connection between two calls. The second call is made on a new one, or is
/// ambiguous; it is never made twice by itself.
#[tokio::test]
async fn a_stale_connection_never_makes_two_requests_of_one_call() {
    for _ in 0..50 {
        let server = Server::start(Does::AnswersOneThenCloses(OK)).await;
        let api = Api::new(&settings(&server.url())).expect("an API");
        assert_eq!(call(&api, permitted()).await, status(201, None, "{}", false));
        server.close.notify_one();
        server.closed.notified().await;
        let report = call(&api, permitted()).await;
        match report {
            Report::Status(reply) => assert_eq!((reply.status, server.requests()), (201, 2)),
            // It was written into the closed connection, where nobody read it.
            Report::Lost(_) | Report::NotSent(_) => assert_eq!(server.requests(), 1, "{report:?}"),
        }
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start(Does::AnswersAll(OK)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    for _ in 0..20 {
        assert_eq!(call(&api, permitted()).await, status(201, None, "{}", false));
    }
    assert_eq!(
        (server.requests(), server.connections.load(Ordering::SeqCst)),
        (20, 1)
    );
}

#[tokio::test]
async fn past_the_deadline_the_server_sees_nothing() {
    let server = Server::start(Does::AnswersAll(OK)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    let permit = Permit::new(Instant::now());
    assert_eq!(
        call(&api, permit.clone()).await,
        Report::NotSent(NotSent::Withheld)
    );
    permit.extend(Instant::now() + Duration::from_secs(60));
    assert_eq!(call(&api, permit).await, status(201, None, "{}", false));
    assert_eq!(server.requests(), 1);
}

#[test]
fn the_order_id_stands_percent_encoded_in_the_address() {
    let url = |template: &str, order_id: &str| {
        Template::new(template)
            .expect("a template")
            .fill(order_id)
            .map(|url| url.to_string())
    };
    let template = "http://host/orders/{order_id}/pay?ref={order_id}";
    assert_eq!(
        url(template, "a-1"),
        Ok("http://host/orders/a-1/pay?ref=a-1".into())
    );
    assert_eq!(
        url(template, "a/../b?x=1#y z%é"),
        Ok("http://host/orders/a%2F..%2Fb%3Fx%3D1%23y%20z%25%C3%A9/pay?ref=a%2F..%2Fb%3Fx%3D1%23y%20z%25%C3%A9".into())
    );
    assert!(url(template, "..").is_err() && url(template, ".").is_err());
    assert_eq!(
        url("http://host/payments", ".."),
        Ok("http://host/payments".into())
    );
}
