//! Secrets: no log, metric, endpoint or dead letter contains a secret, even at log level `trace`.
//!
//! Set-up: an API that rejects each order and echoes the whole request in its response. One caller uses basic
//! authentication, the other one OAuth 2, and both sign their requests. The file with the password is
//! readable by everybody.
//!
//! Must hold: neither password, token nor signing key appears anywhere, the dead letters show the echoed
//! request with `[secret]` in their place, and the callers warn of the file's mode and of the refused token
//! requests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::Http;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::Pipeline;
use harness::process::settings::Settings;
use harness::read_back::tail::Tail;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;

use crate::run;

const CALLS: u64 = 20;
const LIMIT: Duration = Duration::from_secs(60);

const PASSWORD: &str = "correct-horse-battery";
/// `order-caller:correct-horse-battery` in base64, as basic authentication sends it.
const BASIC: &str = "b3JkZXItY2FsbGVyOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==";
const SIGNING_KEY: &str = "staple-of-the-signature";
const TOKEN: &str = "token-that-must-not-leak";

/// Secrets that must appear nowhere.
const SECRETS: [&str; 4] = [PASSWORD, BASIC, SIGNING_KEY, TOKEN];

/// Starts an API that responds to each order with 422 and an echo of the request; returns its address.
///
/// At `/token` it refuses the first two requests in the same way, and then issues a token.
fn echoing_api() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening for the echoing API")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        let mut token_requests = 0;
        // One connection at a time is enough: there are few calls, and each response closes its connection.
        for stream in listener.incoming().flatten() {
            // A client that has left needs no response, and the caller sends again what failed.
            let _responded = respond(stream, &mut token_requests);
        }
    });
    Ok(url)
}

fn respond(mut stream: TcpStream, token_requests: &mut u32) -> Result<()> {
    let mut received = Vec::new();
    let text = loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.context("the request has no content-length")?.parse()? {
                break text;
            }
        }
        let mut more = [0; 4096];
        let n = stream.read(&mut more)?;
        ensure!(
            n > 0,
            "the client closed the connection before its request was complete"
        );
        received.extend_from_slice(&more[..n]);
    };
    let is_for_token = text.starts_with("POST /token ");
    *token_requests += u32::from(is_for_token);
    let (status, body) = match is_for_token && *token_requests > 2 {
        true => (
            "200 OK",
            format!(r#"{{"access_token":"{TOKEN}","expires_in":600}}"#),
        ),
        false => ("422 No", text),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// Writes the password to a file that everybody may read, of which the caller must warn; returns its path.
fn secret_file(pipeline: &Pipeline) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let path = pipeline.folder().join("password");
    std::fs::write(&path, format!("{PASSWORD}\n")).context("writing the password")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        .context("setting the mode of the password file")?;
    Ok(path)
}

#[test]
fn secrets_are_never_exposed() {
    run(|| {
        let mut pipeline = Pipeline::create("secrets", 2)?;
        Feed::start(Plan {
            kafka: pipeline.kafka.clone(),
            topic: pipeline.topics.pending.clone(),
            partitions: 2,
            orders: Orders::Generated(Mix::all_new(1)),
            count: CALLS,
            per_second: None,
        })
        .finish()?;
        let api = echoing_api()?;
        let file = format!("file:{}", secret_file(&pipeline)?.display());
        let with = |number: u32| {
            let base = pipeline.caller_settings(number, &format!("{api}/pay"));
            base.with("kafka.group_id", format!("{}-{number}", pipeline.caller_group))
                .with("api.auth.secret", &file)
                .with("api.signature.header", "X-Signature")
                .with("api.signature.secret", "env:OUTBOX_TEST_SIGNING_KEY")
        };
        let basic = with(1)
            .with("api.auth.kind", "basic")
            .with("api.auth.user", "order-caller");
        let oauth2 = with(2)
            .with("api.auth.kind", "oauth2")
            .with("api.auth.oauth2.token_url", format!("{api}/token"))
            .with("api.auth.oauth2.client_id", "order-caller");
        let topic = &pipeline.topics.call_dead_letters;
        let tail = Tail::start(&pipeline.kafka, &[topic])?;
        for (number, settings) in [(1, basic), (2, oauth2)] {
            // The outbox is filled, and each caller calls all of it.
            let group = format!("{}-{number}", pipeline.caller_group);
            pipeline.begin_caller_group(&group, "beginning")?;
            let output = output_of(&pipeline, number, settings, &tail)?;
            expect_no_secret(
                &output,
                &format!("the log, metrics or endpoints of caller {number}"),
            )?;
            ensure!(
                output.contains("chmod"),
                "caller {number} does not warn of the mode of the password file:\n{output}"
            );
            ensure!(
                // Only the second caller asks for tokens.
                number == 1 || output.contains("token request failed"),
                "caller {number} does not warn of the refused token requests:\n{output}"
            );
        }
        let letters = read_topic(&pipeline.kafka, topic, Keep::Values)?;
        ensure!(
            letters.len() as u64 == 2 * CALLS,
            "{} dead letters, expected {}",
            letters.len(),
            2 * CALLS
        );
        for letter in letters {
            let text = format!(
                "{:?}",
                letter
                    .headers
                    .iter()
                    .map(|(name, value)| {
                        let value = value.as_deref().unwrap_or_default();
                        (name, String::from_utf8_lossy(value).into_owned())
                    })
                    .collect::<Vec<_>>()
            );
            ensure!(
                text.contains("authorization: ") && text.contains("[secret]"),
                "the dead letter does not show the echoed request with the secret replaced: {text}"
            );
            expect_no_secret(&text, "a dead letter")?;
        }
        pipeline.passed();
        Ok(())
    });
}

/// Runs a caller until its calls are dead letters; returns its log, its metrics and the responses of its
/// endpoints.
fn output_of(pipeline: &Pipeline, number: u32, settings: Settings, tail: &Tail) -> Result<String> {
    let mut caller = pipeline.service("caller", number, settings)?;
    caller
        .process
        .start_with(&[("OUTBOX_LOG", "trace"), ("OUTBOX_TEST_SIGNING_KEY", SIGNING_KEY)])?;
    let expected = CALLS * u64::from(number);
    await_until("each call is a dead letter", LIMIT, || {
        caller.expect_running()?;
        let letters = tail.records(&pipeline.topics.call_dead_letters);
        Ok(match letters >= expected {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(format!("{letters} of {expected}")),
        })
    })?;
    let http = Http::new()?;
    let mut output = String::new();
    for path in ["/metrics", "/calls", "/readyz"] {
        output += &http.get(&format!("{}{path}", caller.admin))?.1;
    }
    caller.process.terminate(LIMIT)?;
    let log = caller.process.log_since_start()?;
    // The harness writes the first line, with the environment of the process and so with the signing key.
    let (_, logged) = log.split_once('\n').context("the caller logged nothing")?;
    Ok(output + logged)
}

fn expect_no_secret(text: &str, what: &str) -> Result<()> {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            // Some text before the secret shows where it comes from.
            let from = text.floor_char_boundary(at.saturating_sub(200));
            anyhow::bail!("{what} contains a secret: …{}", &text[from..at + secret.len()]);
        }
    }
    Ok(())
}
