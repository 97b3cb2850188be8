//! Records of requests and charges.

use legacy_api::{Accepted, ChargeLine, Decision, Lookup, RequestLine};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::client::{Api, payment, receive, request};

async fn pay_with_key(api: &Api, order_id: &str, key: &str) -> Accepted {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let sent = payment(order_id, &format!("Idempotency-Key: {key}\r\n"));
    stream.write_all(sent.as_bytes()).await.unwrap();
    let seen = receive(&mut stream).await;
    assert_eq!(seen.status(), 201, "{seen:?}");
    serde_json::from_str(seen.body()).unwrap()
}

#[tokio::test]
async fn repeated_call_charges_twice_and_is_recorded() {
    let api = Api::start(|_| {}).await;
    let first = pay_with_key(&api, "o-1", "k-1").await;
    let second = pay_with_key(&api, "o-1", "k-1").await;
    pay_with_key(&api, "o-2", "k-2").await;
    assert_eq!(
        (first.order_id.as_str(), first.status.as_str()),
        ("o-1", "ACCEPTED")
    );
    assert_ne!(first.transaction_id, second.transaction_id);

    let lookup: Lookup = api.get("/payments/o-1").await;
    assert_eq!(
        (lookup.charges, lookup.transaction_ids),
        (2, vec![first.transaction_id, second.transaction_id])
    );
    let lines: Vec<RequestLine> = api.lines("/requests").await;
    let requests: Vec<_> = lines
        .iter()
        .map(|line| (line.sequence, line.order_id.as_str(), line.nth))
        .collect();
    assert_eq!(requests, [(0, "o-1", 1), (1, "o-1", 2), (2, "o-2", 1)]);
    assert!(
        lines
            .iter()
            .all(|line| line.answered == Some(201) && line.idempotency_key.is_some())
    );
    let charges: Vec<ChargeLine> = api.lines("/charges").await;
    let charges: Vec<_> = charges
        .iter()
        .map(|line| (line.charges, line.requests, &line.idempotency_keys[..]))
        .collect();
    assert_eq!(
        charges,
        [(2, 2, &["k-1".to_owned()][..]), (1, 1, &["k-2".to_owned()][..])]
    );
    let stats = api.stats().await;
    assert_eq!((stats.requests, stats.charges, stats.orders_charged), (3, 3, 2));
    assert_eq!(stats.orders_charged_more_than_once, 1);
}

#[tokio::test]
async fn honoured_key_gets_the_first_response_again() {
    let api = Api::start(|settings| settings.honour_idempotency_key = true).await;
    let first = pay_with_key(&api, "o-1", "k-1").await;
    assert_eq!(pay_with_key(&api, "o-1", "k-1").await, first);
    let lines: Vec<RequestLine> = api.lines("/requests?order_id=o-1").await;
    let decisions: Vec<_> = lines.iter().map(|line| line.decision).collect();
    assert_eq!(decisions, [Some(Decision::Charged), Some(Decision::Replayed)]);
    assert_eq!(api.get::<Lookup>("/payments/o-1").await.charges, 1);
}

#[tokio::test]
async fn many_lines_arrive_complete_and_in_order() {
    let api = Api::start(|_| {}).await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    for n in 0..1000 {
        stream
            .write_all(payment(&format!("o-{n}"), "").as_bytes())
            .await
            .unwrap();
        assert_eq!(receive(&mut stream).await.status(), 201);
    }
    let lines: Vec<RequestLine> = api.lines("/requests").await;
    assert!(
        lines
            .iter()
            .zip(0..)
            .all(|(line, n)| line.sequence == n && line.order_id == format!("o-{n}"))
    );
    assert_eq!(lines.len(), 1000);
    assert_eq!(api.lines::<ChargeLine>("/charges").await.len(), 1000);
}

#[tokio::test]
async fn order_id_may_be_any_text() {
    let api = Api::start(|_| {}).await;
    assert_eq!(api.pay("a/b \u{fc}%\\\"").await.status(), 201);
    let lookup: Lookup = api.get("/payments/a%2Fb%20%C3%BC%25%22").await;
    assert_eq!(lookup.order_id, "a/b \u{fc}%\"");
    let lines: Vec<RequestLine> = api.lines("/requests?order_id=a%2Fb+%C3%BC%25%22").await;
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn malformed_order_is_refused_and_not_recorded() {
    let api = Api::start(|_| {}).await;
    for body in [
        "",
        "no json",
        "[]",
        r#"{"order":"o"}"#,
        r#"{"order_id":""}"#,
        r#"{"order_id":7}"#,
    ] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream
            .write_all(request("POST", "/payments", "", body).as_bytes())
            .await
            .unwrap();
        assert_eq!(receive(&mut stream).await.status(), 400, "{body}");
    }
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = "POST /payments HTTP/1.1\r\nhost: api\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; 2_200_000]).await.unwrap();
    assert_eq!(receive(&mut stream).await.status(), 413);
    let stats = api.stats().await;
    assert_eq!((stats.malformed, stats.requests), (7, 0));
}

#[tokio::test]
async fn incomplete_request_is_not_processed() {
    let api = Api::start(|_| {}).await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let whole = payment("o-1", "");
    stream
        .write_all(&whole.as_bytes()[..whole.len() - 1])
        .await
        .unwrap();
    drop(stream);
    while api.stats().await.incomplete == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.stats().await.requests, 0);
    assert_eq!(api.ask("GET", "/payments/o-1", "").await.status(), 404);
}

#[tokio::test]
async fn full_record_refuses_payments() {
    let api = Api::start(|settings| settings.requests_max = 1).await;
    assert_eq!(api.pay("o-1").await.status(), 201);
    let seen = api.pay("o-2").await;
    assert_eq!(seen.status(), 507);
    assert!(seen.body().contains("--requests-max"), "{seen:?}");
    assert_eq!(api.ask("GET", "/payments/o-2", "").await.status(), 404);
    let stats = api.stats().await;
    assert_eq!((stats.requests, stats.refused_full), (1, 1));
}
