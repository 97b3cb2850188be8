//! Response and class of each way in which a server can behave, on real sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pipeline::delivery::{Field, HttpResponse, Lost, NotSent, ResponseClass};
use tokio::net::{TcpListener, TcpStream};

use super::auth::AuthKind;
use super::response::{FieldSettings, OtherwiseSetting};
use super::*;
use server::{Behaviour, OK, Server};

mod hostile;
mod look_up;
mod oauth2;
mod server;
mod tls;

fn settings(url: &str) -> ApiSettings {
    ApiSettings {
        url: url.into(),
        timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(200),
        response_bytes_max: bytesize::ByteSize::b(16),
        ..ApiSettings::default()
    }
}

fn valid_permit() -> SendPermit {
    let permit = SendPermit::new(Instant::now());
    permit.extend(Instant::now() + Duration::from_secs(60));
    permit
}

async fn call(api: &Api, permit: SendPermit) -> Response {
    let order = "{\"order_id\":\"order/1?\"}";
    let facts = Facts {
        order_id: "order/1?",
        idempotency_key: "key-1",
        order,
    };
    let request = api.request(&facts, &Bytes::from_static(order.as_bytes()), None);
    api.call(request.expect("a request"), permit).await
}

/// Makes one call; returns its response, and the class of it by the default settings.
async fn call_class(api: &Api) -> (Response, ResponseClass) {
    let response = call(api, valid_permit()).await;
    let class = api.reader.classifier.class_of(&response);
    (response, class)
}

/// Calls a server that behaves in one way, and checks the response and its class. The server must see one
/// request.
async fn check(behaviour: Behaviour, expected: Response, class: ResponseClass) {
    let server = Server::start(behaviour).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    assert_eq!(call_class(&api).await, (expected, class), "{behaviour:?}");
    assert_eq!(server.requests(), 1, "{behaviour:?}");
}

fn status(status: u16, retry_after: Option<u64>, body: &str, body_cut: bool) -> Response {
    let retry_after = retry_after.map(Duration::from_secs);
    Response::Status(HttpResponse {
        status,
        retry_after,
        body: body.into(),
        body_cut,
        ..HttpResponse::default()
    })
}

/// Checks that a call to an address without a working server counts as not sent.
async fn check_no_connection(url: &str) {
    let api = Api::new(&settings(url)).expect("an API");
    let expected = (Response::NotSent(NotSent::NoConnection), ResponseClass::Retryable);
    assert_eq!(call_class(&api).await, expected, "{url}");
}

#[tokio::test]
async fn failed_connection_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = format!("http://{}/", listener.local_addr().expect("an address"));
    drop(listener);
    check_no_connection(&refused).await;
    // Names under .invalid never exist (RFC 2606).
    check_no_connection("http://api.invalid/payments").await;
}

#[tokio::test]
async fn failed_tls_handshake_is_not_sent() {
    for behaviour in [
        Behaviour::ResetsUnread,
        Behaviour::SaysBeforehand("220 no TLS here\r\n"),
    ] {
        let server = Server::start(behaviour).await;
        check_no_connection(&server.url().replace("http:", "https:")).await;
        assert_eq!(server.requests(), 0, "{behaviour:?}");
    }
}

/// A listener whose queue is full neither accepts nor refuses new connections.
#[tokio::test]
async fn timeout_while_connecting_is_not_sent() {
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
        let response = call(&api, valid_permit()).await;
        assert_eq!(
            response,
            Response::NotSent(NotSent::NoConnection),
            "{timeout} {connect_timeout}"
        );
    }
}

#[tokio::test]
async fn sent_request_without_a_status_is_ambiguous() {
    for (behaviour, lost) in [
        (Behaviour::ClosesWithoutResponse, Lost::Closed),
        (Behaviour::ResetsWithoutResponse, Lost::Closed),
        (Behaviour::Hangs, Lost::TimedOut),
        (Behaviour::Responds("HTTP/1.1 2"), Lost::Closed),
        (Behaviour::Responds("HTTP/1.1 200 OK\r\ncontent-le"), Lost::Closed),
        (Behaviour::Responds("SMTP ready\r\n\r\n"), Lost::NotHttp),
    ] {
        check(behaviour, Response::Lost(lost), ResponseClass::Ambiguous).await;
    }
}

/// A connection has served one call. The next request is written to it, and then it closes.
#[tokio::test]
async fn closed_pool_connection_is_ambiguous() {
    for behaviour in [
        Behaviour::RespondsOnceThenReadsAndCloses(OK),
        Behaviour::RespondsOnceThenReadsAndResets(OK),
    ] {
        let server = Server::start(behaviour).await;
        let api = Api::new(&settings(&server.url())).expect("an API");
        let first = (status(201, None, "{}", false), ResponseClass::Accepted);
        assert_eq!(call_class(&api).await, first, "{behaviour:?}");
        let second = (Response::Lost(Lost::Closed), ResponseClass::Ambiguous);
        assert_eq!(call_class(&api).await, second, "{behaviour:?}");
        let seen = (server.requests(), server.connections.load(Ordering::SeqCst));
        assert_eq!(seen, (2, 1), "{behaviour:?}");
    }
}

/// The kernel accepts the request before the reset arrives, or not. Both responses are correct, and neither
/// makes a second request.
#[tokio::test]
async fn early_reset_is_not_a_response() {
    let server = Server::start(Behaviour::ResetsUnread).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    let response = call(&api, valid_permit()).await;
    let expected = [
        Response::Lost(Lost::Closed),
        Response::NotSent(NotSent::NoConnection),
        Response::NotSent(NotSent::NotWritten),
    ];
    assert!(expected.contains(&response), "{response:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn status_decides_the_class() {
    for (code, class) in [
        (200, ResponseClass::Accepted),
        (202, ResponseClass::Accepted),
        (400, ResponseClass::Rejected),
        (403, ResponseClass::Rejected),
        (422, ResponseClass::Rejected),
        (401, ResponseClass::Retryable),
        (429, ResponseClass::Retryable),
        (408, ResponseClass::Ambiguous),
        (409, ResponseClass::Ambiguous),
        (500, ResponseClass::Ambiguous),
        (502, ResponseClass::Ambiguous),
        (303, ResponseClass::Ambiguous),
        (503, ResponseClass::Ambiguous),
        (504, ResponseClass::Ambiguous),
    ] {
        let text = leaked(format!("HTTP/1.1 {code} So\r\ncontent-length: 0\r\n\r\n"));
        check(Behaviour::Responds(text), status(code, None, "", false), class).await;
    }
    let with_retry_after = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    check(
        Behaviour::Responds(with_retry_after),
        status(503, Some(7), "", false),
        ResponseClass::Ambiguous,
    )
    .await;
    let unreadable = "HTTP/1.1 503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n";
    check(
        Behaviour::Responds(unreadable),
        status(503, Some(0), "", false),
        ResponseClass::Ambiguous,
    )
    .await;
}

/// The peer's kernel takes no more of the request, as if packets were lost. The library's own timeout is 30 s.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn kernel_drops_a_request_after_the_timeout() {
    let server = Server::start(Behaviour::ReadsNothing).await;
    let api = Api::new(&ApiSettings {
        timeout: Duration::from_secs(25),
        transport_timeout: Duration::from_secs(1),
        ..settings(&server.url())
    })
    .expect("an API");
    let facts = Facts {
        order_id: "order-1",
        idempotency_key: "key-1",
        order: "{}",
    };
    // More than the buffers of both sockets.
    let order = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let request = api.request(&facts, &order, None).expect("a request");
    let started = Instant::now();
    let response = api.call(request, valid_permit()).await;
    assert_eq!(response, Response::Lost(Lost::TimedOut));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn retry_after_counts_where_the_settings_say_so() {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(Behaviour::Responds(busy)).await;
    let mut settings = settings(&server.url());
    settings.responses.retry_if_retry_after.push("503".into());
    let api = Api::new(&settings).expect("an API");
    let expected = (status(503, Some(7), "", false), ResponseClass::Retryable);
    assert_eq!(call_class(&api).await, expected);
}

#[tokio::test]
async fn status_counts_even_if_the_body_is_lost() {
    let truncated = "HTTP/1.1 201 Created\r\ncontent-length: 99\r\n\r\n{\"id\":";
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123";
    for (behaviour, expected) in [
        (Behaviour::Responds(OK), status(201, None, "{}", false)),
        (
            Behaviour::Responds(truncated),
            status(201, None, "{\"id\":", true),
        ),
        (
            Behaviour::Responds(long),
            status(200, None, "0123456789012345", true),
        ),
        // The rest of the body never arrives.
        (Behaviour::RespondsToAll(endless), status(200, None, "0123", true)),
    ] {
        check(behaviour, expected, ResponseClass::Accepted).await;
    }
}

/// An API that responds `200 {"result":"ERROR"}`, and settings that read the field.
#[tokio::test]
async fn body_field_overrides_the_status() {
    let of = |body: &str, length: usize| {
        leaked(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    };
    let whole = |body: &str| of(body, body.len());
    let value = |value: &str| Field::Value(value.into());
    // Longer than the 16 bytes of a body that these tests keep.
    let long = r#"{"comment":"more than sixteen bytes","result":"OK","id":17}"#;
    for (text, field, transaction_id, expected) in [
        (
            whole(r#"{"result":"OK"}"#),
            value("OK"),
            None,
            ResponseClass::Accepted,
        ),
        (whole(long), value("OK"), Some("17"), ResponseClass::Accepted),
        (
            whole(r#"{"result":"ERROR"}"#),
            value("ERROR"),
            None,
            ResponseClass::Rejected,
        ),
        (
            whole(r#"{"result":"HM"}"#),
            value("HM"),
            None,
            ResponseClass::Ambiguous,
        ),
        (whole(""), Field::Missing, None, ResponseClass::Ambiguous),
        (
            whole("<p>OK</p>"),
            Field::Unreadable,
            None,
            ResponseClass::Ambiguous,
        ),
        (
            of(r#"{"result":"OK"}"#, 99),
            Field::Unreadable,
            None,
            ResponseClass::Ambiguous,
        ),
    ] {
        let server = Server::start(Behaviour::Responds(text)).await;
        let mut settings = settings(&server.url());
        settings.transaction_id = "/id".into();
        settings.responses.body = vec![FieldSettings {
            statuses: vec!["2xx".into()],
            pointer: "/result".into(),
            accepted: vec!["OK".into()],
            rejected: vec!["ERROR".into()],
            retry: Vec::new(),
            ambiguous: Vec::new(),
            otherwise: OtherwiseSetting::Ambiguous,
        }];
        let api = Api::new(&settings).expect("an API");
        let (response, class) = call_class(&api).await;
        let Response::Status(http) = response else {
            panic!("{text}: {response:?}");
        };
        assert_eq!((http.field, class), (field, expected), "{text}");
        assert_eq!(http.transaction_id.as_deref(), transaction_id, "{text}");
        assert!(http.body.len() <= 16, "{text}");
    }
}

/// A response longer than what is kept of it leaves its connection usable.
#[tokio::test]
async fn long_response_keeps_its_connection() {
    let body = "x".repeat(20_000);
    let text = leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    let server = Server::start(Behaviour::RespondsToAll(text)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    for _ in 0..3 {
        assert_eq!(
            call(&api, valid_permit()).await,
            status(200, None, &"x".repeat(16), true)
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(Behaviour::RespondsToAll(OK)).await;
    for code in [301, 302, 303, 307, 308] {
        let moved = leaked(format!(
            "HTTP/1.1 {code} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        ));
        check(
            Behaviour::Responds(moved),
            status(code, None, "", false),
            ResponseClass::Ambiguous,
        )
        .await;
    }
    assert_eq!(elsewhere.requests(), 0);
}

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The server closes an idle connection between two calls. The second call uses a new connection or is
/// ambiguous; the client never repeats it by itself.
#[tokio::test]
async fn stale_connection_never_repeats_a_call() {
    for _ in 0..50 {
        let server = Server::start(Behaviour::RespondsOnceThenCloses(OK)).await;
        let api = Api::new(&settings(&server.url())).expect("an API");
        assert_eq!(call(&api, valid_permit()).await, status(201, None, "{}", false));
        server.close.notify_one();
        server.closed.notified().await;
        let response = call(&api, valid_permit()).await;
        match response {
            Response::Status(http) => assert_eq!((http.status, server.requests()), (201, 2)),
            // Written into the closed connection, where the server did not read it.
            Response::Lost(_) | Response::NotSent(_) => assert_eq!(server.requests(), 1, "{response:?}"),
        }
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Server::start(Behaviour::RespondsToAll(OK)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    for _ in 0..20 {
        assert_eq!(call(&api, valid_permit()).await, status(201, None, "{}", false));
    }
    assert_eq!(
        (server.requests(), server.connections.load(Ordering::SeqCst)),
        (20, 1)
    );
}

#[tokio::test]
async fn expired_permit_sends_nothing() {
    let server = Server::start(Behaviour::RespondsToAll(OK)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    let permit = SendPermit::new(Instant::now());
    assert_eq!(
        call(&api, permit.clone()).await,
        Response::NotSent(NotSent::Withheld)
    );
    permit.extend(Instant::now() + Duration::from_secs(60));
    assert_eq!(call(&api, permit).await, status(201, None, "{}", false));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn request_has_the_headers_of_the_settings() {
    let server = Server::start(Behaviour::RespondsToAll(OK)).await;
    let mut settings = settings(&format!("{}/{{order_id}}", server.url()));
    settings.headers = [("X-Order".into(), "no. {order_id}".into())].into();
    settings.method = "PUT".into();
    let api = Api::new(&settings).expect("an API");
    call(&api, valid_permit()).await;
    let head = server.heads().remove(0);
    for part in [
        "PUT /payments/order%2F1%3F HTTP/1.1\r\n",
        "content-type: application/json\r\n",
        "idempotency-key: key-1\r\n",
        "x-order: no. order/1?\r\n",
        "traceparent: 00-",
        "content-length: 23\r\n",
        "\r\n\r\n{\"order_id\":\"order/1?\"}",
    ] {
        assert!(head.contains(part), "{part:?} is not in {head}");
    }
}

#[test]
fn shown_request_hides_its_secrets() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "s3cret-of-the-api").expect("written");
    let mut settings = settings("http://127.0.0.1:9/payments/{order_id}");
    let secret: service::secrets::SecretSource =
        serde_json::from_value(format!("file:{}", file.path().display()).into()).expect("a source");
    settings.auth.kind = AuthKind::Bearer;
    settings.auth.secret = secret.clone();
    settings.signature.header = "x-signature".into();
    settings.signature.secret = secret;
    let api = Api::new(&settings).expect("an API");
    let facts = Facts {
        order_id: "o-1",
        idempotency_key: "k-1",
        order: "{}",
    };
    let request = api.request(&facts, &Bytes::from_static(b"{}"), None);
    let shown = api.shown(&request.expect("a request"));
    for part in [
        "POST http://127.0.0.1:9/payments/o-1\n",
        "idempotency-key: k-1\n",
        "authorization: (hidden)\n",
        "x-signature: (hidden)\n",
        "\n\n{}",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains("s3cret"), "{shown}");
}
