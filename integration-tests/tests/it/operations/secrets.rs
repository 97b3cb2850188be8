//! A secret is in no log, no metric, no outcome and no dead letter, at the most talkative log level, with an
//! API that throws every header back at whoever sent it.

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

use crate::in_turn;

const CALLS: u64 = 20;
const LIMIT: Duration = Duration::from_secs(60);

const PASSWORD: &str = "correct-horse-battery";
/// `order-caller:correct-horse-battery`, as `Basic` shows it.
const BASIC: &str = "b3JkZXItY2FsbGVyOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==";
const SIGNING_KEY: &str = "staple-of-the-signature";
const TOKEN: &str = "token-that-nobody-may-see";

/// Everything that must stand nowhere.
const SECRETS: [&str; 4] = [PASSWORD, BASIC, SIGNING_KEY, TOKEN];

/// An API that answers each order with 422 and with all that it was told, and, at `/token`, refuses the first
/// two times in the same way, and then hands out a token.
fn talkative_api() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a port")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        let mut asked_for_tokens = 0;
        // One connection after the other: there are few calls, and each answer closes its connection.
        for stream in listener.incoming().flatten() {
            // Who has gone away wants no answer.
            let _answered = answer(stream, &mut asked_for_tokens);
        }
    });
    Ok(url)
}

fn answer(mut stream: TcpStream, asked_for_tokens: &mut u32) -> Result<()> {
    let mut told = Vec::new();
    let text = loop {
        let text = String::from_utf8_lossy(&told).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.context("a length")?.parse()? {
                break text;
            }
        }
        let mut more = [0; 4096];
        let n = stream.read(&mut more)?;
        ensure!(n > 0, "it went away");
        told.extend_from_slice(&more[..n]);
    };
    let is_for_token = text.starts_with("POST /token ");
    *asked_for_tokens += u32::from(is_for_token);
    let (status, body) = match is_for_token && *asked_for_tokens > 2 {
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

/// A file with a secret that everybody may read, which is to be warned of.
fn secret_file(pipeline: &Pipeline) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let path = pipeline.folder().join("password");
    std::fs::write(&path, format!("{PASSWORD}\n")).context("writing a secret")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).context("its mode")?;
    Ok(path)
}

#[test]
fn a_secret_stands_nowhere() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("secrets", 2)?;
        Feed::start(Plan {
            kafka: pipeline.kafka.clone(),
            topic: pipeline.topics.pending.clone(),
            partitions: 2,
            orders: Orders::Generated(Mix::all_fresh(1)),
            count: CALLS,
            per_second: None,
        })
        .finish()?;
        let api = talkative_api()?;
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
            let output = output_of(&pipeline, number, settings, &tail)?;
            check(&output, &format!("what caller {number} says"))?;
            ensure!(
                output.contains("chmod"),
                "no warning of the file's mode:\n{output}"
            );
            ensure!(
                number == 1 || output.contains("token request failed"),
                "no warning of the token that was refused:\n{output}"
            );
        }
        let letters = read_topic(&pipeline.kafka, topic, Keep::Values)?;
        ensure!(
            letters.len() as u64 == 2 * CALLS,
            "{} dead letters",
            letters.len()
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
                "the API's answer does not show what it was told: {text}"
            );
            check(&text, "a dead letter")?;
        }
        pipeline.passed();
        Ok(())
    });
}

/// Runs a caller until its calls are dead letters; returns all that it has said, its metrics too.
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
    // The first line is the harness's own: the environment that it started the process with.
    let (_, said) = log.split_once('\n').context("a log")?;
    Ok(output + said)
}

fn check(text: &str, what: &str) -> Result<()> {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            let from = text.floor_char_boundary(at.saturating_sub(200));
            anyhow::bail!("a secret stands in {what}: …{}", &text[from..at + secret.len()]);
        }
    }
    Ok(())
}
