//! OAuth2 tokens: one request serves all calls, nothing is sent without one, and a refused one is not reused.

use std::io::Write as _;
use std::time::Duration;

use super::*;
use service::secrets::SecretSource;

use crate::http::auth::AuthKind;

fn granting(token: &str) -> &'static str {
    let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
    leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// API with a token endpoint.
struct Fixture {
    endpoint: Server,
    server: Server,
    api: Api,
    _secret: tempfile::NamedTempFile,
}

impl Fixture {
    async fn new(endpoint: Behaviour, behaviour: Behaviour) -> Self {
        let (endpoint, server) = (Server::start(endpoint).await, Server::start(behaviour).await);
        let mut secret = tempfile::NamedTempFile::new().expect("a file");
        secret.write_all(b"p/w").expect("written");
        let mut settings = settings(&server.url());
        settings.timeout = Duration::from_secs(10);
        settings.auth.kind = AuthKind::OAuth2;
        settings.auth.secret = SecretSource::File(secret.path().into());
        settings.auth.oauth2.token_url = endpoint.url();
        settings.auth.oauth2.client_id = "the client".into();
        settings.auth.oauth2.scope = "pay refund".into();
        Self {
            endpoint,
            server,
            api: Api::new(&settings).expect("an API"),
            _secret: secret,
        }
    }

    /// Makes 64 concurrent calls, which must all get the same response; returns it.
    async fn call_all(&self) -> Response {
        let calls: Vec<_> = (0..64).map(|_| call(&self.api, valid_permit())).collect();
        let mut responses = Vec::new();
        for response in futures_of(calls).await {
            responses.push(response);
        }
        assert!(
            responses.iter().all(|response| *response == responses[0]),
            "{responses:?}"
        );
        responses.remove(0)
    }
}

async fn futures_of<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn one_token_serves_many_calls() {
    let fixture = Fixture::new(
        Behaviour::RespondsToAll(granting("t-1")),
        Behaviour::RespondsToAll(OK),
    )
    .await;
    assert_eq!(fixture.call_all().await, status(201, None, "{}", false));
    assert_eq!(fixture.call_all().await, status(201, None, "{}", false));
    assert_eq!((fixture.endpoint.requests(), fixture.server.requests()), (1, 128));
    let request = fixture.endpoint.heads().remove(0);
    // "the client" and "p/w", each encoded as in a form, and joined.
    assert!(
        request.contains("authorization: Basic dGhlJTIwY2xpZW50OnAlMkZ3"),
        "{request}"
    );
    assert!(
        request.contains("grant_type=client_credentials&scope=pay%20refund"),
        "{request}"
    );
    assert!(
        fixture
            .server
            .heads()
            .iter()
            .all(|head| head.contains("authorization: Bearer t-1")),
        "a call without a token"
    );
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    for endpoint in [
        Behaviour::RespondsToAll("HTTP/1.1 500 So\r\ncontent-length: 0\r\n\r\n"),
        Behaviour::RespondsToAll("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
        Behaviour::ClosesWithoutResponse,
    ] {
        let fixture = Fixture::new(endpoint, Behaviour::RespondsToAll(OK)).await;
        assert_eq!(
            fixture.call_all().await,
            Response::NotSent(NotSent::NoCredentials),
            "{endpoint:?}"
        );
        assert_eq!(
            (fixture.endpoint.requests(), fixture.server.requests()),
            (1, 0),
            "{endpoint:?}"
        );
    }
}

/// The API refuses a token before it expires. Calls wait for a new one, which is requested after a pause.
#[tokio::test]
async fn a_refused_token_is_replaced() {
    let refusal = "HTTP/1.1 401 So\r\ncontent-length: 0\r\n\r\n";
    let fixture = Fixture::new(
        Behaviour::RespondsToAll(granting("t-1")),
        Behaviour::RespondsToAll(refusal),
    )
    .await;
    assert_eq!(
        call_class(&fixture.api).await,
        (status(401, None, "", false), ResponseClass::Retryable)
    );
    let next = call_class(&fixture.api).await;
    assert_eq!(
        next,
        (
            Response::NotSent(NotSent::NoCredentials),
            ResponseClass::Retryable
        )
    );
    let started = Instant::now();
    while fixture.endpoint.requests() < 2 {
        call(&fixture.api, valid_permit()).await;
        assert!(started.elapsed() < Duration::from_secs(10), "no new token");
    }
    assert!(
        started.elapsed() > Duration::from_millis(500),
        "requested at once"
    );
}
