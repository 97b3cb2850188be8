//! Signature of each request (HMAC, RFC 2104), which proves its sender and its time to the API.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use service::secrets::{Secret, SecretSource, Watched};
use sha2::{Sha256, Sha512};

use crate::http::request::Request;

/// Settings of the signature: `[api.signature]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SignatureSettings {
    /// Header that carries the signature; empty: requests are not signed.
    pub(crate) header: String,
    /// HMAC key, as `file:PATH` or `env:NAME`.
    pub(crate) secret: SecretSource,
    /// Hash function of the HMAC.
    pub(crate) algorithm: Algorithm,
    /// Signed text, with the placeholders `{timestamp}`, `{method}`, `{path}` (with its query),
    /// `{idempotency_key}` and `{body}`.
    pub(crate) signed: String,
    /// Encoding of the signature.
    pub(crate) encoding: Encoding,
    /// Prefix of the header's value, such as `sha256=`; `{timestamp}` in it is replaced.
    pub(crate) prefix: String,
    /// Header that carries the time of signing; empty: none.
    pub(crate) timestamp_header: String,
    /// Unit of the timestamp, since 1970-01-01 UTC.
    pub(crate) timestamp: Unit,
}

/// Hash functions of the HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Algorithm {
    HmacSha256,
    HmacSha512,
}

/// Text encodings of a signature. Hex is lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Hex,
    Base64,
}

/// Units of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
}

impl Default for SignatureSettings {
    fn default() -> Self {
        Self {
            header: String::new(),
            secret: SecretSource::None,
            algorithm: Algorithm::HmacSha256,
            // With the time, so that the API can refuse an old request that somebody recorded.
            signed: "{timestamp}.{body}".into(),
            encoding: Encoding::Hex,
            prefix: String::new(),
            timestamp_header: String::new(),
            timestamp: Unit::Seconds,
        }
    }
}

/// Signs requests as the settings say.
pub(crate) struct Signature {
    header: HeaderName,
    timestamp_header: Option<HeaderName>,
    secret: Watched<Secret>,
    parts: Vec<Part>,
    settings: SignatureSettings,
}

#[derive(Clone)]
enum Part {
    Text(String),
    Timestamp,
    Method,
    Path,
    IdempotencyKey,
    Body,
}

const PLACEHOLDERS: [(&str, Part); 5] = [
    ("{timestamp}", Part::Timestamp),
    ("{method}", Part::Method),
    ("{path}", Part::Path),
    ("{idempotency_key}", Part::IdempotencyKey),
    ("{body}", Part::Body),
];

impl Signature {
    /// Creates the signature of these settings; `None` if requests are not signed.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(settings: &SignatureSettings) -> anyhow::Result<Option<Self>> {
        if settings.header.is_empty() {
            ensure!(
                settings.secret == SecretSource::None,
                "the setting api.signature.secret is set, and api.signature.header is empty: set both or \
                 neither"
            );
            return Ok(None);
        }
        let header = |setting: &str, name: &str| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|error| anyhow!("the setting api.signature.{setting} is {name:?}: {error}"))
        };
        let parts = parts(&settings.signed);
        ensure!(
            parts.iter().any(|part| matches!(part, Part::Body)),
            "the setting api.signature.signed is {:?}; it must contain {{body}}, or one signature would be \
             valid for any order",
            settings.signed
        );
        Ok(Some(Self {
            header: header("header", &settings.header)?,
            timestamp_header: match settings.timestamp_header.as_str() {
                "" => None,
                name => Some(header("timestamp_header", name)?),
            },
            secret: settings.secret.watched("api.signature.secret", Ok)?,
            parts,
            settings: settings.clone(),
        }))
    }

    /// Returns the names of the headers that it adds.
    pub(crate) fn headers(&self) -> impl Iterator<Item = HeaderName> {
        self.timestamp_header
            .clone()
            .into_iter()
            .chain([self.header.clone()])
    }

    /// Adds the signature of a request made at `now` to its headers.
    ///
    /// # Errors
    /// The prefix has characters that no header can carry.
    pub(crate) fn sign(
        &self,
        method: &str,
        request: &Request,
        headers: &mut HeaderMap,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        // A clock before 1970 gives 0, and the API refuses the signature.
        let since: Duration = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = match self.settings.timestamp {
            Unit::Seconds => since.as_secs().to_string(),
            Unit::Milliseconds => since.as_millis().to_string(),
        };
        let mut signed = Vec::with_capacity(request.body.len() + 128);
        for part in &self.parts {
            match part {
                Part::Text(text) => signed.extend_from_slice(text.as_bytes()),
                Part::Timestamp => signed.extend_from_slice(timestamp.as_bytes()),
                Part::Method => signed.extend_from_slice(method.as_bytes()),
                // As sent, percent-encoding included: that is what the server sees.
                Part::Path => {
                    signed.extend_from_slice(request.url.path().as_bytes());
                    if let Some(query) = request.url.query() {
                        signed.push(b'?');
                        signed.extend_from_slice(query.as_bytes());
                    }
                }
                Part::IdempotencyKey => signed.extend_from_slice(request.idempotency_key.as_bytes()),
                Part::Body => signed.extend_from_slice(&request.body),
            }
        }
        let signature = self.encoded_hmac(&signed);
        let value = format!(
            "{}{signature}",
            self.settings.prefix.replace("{timestamp}", &timestamp)
        );
        headers.insert(self.header.clone(), HeaderValue::from_str(&value)?);
        if let Some(name) = &self.timestamp_header {
            headers.insert(name.clone(), HeaderValue::from_str(&timestamp)?);
        }
        Ok(())
    }

    fn encoded_hmac(&self, signed: &[u8]) -> String {
        let secret = self.secret.get();
        let key = secret.reveal().as_bytes();
        let hmac = match self.settings.algorithm {
            Algorithm::HmacSha256 => hmac::<Hmac<Sha256>>(key, signed),
            Algorithm::HmacSha512 => hmac::<Hmac<Sha512>>(key, signed),
        };
        match self.settings.encoding {
            Encoding::Base64 => STANDARD.encode(hmac),
            Encoding::Hex => hmac.iter().fold(String::new(), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
        }
    }
}

fn hmac<M: Mac + KeyInit>(key: &[u8], signed: &[u8]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(signed);
    mac.finalize().into_bytes().to_vec()
}

/// Splits the signed text at its placeholders. Unknown braces are text, as in a JSON envelope.
fn parts(text: &str) -> Vec<Part> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let next = PLACEHOLDERS
            .iter()
            .filter_map(|(placeholder, part)| Some((rest.find(placeholder)?, *placeholder, part)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, placeholder, part)) = next else {
            parts.push(Part::Text(rest.to_owned()));
            return parts;
        };
        parts.push(Part::Text(rest[..at].to_owned()));
        parts.push(part.clone());
        rest = &rest[at + placeholder.len()..];
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn signed(change: impl FnOnce(&mut SignatureSettings)) -> anyhow::Result<HeaderMap> {
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "Jefe").expect("written");
        let mut settings = SignatureSettings {
            header: "X-Signature".into(),
            secret: SecretSource::File(secret.path().into()),
            ..SignatureSettings::default()
        };
        change(&mut settings);
        let request = Request {
            url: "http://host/pay?a=1".parse().expect("a URL"),
            headers: Vec::new(),
            traceparent: HeaderValue::from_static("x"),
            tracestate: None,
            idempotency_key: "key-1".into(),
            body: Bytes::from_static(b"what do ya want for nothing?"),
        };
        let mut headers = HeaderMap::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        if let Some(signature) = Signature::new(&settings)? {
            signature.sign("POST", &request, &mut headers, now)?;
        }
        Ok(headers)
    }

    /// Test case 2 of RFC 4231.
    #[test]
    fn body_is_signed_as_in_rfc_4231() {
        let sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let headers = signed(|settings| settings.signed = "{body}".into()).expect("signed");
        assert_eq!(headers["x-signature"], sha256);
        let sha512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                      caeab1a34d4a6b4b636e070a38bce737";
        let headers = signed(|settings| {
            settings.signed = "{body}".into();
            settings.algorithm = Algorithm::HmacSha512;
            settings.prefix = "t={timestamp},v1=".into();
        })
        .expect("signed");
        assert_eq!(headers["x-signature"], format!("t=1700000000,v1={sha512}"));
    }

    #[test]
    fn request_parts_and_time_are_signed() {
        let with = |text: &str| {
            signed(|settings| {
                settings.signed = text.into();
                settings.encoding = Encoding::Base64;
                settings.timestamp = Unit::Milliseconds;
                settings.timestamp_header = "X-Time".into();
            })
            .expect("signed")
        };
        let headers = with("{method} {path}\n{timestamp}\n{idempotency_key}\n{body}");
        assert_eq!(headers["x-time"], "1700000000123");
        let text = "POST /pay?a=1\n1700000000123\nkey-1\nwhat do ya want for nothing?";
        let expected = STANDARD.encode(hmac::<Hmac<Sha256>>(b"Jefe", text.as_bytes()));
        assert_eq!(headers["x-signature"], expected);
        assert_ne!(with("{body}")["x-signature"], expected);
    }

    #[test]
    fn incomplete_settings_are_refused() {
        let refused = |change: fn(&mut SignatureSettings), names: &str| {
            let error = signed(change).expect_err(names);
            assert!(format!("{error:#}").contains(names), "{error:#}");
        };
        refused(|settings| settings.signed = "{timestamp}".into(), "{body}");
        refused(|settings| settings.header = "a b".into(), "api.signature.header");
        refused(|settings| settings.header.clear(), "api.signature.secret");
        refused(
            |settings| settings.secret = SecretSource::None,
            "api.signature.secret",
        );
    }
}
