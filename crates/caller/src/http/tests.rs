//! What each misbehaviour of a server is reported as, on real sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pipeline::delivery::{Field, HttpResponse, Lost, NotSent, ResponseClass};
use tokio::net::{TcpListener, TcpStream};

use super::answers::{FieldSettings, OtherwiseSetting};
use super::*;
use server::{Does, OK, Server};

mod lookup;
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

fn permitted() -> ExtendLease {
    let permit = ExtendLease::new(Instant::now());
    permit.extend(Instant::now() + Duration::from_secs(60));
    permit
}

async fn call(api: &Api, permit: ExtendLease) -> Response {
    let order = "{\"order_id\":\"order/1?\"}";
    let facts = Facts {
        order_id: "order/1?",
        idempotency_key: "key-1",
        order,
    };
    let request = api.request(&facts, &Bytes::from_static(order.as_bytes()), None);
    api.call(request.expect("a request"), permit).await
}

/// Makes one call; returns what it is reported as and what that means by the default settings.
async fn answered(api: &Api) -> (Response, ResponseClass) {
    let report = call(api, permitted()).await;
    let answer = api.reading.classes.class_of(&report);
    (report, answer)
}

/// One row of the table: the server does this, and that is what it means. The server sees one request.
async fn check(does: Does, expected: Response, answer: ResponseClass) {
    let server = Server::start(does).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    assert_eq!(answered(&api).await, (expected, answer), "{does:?}");
    assert_eq!(server.requests(), 1, "{does:?}");
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

/// Nothing answers there, or not in the language that was asked for.
async fn check_no_connection(url: &str) {
    let api = Api::new(&settings(url)).expect("an API");
    let expected = (Response::NotSent(NotSent::NoConnection), ResponseClass::Retryable);
    assert_eq!(answered(&api).await, expected, "{url}");
}

#[tokio::test]
async fn what_could_not_connect_was_surely_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = format!("http://{}/", listener.local_addr().expect("an address"));
    drop(listener);
    check_no_connection(&refused).await;
    // Names under .invalid never exist (RFC 2606).
    check_no_connection("http://api.invalid/payments").await;
}

#[tokio::test]
async fn a_failed_tls_handshake_was_surely_not_sent() {
    for does in [Does::ResetsUnread, Does::SaysBeforehand("220 no TLS here\r\n")] {
        let server = Server::start(does).await;
        check_no_connection(&server.url().replace("http:", "https:")).await;
        assert_eq!(server.requests(), 0, "{does:?}");
    }
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
            Response::NotSent(NotSent::NoConnection),
            "{timeout} {connect_timeout}"
        );
    }
}

#[tokio::test]
async fn once_it_left_and_no_status_came_nobody_can_know() {
    for (does, lost) in [
        (Does::ClosesUnanswered, Lost::Closed),
        (Does::ResetsUnanswered, Lost::Closed),
        (Does::Hangs, Lost::TimedOut),
        (Does::Answers("HTTP/1.1 2"), Lost::Closed),
        (Does::Answers("HTTP/1.1 200 OK\r\ncontent-le"), Lost::Closed),
        (Does::Answers("SMTP ready\r\n\r\n"), Lost::NotHttp),
    ] {
        check(does, Response::Lost(lost), ResponseClass::Ambiguous).await;
    }
}

/// Story: a connection has served one call. The next one is written to it, and then it ends.
#[tokio::test]
async fn a_used_connection_that_ends_before_an_answer_is_ambiguous() {
    for does in [
        Does::AnswersOneReadsAnotherAndCloses(OK),
        Does::AnswersOneReadsAnotherAndResets(OK),
    ] {
        let server = Server::start(does).await;
        let api = Api::new(&settings(&server.url())).expect("an API");
        let first = (status(201, None, "{}", false), ResponseClass::Accepted);
        assert_eq!(answered(&api).await, first, "{does:?}");
        let second = (Response::Lost(Lost::Closed), ResponseClass::Ambiguous);
        assert_eq!(answered(&api).await, second, "{does:?}");
        let seen = (server.requests(), server.connections.load(Ordering::SeqCst));
        assert_eq!(seen, (2, 1), "{does:?}");
    }
}

/// The kernel takes the request before the reset arrives, or not: both are honest, and neither is a
/// second request.
#[tokio::test]
async fn a_reset_before_anything_was_read_is_not_taken_for_an_answer() {
    let server = Server::start(Does::ResetsUnread).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    let report = call(&api, permitted()).await;
    let expected = [
        Response::Lost(Lost::Closed),
        Response::NotSent(NotSent::NoConnection),
        Response::NotSent(NotSent::NotWritten),
    ];
    assert!(expected.contains(&report), "{report:?}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_status_decides_by_its_class() {
    for (code, answer) in [
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
        (503, ResponseClass::Ambiguous),
        (504, ResponseClass::Ambiguous),
    ] {
        let text = leaked(format!("HTTP/1.1 {code} So\r\ncontent-length: 0\r\n\r\n"));
        check(Does::Answers(text), status(code, None, "", false), answer).await;
    }
    let told = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    check(
        Does::Answers(told),
        status(503, Some(7), "", false),
        ResponseClass::Retryable,
    )
    .await;
    let unreadable = "HTTP/1.1 503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n";
    check(
        Does::Answers(unreadable),
        status(503, Some(0), "", false),
        ResponseClass::Retryable,
    )
    .await;
}

#[tokio::test]
async fn a_status_counts_whatever_becomes_of_its_body() {
    let truncated = "HTTP/1.1 201 Created\r\ncontent-length: 99\r\n\r\n{\"id\":";
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123";
    for (does, expected) in [
        (Does::Answers(OK), status(201, None, "{}", false)),
        (Does::Answers(truncated), status(201, None, "{\"id\":", true)),
        (Does::Answers(long), status(200, None, "0123456789012345", true)),
        // Its end never comes.
        (Does::AnswersAll(endless), status(200, None, "0123", true)),
    ] {
        check(does, expected, ResponseClass::Accepted).await;
    }
}

/// An API that says `200 {"result":"ERROR"}`, and settings that know of it.
#[tokio::test]
async fn a_field_of_the_body_has_the_last_word() {
    let of = |body: &str, length: usize| {
        leaked(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    };
    let whole = |body: &str| of(body, body.len());
    let value = |value: &str| Field::Value(value.into());
    // Longer than what is kept of a body: 16 bytes in these tests.
    let long = r#"{"comment":"more than sixteen bytes","result":"OK","id":17}"#;
    for (answer, field, transaction_id, expected) in [
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
        let server = Server::start(Does::Answers(answer)).await;
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
        let (report, meaning) = answered(&api).await;
        let Response::Status(reply) = report else {
            panic!("{answer}: {report:?}");
        };
        assert_eq!((reply.field, meaning), (field, expected), "{answer}");
        assert_eq!(reply.transaction_id.as_deref(), transaction_id, "{answer}");
        assert!(reply.body.len() <= 16, "{answer}");
    }
}

/// The connection stays usable when an answer is longer than what is kept of it.
#[tokio::test]
async fn a_long_answer_does_not_cost_its_connection() {
    let body = "x".repeat(20_000);
    let answer = leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    let server = Server::start(Does::AnswersAll(answer)).await;
    let api = Api::new(&settings(&server.url())).expect("an API");
    for _ in 0..3 {
        assert_eq!(
            call(&api, permitted()).await,
            status(200, None, &"x".repeat(16), true)
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(Does::AnswersAll(OK)).await;
    for code in [301, 302, 303, 307, 308] {
        let moved = leaked(format!(
            "HTTP/1.1 {code} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        ));
        check(
            Does::Answers(moved),
            status(code, None, "", false),
            ResponseClass::Rejected,
        )
        .await;
    }
    assert_eq!(elsewhere.requests(), 0);
}

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
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
            Response::Status(reply) => assert_eq!((reply.status, server.requests()), (201, 2)),
            // It was written into the closed connection, where nobody read it.
            Response::Lost(_) | Response::NotSent(_) => assert_eq!(server.requests(), 1, "{report:?}"),
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
    let permit = ExtendLease::new(Instant::now());
    assert_eq!(
        call(&api, permit.clone()).await,
        Response::NotSent(NotSent::Withheld)
    );
    permit.extend(Instant::now() + Duration::from_secs(60));
    assert_eq!(call(&api, permit).await, status(201, None, "{}", false));
    assert_eq!(server.requests(), 1);
}

/// What each request says, as a server reads it.
#[tokio::test]
async fn a_request_carries_what_the_settings_say() {
    let server = Server::start(Does::AnswersAll(OK)).await;
    let mut settings = settings(&format!("{}/{{order_id}}", server.url()));
    settings.headers = [("X-Order".into(), "no. {order_id}".into())].into();
    settings.method = "PUT".into();
    let api = Api::new(&settings).expect("an API");
    call(&api, permitted()).await;
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
