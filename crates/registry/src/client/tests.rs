use std::sync::Mutex;

use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;
use service::secrets::SecretSource;

use super::*;

/// Response to a request for this path with these headers.
type Answering = fn(&str, &HeaderMap) -> (u16, String);

/// Runs a registry, and asks a client with these settings, and the registry's URL, for schema 1.
fn asked(answering: Answering, change: impl FnOnce(&mut RegistrySettings, String)) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
            // A version that others refer to may be deleted.
            let is_found = !uri.path().contains("/versions/") || uri.query() == Some("deleted=true");
            let (status, body) = match is_found {
                true => answering(uri.path(), &headers),
                false => (404, json!({"error_code": 40402}).to_string()),
            };
            let status = StatusCode::from_u16(status).expect("a status");
            // Of a meaning in redirects alone.
            (status, [(LOCATION, "/elsewhere")], body)
        });
        tokio::spawn(async { axum::serve(listener, router).await });
        let mut settings = RegistrySettings::default();
        change(&mut settings, url);
        let client = RegistryClient::new(&settings).expect("a client");
        client.schema(SchemaId(1)).await
    })
}

fn at_url(settings: &mut RegistrySettings, url: String) {
    settings.urls = vec![url];
}

/// Schema of Avro that refers to these subjects.
fn referring(subjects: impl IntoIterator<Item = usize>) -> (u16, String) {
    let references = subjects.into_iter().map(
        |subject| json!({"name": format!("n{subject}"), "subject": format!("s{subject}"), "version": 1}),
    );
    let references: Vec<_> = references.collect();
    let schema = json!({"schema": "\"string\"", "references": references});
    (200, schema.to_string())
}

/// Number in a path such as `/subjects/s7/versions/1`; 0 in that of the schema.
fn subject(path: &str) -> usize {
    let name = path.split('/').nth(2).unwrap_or_default();
    name.trim_start_matches('s').parse().unwrap_or(0)
}

fn unusable(answer: Result<Answer, String>) -> String {
    match answer {
        Ok(Answer::Unusable(Unusable(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn schema_that_never_ends_is_unusable() {
    // Each schema refers to the next one.
    let deep = asked(
        |path, _| referring((subject(path) < 20).then_some(subject(path) + 1)),
        at_url,
    );
    assert!(unusable(deep).contains("through more than 16"));
    let wide = asked(
        |path, _| match subject(path) {
            0 => referring(1..=65),
            _ => (200, json!({"schema": "\"string\""}).to_string()),
        },
        at_url,
    );
    assert!(unusable(wide).contains("more than 64 schemas"));
}

#[test]
fn deleted_reference_is_followed() {
    let found = |path: &str, _: &HeaderMap| match subject(path) {
        0 => referring([1]),
        _ => (200, json!({"schema": "\"string\""}).to_string()),
    };
    let answer = asked(found, at_url);
    assert!(matches!(answer, Ok(Answer::Known(_))), "{answer:?}");
}

#[test]
fn circle_of_references_ends() {
    // Known by its name the second time.
    let circle = asked(|path, _| referring([1 - subject(path).min(1)]), at_url).expect("an answer");
    assert!(
        !format!("{circle:?}").contains("refers to more than"),
        "{circle:?}"
    );
}

#[test]
fn schema_beyond_the_limit_is_not_read() {
    let large = asked(
        |_, _| (200, json!({"schema": "x".repeat(RESPONSE_BYTES_MAX)}).to_string()),
        at_url,
    );
    assert!(unusable(large).contains("2097152 bytes"));
    // A long error says nothing of the schema.
    let error = asked(|_, _| (500, "x".repeat(RESPONSE_BYTES_MAX + 1)), at_url);
    assert!(
        error
            .expect_err("no answer")
            .contains("responded 500 with too much")
    );
}

#[test]
fn next_url_is_asked_where_one_does_not_answer() {
    let found = |path: &str, _: &HeaderMap| match path {
        "/path/schemas/ids/1" => (200, json!({"schema": "\"string\""}).to_string()),
        _ => (503, String::new()),
    };
    let answer = asked(found, |settings, url| {
        // The first listens on no port, the second has no such path.
        settings.urls = vec!["http://127.0.0.1:1".into(), url.clone(), format!("{url}/path")];
    });
    assert!(matches!(answer, Ok(Answer::Known(_))), "{answer:?}");
    let none = asked(
        |_, _| (503, String::new()),
        |settings, url| {
            settings.urls = vec!["http://127.0.0.1:1".into(), url];
        },
    );
    let why = none.expect_err("no answer");
    assert!(
        why.contains("127.0.0.1:1/schemas/ids/1 failed") && why.contains("responded 503"),
        "{why}"
    );
}

#[test]
fn answer_of_the_first_url_counts() {
    static ASKED: Mutex<u32> = Mutex::new(0);
    let unknown = |_: &str, _: &HeaderMap| {
        *ASKED.lock().expect("not poisoned") += 1;
        (404, json!({"error_code": 40403}).to_string())
    };
    let answer = asked(unknown, |settings, url| settings.urls = vec![url.clone(), url]);
    assert!(matches!(answer, Ok(Answer::Unknown(_))), "{answer:?}");
    assert_eq!(*ASKED.lock().expect("not poisoned"), 1);
}

#[test]
fn credentials_are_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "hunter2\n").expect("written");
    let with = |kind, user: &str, answering: Answering| {
        asked(answering, |settings, url| {
            settings.urls = vec![url];
            settings.auth.kind = kind;
            settings.auth.user = user.to_owned();
            settings.auth.secret = SecretSource::File(file.clone());
        })
    };
    fn only_for(headers: &HeaderMap, expected: &str) -> (u16, String) {
        match headers.get(AUTHORIZATION).is_some_and(|value| value == expected) {
            true => (200, json!({"schema": "\"string\""}).to_string()),
            false => (401, String::new()),
        }
    }
    // `ann:hunter2` in Base64.
    let basic = with(RegistryAuthKind::Basic, "ann", |_, headers| {
        only_for(headers, "Basic YW5uOmh1bnRlcjI=")
    });
    assert!(matches!(basic, Ok(Answer::Known(_))), "{basic:?}");
    let bearer = with(RegistryAuthKind::Bearer, "", |_, headers| {
        only_for(headers, "Bearer hunter2")
    });
    assert!(matches!(bearer, Ok(Answer::Known(_))), "{bearer:?}");
    let other = with(RegistryAuthKind::Bearer, "", |_, headers| {
        only_for(headers, "Bearer other")
    });
    let why = other.expect_err("no answer");
    assert!(why.contains("401") && !why.contains("hunter2"), "{why}");
}

/// Credentials must not follow to another host.
#[test]
fn redirects_are_not_followed() {
    let moved = asked(
        |path, _| match path {
            "/elsewhere" => (200, json!({"schema": "\"string\""}).to_string()),
            _ => (302, String::new()),
        },
        at_url,
    );
    assert!(moved.expect_err("no answer").contains("302"));
}
