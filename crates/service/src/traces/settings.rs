//! Settings of the traces.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// Settings of the traces: `[traces]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesSettings {
    /// Address of the OTLP receiver (HTTP, protobuf), such as `http://127.0.0.1:4318`; empty: no traces.
    pub endpoint: String,
    /// File with further headers for the receiver, one `Name: value` a line; empty for none.
    pub headers_file: PathBuf,
    /// Share of the orders without a trace of their own whose trace is recorded, from 0 to 1.
    pub ratio: f64,
    /// Show the idempotency key in the spans.
    pub show_idempotency_key: bool,
}

// The ratio is checked to be a number, so that equal settings are equal.
impl Eq for TracesSettings {}

impl Default for TracesSettings {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers_file: PathBuf::new(),
            // Whoever produces the orders knows which traces are wanted.
            ratio: 0.0,
            // A key can be a customer's reference, and many people may read traces who may not read orders.
            show_idempotency_key: false,
        }
    }
}

/// Maximum size of the file with the headers, in bytes.
const HEADERS_BYTES_MAX: u64 = 16 * 1024;

impl TracesSettings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the setting that is invalid, and the values it may have.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (0.0..=1.0).contains(&self.ratio),
            "the setting traces.ratio is {}; it must be from 0 to 1",
            self.ratio
        );
        self.url().map(drop)
    }

    /// Returns the address to send to; `None` without traces.
    pub(super) fn url(&self) -> anyhow::Result<Option<Url>> {
        let text = self.endpoint.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        // It may contain the password, so the error does not quote it.
        ensure!(
            !text.contains('@'),
            "the setting traces.endpoint contains a user name or password, which would appear in logs; use \
             traces.headers_file"
        );
        let invalid = || {
            format!(
                "the setting traces.endpoint is {text:?}; it must be the address of an OTLP receiver for HTTP, such as \
                 \"http://127.0.0.1:4318\""
            )
        };
        let mut url = Url::parse(text).with_context(invalid)?;
        let is_sound = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none();
        ensure!(is_sound, invalid());
        // As OTEL_EXPORTER_OTLP_ENDPOINT, which everybody knows: the path of the traces is appended.
        if !url.path().ends_with(PATH) {
            let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok(Some(url))
    }

    /// Reads the further headers.
    pub(super) fn headers(&self) -> anyhow::Result<HeaderMap> {
        let file = &self.headers_file;
        if file.as_os_str().is_empty() {
            return Ok(HeaderMap::new());
        }
        read_headers(file).with_context(|| format!("reading {} (traces.headers_file)", file.display()))
    }
}

/// Path of the traces at a receiver.
const PATH: &str = "/v1/traces";

fn read_headers(file: &Path) -> anyhow::Result<HeaderMap> {
    let mut text = String::new();
    let mut opened = std::fs::File::open(file)?.take(HEADERS_BYTES_MAX + 1);
    opened.read_to_string(&mut text)?;
    ensure!(
        text.len() as u64 <= HEADERS_BYTES_MAX,
        "it is longer than {HEADERS_BYTES_MAX} bytes"
    );
    let mut headers = HeaderMap::new();
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        // Not quoted: the value is a secret.
        let invalid = || format!("line {number} is no header of the form \"Name: value\"");
        let (name, value) = line.split_once(':').with_context(invalid)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .ok()
            .with_context(invalid)?;
        let mut value = HeaderValue::from_str(value.trim()).ok().with_context(invalid)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoint: &str) -> TracesSettings {
        TracesSettings {
            endpoint: endpoint.into(),
            ..TracesSettings::default()
        }
    }

    #[test]
    fn path_of_the_traces_is_appended() {
        let url = |endpoint: &str| with(endpoint).url().expect("valid").map(String::from);
        assert_eq!(url(""), None);
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector/", "https://collector/v1/traces"),
            ("https://vendor/otlp/", "https://vendor/otlp/v1/traces"),
            ("https://vendor/otlp/v1/traces", "https://vendor/otlp/v1/traces"),
        ] {
            assert_eq!(url(endpoint).as_deref(), Some(expected));
        }
    }

    #[test]
    fn unusable_settings_are_refused() {
        for endpoint in [
            "collector:4318",
            "grpc://collector:4317",
            "http://",
            "http://c/?key=1",
        ] {
            let error = with(endpoint).check().expect_err(endpoint).to_string();
            assert!(error.contains("traces.endpoint"), "{error}");
        }
        let error = with("http://me:secret@collector").check().expect_err("a secret");
        assert!(!format!("{error:#}").contains("secret"), "{error:#}");
        for ratio in [-0.1, 1.1, f64::NAN] {
            let settings = TracesSettings {
                ratio,
                ..TracesSettings::default()
            };
            assert!(settings.check().is_err(), "{ratio}");
        }
        TracesSettings::default().check().expect("the defaults are sound");
    }

    #[test]
    fn headers_are_read_from_their_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            let settings = TracesSettings {
                headers_file: file.path().into(),
                ..TracesSettings::default()
            };
            settings.headers()
        };
        let headers = read("Authorization: Bearer secret\n\nx-scope: a:b\n").expect("headers");
        assert_eq!(headers["authorization"], "Bearer secret");
        assert_eq!(headers["x-scope"], "a:b");
        assert!(!format!("{headers:?}").contains("secret"));
        for text in [
            "secret",
            "a b: secret",
            "a: secret\u{7}",
            &"a: b\n".repeat(10_000),
        ] {
            let error = format!("{:#}", read(text).expect_err("malformed"));
            assert!(error.contains("traces.headers_file"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
