//! Who may read the routes that show orders and calls: by a token, or from this machine alone.

use std::hint::black_box;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminSettings;

/// Minimum length of a token, in bytes: one that is shorter can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Maximum size of the file.
const FILE_BYTES_MAX: u64 = 4096;

/// Condition under which the routes of a program answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// They answer: only this machine reaches them.
    Open,
    /// They answer whoever presents the token in this file.
    Token(PathBuf),
    /// They do not answer: other machines reach them, and there is no token.
    Closed,
}

impl Guard {
    /// Returns the guard of these settings.
    ///
    /// # Errors
    /// There is no token in the file.
    pub(super) fn of(settings: &AdminSettings) -> anyhow::Result<Self> {
        let file = &settings.token_file;
        if !file.as_os_str().is_empty() {
            // Once at the start, so that a wrong path is noticed before the first request.
            token(file)?;
            return Ok(Self::Token(file.clone()));
        }
        if settings.listen.ip().is_loopback() {
            return Ok(Self::Open);
        }
        tracing::warn!(
            listen = %settings.listen,
            "other machines reach the admin address and there is no admin.token_file: only metrics and probes are \
             served, not what shows orders and calls"
        );
        Ok(Self::Closed)
    }
}

/// Refuses a request that the guard does not let through.
pub(super) async fn guarded(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let refusal = match &guard {
        Guard::Open => return next.run(request).await,
        Guard::Closed => {
            let text = "not served at an address that other machines reach: set admin.token_file\n";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        // Read for each request, of which there are few: a token can be changed while the program runs.
        Guard::Token(file) => match token(file) {
            Ok(token) if presents(request.headers(), &token) => return next.run(request).await,
            Ok(_) => "present the token of admin.token_file: Authorization: Bearer TOKEN\n",
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "request to the admin server refused"
                );
                "the file of the setting admin.token_file cannot be read; the log has the reason\n"
            }
        },
    };
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, refusal).into_response()
}

fn token(file: &Path) -> anyhow::Result<Vec<u8>> {
    let attempted = || {
        format!(
            "reading the token in {} (the setting admin.token_file)",
            file.display()
        )
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .with_context(attempted)?;
    let token = bytes.trim_ascii();
    ensure!(
        token.len() >= TOKEN_BYTES_MIN,
        "{}: it has {} bytes, and a token of less than {TOKEN_BYTES_MIN} can be guessed; make one with: openssl rand \
         -hex 32",
        attempted(),
        token.len()
    );
    Ok(token.to_owned())
}

fn presents(headers: &HeaderMap, token: &[u8]) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return false;
    };
    let value = value.as_bytes();
    let scheme = b"bearer ";
    let has_scheme = value
        .get(..scheme.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    has_scheme && is_same(value[scheme.len()..].trim_ascii(), token)
}

/// Compares in a time that does not depend on where the two differ, from which a token could be guessed byte by byte.
fn is_same(presented: &[u8], token: &[u8]) -> bool {
    if presented.len() != token.len() {
        return false;
    }
    let differences = presented
        .iter()
        .zip(token)
        // Hidden from the optimizer, which may end the loop at the first difference otherwise.
        .fold(0, |differences, (a, b)| black_box(differences | (a ^ b)));
    differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str, token_file: &Path) -> AdminSettings {
        AdminSettings {
            listen: listen.parse().expect("an address"),
            token_file: token_file.to_owned(),
        }
    }

    #[test]
    fn address_and_token_decide_who_may_read() {
        let none = Path::new("");
        for (listen, guard) in [
            ("127.0.0.1:1", Guard::Open),
            ("[::1]:1", Guard::Open),
            ("0.0.0.0:1", Guard::Closed),
            ("10.0.0.1:1", Guard::Closed),
            ("[::]:1", Guard::Closed),
        ] {
            assert_eq!(
                Guard::of(&settings(listen, none)).expect("a guard"),
                guard,
                "{listen}"
            );
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "0123456789abcdef\n").expect("written");
        for listen in ["127.0.0.1:1", "0.0.0.0:1"] {
            let guard = Guard::of(&settings(listen, file.path())).expect("a guard");
            assert_eq!(guard, Guard::Token(file.path().to_owned()));
        }
    }

    #[test]
    fn token_that_can_be_guessed_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "  short \n").expect("written");
        for path in [file.path(), Path::new("/nonexistent")] {
            let error = format!(
                "{:#}",
                Guard::of(&settings("0.0.0.0:1", path)).expect_err("refused")
            );
            assert!(
                error.contains("admin.token_file") && !error.contains("short"),
                "{error}"
            );
        }
    }

    #[test]
    fn bearer_token_is_compared_whole() {
        let of = |value: &str| {
            let headers = [(header::AUTHORIZATION, value.parse().expect("a header"))];
            presents(&headers.into_iter().collect(), b"0123456789abcdef")
        };
        assert!(of("Bearer 0123456789abcdef") && of("bearer 0123456789abcdef"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0",
        ] {
            assert!(!of(wrong), "{wrong}");
        }
        assert!(!presents(&HeaderMap::new(), b"0123456789abcdef"));
    }
}
