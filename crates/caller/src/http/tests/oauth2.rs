//! Tokens: one request for all calls, nothing sent without one, and none that the API has refused.

use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::http::auth::{AuthKind, SecretSource};

fn granting(token: &str) -> &'static str {
    let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
    leaked(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// An API, and where its tokens come from.
struct Scene {
    endpoint: Server,
    server: Server,
    api: Api,
    _secret: tempfile::NamedTempFile,
}

impl Scene {
    async fn new(endpoint: Does, does: Does) -> Self {
        let (endpoint, server) = (Server::start(endpoint).await, Server::start(does).await);
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

    /// Many calls at once; all come to the same.
    async fn call_all(&self) -> Response {
        let calls: Vec<_> = (0..64).map(|_| call(&self.api, permitted())).collect();
        let mut reports = Vec::new();
        for report in futures_of(calls).await {
            reports.push(report);
        }
        assert!(reports.iter().all(|report| *report == reports[0]), "{reports:?}");
        reports.remove(0)
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
    let scene = Scene::new(Does::AnswersAll(granting("t-1")), Does::AnswersAll(OK)).await;
    assert_eq!(scene.call_all().await, status(201, None, "{}", false));
    assert_eq!(scene.call_all().await, status(201, None, "{}", false));
    assert_eq!((scene.endpoint.requests(), scene.server.requests()), (1, 128));
    let asked = scene.endpoint.heads().remove(0);
    // "the client" and "p/w", each encoded as in a form, and joined.
    assert!(
        asked.contains("authorization: Basic dGhlJTIwY2xpZW50OnAlMkZ3"),
        "{asked}"
    );
    assert!(
        asked.contains("grant_type=client_credentials&scope=pay%20refund"),
        "{asked}"
    );
    assert!(
        scene
            .server
            .heads()
            .iter()
            .all(|head| head.contains("authorization: Bearer t-1")),
        "a call without a token"
    );
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_endpoint_is_left_in_peace() {
    for does in [
        Does::AnswersAll("HTTP/1.1 500 So\r\ncontent-length: 0\r\n\r\n"),
        Does::AnswersAll("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
        Does::ClosesUnanswered,
    ] {
        let scene = Scene::new(does, Does::AnswersAll(OK)).await;
        assert_eq!(
            scene.call_all().await,
            Response::NotSent(NotSent::NoCredentials),
            "{does:?}"
        );
        assert_eq!(
            (scene.endpoint.requests(), scene.server.requests()),
            (1, 0),
            "{does:?}"
        );
    }
}

/// Story: the API refuses a token before its time. Calls wait for a new one, which is not asked for at once.
#[tokio::test]
async fn a_refused_token_is_replaced() {
    let refusal = "HTTP/1.1 401 So\r\ncontent-length: 0\r\n\r\n";
    let scene = Scene::new(Does::AnswersAll(granting("t-1")), Does::AnswersAll(refusal)).await;
    assert_eq!(
        answered(&scene.api).await,
        (status(401, None, "", false), ResponseClass::Retryable)
    );
    let next = answered(&scene.api).await;
    assert_eq!(
        next,
        (
            Response::NotSent(NotSent::NoCredentials),
            ResponseClass::Retryable
        )
    );
    let begun = Instant::now();
    while scene.endpoint.requests() < 2 {
        call(&scene.api, permitted()).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "no new token");
    }
    assert!(begun.elapsed() > Duration::from_millis(500), "asked at once");
}
