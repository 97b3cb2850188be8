//! Look-ups, on real sockets: only a clear response counts.

use pipeline::delivery::LookupResult;

use super::server::{Behaviour, Server};
use super::*;

async fn check(behaviour: Behaviour, expected: LookupResult) -> Server {
    let server = Server::start(behaviour).await;
    let api_settings = settings(&server.url());
    let verify = VerifySettings {
        url: format!("{}/{{order_id}}", server.url()),
        ..VerifySettings::default()
    };
    let api = Api::new(&api_settings)
        .and_then(|api| api.with_look_ups(&verify, &api_settings))
        .expect("an API");
    let order = "{\"order_id\":\"order/1?\"}";
    let facts = Facts {
        order_id: "order/1?",
        idempotency_key: "key-1",
        order,
    };
    let call = api.request(&facts, &Bytes::from_static(order.as_bytes()), None);
    let request = api.look_up_request(&facts, &call.expect("a request"));
    let response = api.look_up(request.expect("a look-up")).await;
    let classifier = verify
        .verify(&ApiSettings::default())
        .expect("valid settings")
        .classifier;
    assert_eq!(
        LookupResult::from(classifier.class_of(&response)),
        expected,
        "{behaviour:?}: {response:?}"
    );
    server
}

#[tokio::test]
async fn unclear_look_up_is_unknown() {
    const FOUND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    const BROKEN: &str = "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n";
    const ELSEWHERE: &str = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    let server = check(Behaviour::Responds(FOUND), LookupResult::Found).await;
    let heads = server.heads();
    assert!(
        heads.len() == 1 && heads[0].starts_with("GET ") && heads[0].contains("/order%2F1%3F "),
        "{heads:?}"
    );
    check(Behaviour::Responds(NOT_FOUND), LookupResult::NotFound).await;
    check(Behaviour::Responds(BROKEN), LookupResult::Unknown).await;
    check(Behaviour::Responds(ELSEWHERE), LookupResult::Unknown).await;
    for behaviour in [
        Behaviour::Hangs,
        Behaviour::ResetsUnread,
        Behaviour::ClosesWithoutResponse,
        Behaviour::ResetsWithoutResponse,
    ] {
        check(behaviour, LookupResult::Unknown).await;
    }
}
