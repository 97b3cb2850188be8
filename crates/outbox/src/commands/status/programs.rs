//! What the running programs report of themselves, asked at their admin addresses.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use service::status::{PATH, ProgramStatus};

use crate::cli::ShowStatus;
use crate::config::Config;

/// Maximum number of programs that are asked.
// All are asked at once, each with a connection of its own.
const PROGRAMS_MAX: usize = 100;
/// Timeout of an answer, from the connection to its last byte.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of an answer, in bytes.
// A partition takes some 60, and a long reason 1,000.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Admin address of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// URL of the status.
    status: Url,
}

/// What a program reports, or why it is not known. Its field names are those of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Asked {
    /// Admin address of the program.
    pub(super) url: String,
    pub(super) status: Option<ProgramStatus>,
    /// What was attempted, and what it means that there is no status.
    pub(super) error: Option<String>,
}

impl Asked {
    /// Returns whether the program has answered, and nothing of it needs a person.
    pub(super) fn is_sound(&self) -> bool {
        self.status.as_ref().is_some_and(ProgramStatus::is_sound)
    }
}

/// Returns the addresses that the command line names, or else the settings.
///
/// # Errors
/// Names the one that is no address.
pub(super) fn addresses(options: &ShowStatus, config: &Config) -> anyhow::Result<Vec<Address>> {
    let (named, by) = match options.programs.as_slice() {
        [] => (&config.status.programs, "the setting status.programs"),
        _ => (&options.programs, "--program"),
    };
    ensure!(
        named.len() <= PROGRAMS_MAX,
        "{by} names {} programs; at most {PROGRAMS_MAX} can be asked at a time: name those of one group",
        named.len()
    );
    named
        .iter()
        .map(|text| {
            Address::parse(text).with_context(|| format!("{by} names a program that cannot be asked"))
        })
        .collect()
}

impl Address {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let expected = "expected the admin address of a program, such as http://127.0.0.1:9464";
        let mut status = Url::parse(text).with_context(|| format!("{text:?} is no URL; {expected}"))?;
        if !matches!(status.scheme(), "http" | "https") || !status.has_host() {
            bail!("{text:?} is no http or https URL; {expected}");
        }
        let path = format!("{}{PATH}", status.path().trim_end_matches('/'));
        status.set_path(&path);
        status.set_query(None);
        status.set_fragment(None);
        Ok(Self { status })
    }

    /// Returns the address to show.
    fn shown(&self) -> String {
        let mut shown = self.status.clone();
        // A proxy before the program may ask for them. An error would mean that the URL cannot have any.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let shown = shown.as_str();
        shown.strip_suffix(PATH).unwrap_or(shown).to_owned()
    }
}

/// Asks all programs at once, and returns what they report in the order of their addresses. It takes as long as the
/// timeout of one of them at most. `token_file` has the token that they ask for; empty for none.
///
/// # Errors
/// The token cannot be read, or the operating system gives this process no event loop.
pub(super) fn ask(addresses: &[Address], token_file: &Path) -> anyhow::Result<Vec<Asked>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let authorization = authorization(token_file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("asking the programs: no event loop")?;
    let client = client(authorization);
    let asked = runtime.block_on(async {
        let answers: Vec<_> = addresses
            .iter()
            .map(|address| tokio::spawn(answer(client.clone(), address.status.clone())))
            .collect();
        let mut asked = Vec::with_capacity(addresses.len());
        for (address, answer) in addresses.iter().zip(answers) {
            let answer = answer.await.map_err(|panic| panic.to_string()).flatten();
            let url = address.shown();
            let error = answer.as_ref().err().map(|why| format!("GET {url}{PATH}: {why}"));
            asked.push(Asked {
                url,
                status: answer.ok(),
                error,
            });
        }
        asked
    });
    // Without waiting: the resolution of a name may take longer than the answer was awaited.
    runtime.shutdown_background();
    Ok(asked)
}

/// Returns the header with the token in this file, if there is one.
fn authorization(token_file: &Path) -> anyhow::Result<HeaderMap> {
    if token_file.as_os_str().is_empty() {
        return Ok(HeaderMap::new());
    }
    let read = || {
        format!(
            "reading the token in {} (the setting status.token_file)",
            token_file.display()
        )
    };
    let token = std::fs::read_to_string(token_file).with_context(read)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).with_context(read)?;
    // Left out of debug output.
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn client(headers: HeaderMap) -> Result<Client, String> {
    let client = Client::builder()
        .default_headers(headers)
        .timeout(TIMEOUT)
        // What another address reports is not of this program.
        .redirect(Policy::none())
        // Admin addresses are those of the network inside.
        .no_proxy()
        .user_agent(concat!("outbox/", env!("CARGO_PKG_VERSION")))
        .build();
    client.map_err(|error| format!("no HTTP client: {}", cause(&error)))
}

/// Returns the answer of a program, or why there is none.
async fn answer(client: Result<Client, String>, url: Url) -> Result<ProgramStatus, String> {
    let unanswered = |error: reqwest::Error| {
        let cause = cause(&error);
        match (error.is_timeout(), error.is_connect()) {
            (true, _) => {
                format!("no answer within {TIMEOUT:?}: the program hangs, or the network drops the request")
            }
            (false, true) => format!(
                "cannot connect ({cause}): the program does not run, or its setting admin.listen is another address"
            ),
            (false, false) => format!("no whole answer ({cause}): the program may have ended meanwhile"),
        }
    };
    let mut response = client?.get(url).send().await.map_err(unanswered)?;
    if matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        return Err(format!(
            "the answer is {}: the program asks for the token of its setting admin.token_file; name a file with it in \
             status.token_file",
            response.status()
        ));
    }
    if response.status() != StatusCode::OK {
        return Err(format!(
            "the answer is {}: no validator or caller listens there, it is of an earlier version, or too many ask it",
            response.status()
        ));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        body.extend_from_slice(&chunk);
        // While it is read: an address that is not a program's may send without end.
        if body.len() > ANSWER_BYTES_MAX {
            return Err(format!(
                "the answer is longer than {ANSWER_BYTES_MAX} bytes: no validator or caller listens there"
            ));
        }
    }
    serde_json::from_slice(&body).map_err(|error| {
        format!("the answer is no status of a program ({error}): no validator or caller listens there")
    })
}

/// Returns the innermost cause of an error, which the others only repeat around the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost = error.source();
    while let Some(source) = innermost.and_then(std::error::Error::source) {
        innermost = Some(source);
    }
    innermost.map_or_else(|| "no cause is known".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::time::Instant;

    use clap::Parser as _;
    use service::Health;
    use service::status::{Breaker, Identity, Work, WorkReport};

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(line: &str) -> ShowStatus {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a valid command line");
        match cli.command {
            Command::Status(options) => options,
            other => panic!("{other:?}"),
        }
    }

    /// Answers one request with this text and then keeps the connection open.
    fn answering(text: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
        let at = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            // The other side may have closed it.
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.read(&mut request);
        });
        at
    }

    fn address(at: SocketAddr) -> Address {
        Address::parse(&format!("http://{at}")).expect("an address")
    }

    #[test]
    fn option_comes_before_the_setting() {
        let mut config = Config::default();
        let shown = |line: &str, config: &Config| -> Vec<String> {
            let all = addresses(&options(line), config).expect("valid");
            all.iter().map(Address::shown).collect()
        };
        assert!(shown("outbox status", &config).is_empty());
        config.status.programs = vec!["http://v:9464/".into()];
        assert_eq!(shown("outbox status", &config), ["http://v:9464"]);
        assert_eq!(
            shown(
                "outbox status --program https://ann:secret@p/caller?x --program http://[::1]:1",
                &config
            ),
            ["https://p/caller", "http://[::1]:1"]
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["127.0.0.1:9464", "caller:9464", "ftp://caller", "http://"] {
            let mut config = Config::default();
            config.status.programs = vec![text.into()];
            let error = addresses(&options("outbox status"), &config).expect_err("no address");
            let error = format!("{error:#}");
            assert!(
                error.contains("status.programs")
                    && error.contains(text)
                    && error.contains("such as http://"),
                "{error}"
            );
        }
        let mut config = Config::default();
        config.status.programs = vec!["http://v".into(); PROGRAMS_MAX + 1];
        assert!(addresses(&options("outbox status"), &config).is_err());
    }

    #[test]
    fn program_reports_itself() {
        let (health, work) = (Health::new(Duration::from_secs(60)), WorkReport::default());
        work.set(Work {
            breaker: Some(Breaker::Open),
            partitions: Vec::new(),
        });
        let identity = Identity {
            program: "caller",
            version: "1",
            instance_id: "c-1".into(),
        };
        let route = service::status::route(identity, &health, &work);
        let registry = Arc::new(service::metrics::registry("test", "0"));
        let token_file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(token_file.path(), "token-of-operators\n").expect("written");
        let settings = service::admin::AdminSettings {
            listen: "127.0.0.1:0".parse().expect("an address"),
            token_file: token_file.path().to_owned(),
        };
        let at = service::admin::spawn_thread(&settings, registry, health, route);
        let at = [address(at.expect("listening"))];
        let refused = ask(&at, "".as_ref()).expect("asked");
        let error = refused[0].error.as_deref().expect("an error");
        assert!(
            error.contains("401") && error.contains("status.token_file"),
            "{error}"
        );
        let asked = ask(&at, token_file.path()).expect("asked");
        let status = asked[0].status.as_ref().expect("a status");
        assert_eq!(
            (status.instance_id.as_str(), status.work.breaker, &asked[0].error),
            ("c-1", Some(Breaker::Open), &None)
        );
        assert!(!asked[0].is_sound());
    }

    #[test]
    fn program_that_does_not_answer_is_a_row() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: ";
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
            listener.local_addr().expect("an address")
        };
        let rows = [
            (closed, "the program does not run"),
            (answering(String::new()), "no answer within 2s"),
            (answering(format!("{ok}100\r\n\r\nhalf")), "no answer within 2s"),
            (
                answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into()),
                "404 Not Found",
            ),
            (answering(format!("{ok}2\r\n\r\n{{}}")), "no status of a program"),
            (
                answering(format!("{ok}9999999\r\n\r\n{}", "x".repeat(ANSWER_BYTES_MAX + 1))),
                "longer than",
            ),
            (
                answering(format!(
                    "HTTP/1.1 302 Found\r\nlocation: http://{closed}/\r\ncontent-length: 0\r\n\r\n"
                )),
                "302 Found",
            ),
        ];
        let started = Instant::now();
        let asked = ask(&rows.map(|(at, _)| address(at)), "".as_ref()).expect("asked");
        // All at once: two of them take the whole timeout.
        assert!(started.elapsed() < 2 * TIMEOUT, "{:?}", started.elapsed());
        for (asked, (at, words)) in asked.iter().zip(rows) {
            let error = asked.error.as_deref().expect("an error");
            assert!(
                error.starts_with(&format!("GET http://{at}/status: ")) && error.contains(words),
                "{words}: {error}"
            );
            assert!(asked.status.is_none() && !asked.is_sound());
        }
    }
}
