//! Credentials of requests: bearer token, basic authentication, an API key header, or OAuth2.

use std::sync::Arc;

use anyhow::{anyhow, ensure};
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use service::secrets::{HIDDEN, Secret, SecretSource, Watched};

use super::oauth2::{NoCredentials, OAuth2Settings, TokenSource};

/// Settings of the credentials: `[api.auth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuthSettings {
    /// Kind of credentials that the API requires.
    pub(crate) kind: AuthKind,
    /// Bearer token, password, header value or OAuth2 client secret, as `file:PATH` or `env:NAME`.
    pub(crate) secret: SecretSource,
    /// User name, for `basic`.
    pub(crate) user: String,
    /// Name of the header, for `header`.
    pub(crate) header: String,
    /// Token endpoint, for `oauth2`.
    pub(crate) oauth2: OAuth2Settings,
}

/// Kinds of credentials that a request can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthKind {
    /// Requests carry no credentials.
    #[default]
    None,
    /// `Authorization: Bearer`, with the secret as the token.
    Bearer,
    /// `Authorization: Basic`, with user name and secret.
    Basic,
    /// Header of any name with the secret as its value, such as an API key.
    Header,
    /// Bearer token from an OAuth2 token endpoint, by the client credentials grant.
    OAuth2,
}

/// Credentials of requests, kept up to date while the program runs.
pub(crate) enum Credentials {
    None,
    Fixed {
        header: HeaderName,
        value: Watched<HeaderSecret>,
    },
    OAuth2(Box<TokenSource>),
}

/// Header value, and the secret in it.
#[derive(Clone)]
pub(crate) struct HeaderSecret {
    value: HeaderValue,
    secret: Arc<Secret>,
}

/// Function from a secret to its header value.
type ToHeader = Box<dyn Fn(&Secret) -> anyhow::Result<HeaderValue> + Send + Sync>;

const SECRET: &str = "api.auth.secret";

impl Credentials {
    /// Creates the credentials of these settings. Tokens are requested with the HTTP client that `client`
    /// returns.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(
        settings: &AuthSettings,
        client: impl Fn() -> Client + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let AuthSettings {
            kind,
            secret,
            user,
            header,
            oauth2,
        } = settings;
        // A setting of another kind is an error, not ignored: a caller without the credentials that its
        // operator believes to be set would be refused by the API.
        let only = |setting: &str, is_set: bool, wanted: AuthKind| {
            ensure!(
                is_set == (*kind == wanted),
                "the setting api.auth.{setting} belongs to the kind {wanted:?}, and api.auth.kind is \
                 {kind:?}: set both or neither"
            );
            Ok(())
        };
        only("user", !user.is_empty(), AuthKind::Basic)?;
        only("header", !header.is_empty(), AuthKind::Header)?;
        only("oauth2.token_url", !oauth2.token_url.is_empty(), AuthKind::OAuth2)?;
        ensure!(
            *kind != AuthKind::None || *secret == SecretSource::None,
            "the setting {SECRET} is set, and api.auth.kind is \"none\": set both or neither"
        );
        let fixed = |header: HeaderName, to_header: ToHeader| {
            let value = secret.watched(SECRET, move |secret| {
                Ok(HeaderSecret {
                    value: to_header(&secret)?,
                    secret: Arc::new(secret),
                })
            })?;
            Ok(Self::Fixed { header, value })
        };
        match kind {
            AuthKind::None => Ok(Self::None),
            AuthKind::Bearer => fixed(
                AUTHORIZATION,
                Box::new(|secret| Secret::header("Bearer ", secret.reveal())),
            ),
            AuthKind::Basic => {
                ensure!(
                    !user.contains(':'),
                    "the setting api.auth.user contains a colon, and the rest of it would be read as the \
                     password"
                );
                let user = user.clone();
                fixed(
                    AUTHORIZATION,
                    Box::new(move |secret| Secret::basic(&user, secret.reveal())),
                )
            }
            AuthKind::Header => {
                let name = HeaderName::from_bytes(header.as_bytes())
                    .map_err(|error| anyhow!("the setting api.auth.header is {header:?}: {error}"))?;
                fixed(name, Box::new(|secret| Secret::header("", secret.reveal())))
            }
            AuthKind::OAuth2 => Ok(Self::OAuth2(Box::new(TokenSource::new(oauth2, secret, client)?))),
        }
    }

    /// Returns the name of the header that carries them.
    pub(crate) fn header(&self) -> Option<HeaderName> {
        match self {
            Self::None => None,
            Self::Fixed { header, .. } => Some(header.clone()),
            Self::OAuth2(_) => Some(AUTHORIZATION),
        }
    }

    /// Adds the credentials to the headers of a request.
    ///
    /// # Errors
    /// No token is available; the reason was logged.
    pub(crate) async fn add(&self, headers: &mut HeaderMap) -> Result<(), NoCredentials> {
        match self {
            Self::None => {}
            Self::Fixed { header, value } => {
                headers.insert(header.clone(), value.get().value);
            }
            Self::OAuth2(source) => {
                headers.insert(AUTHORIZATION, source.token().await?);
            }
        }
        Ok(())
    }

    /// Discards an OAuth2 token that the API refused, so that the next call requests another.
    pub(crate) fn refused(&self, authorization: Option<&HeaderValue>) {
        // A fixed secret stays in use: there is no other, and the retried calls find it renewed when its file
        // changes.
        match (self, authorization) {
            (Self::OAuth2(source), Some(authorization)) => source.refused(authorization),
            (Self::OAuth2(_), None) | (Self::None | Self::Fixed { .. }, _) => {}
        }
    }

    /// Masks secrets that a response body repeats.
    pub(crate) fn mask_secrets(&self, body: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Fixed { value, .. } => {
                let HeaderSecret { value, secret } = value.get();
                // Both the secret and its encoded form, which differ for `basic`.
                mask(body, secret.reveal().as_bytes());
                mask_header(body, &value);
            }
            Self::OAuth2(source) => {
                // The token itself, not the client secret: the API never saw the secret.
                if let Some(value) = source.latest() {
                    mask_header(body, &value);
                }
            }
        }
    }
}

fn mask_header(body: &mut Vec<u8>, value: &HeaderValue) {
    // The part after "Bearer " or "Basic ".
    if let Some(secret) = value.as_bytes().rsplit(|byte| *byte == b' ').next() {
        mask(body, secret);
    }
}

/// Minimum length of a masked secret in bytes. Shorter text occurs in a body by chance, and masking it would
/// destroy evidence.
const MASKED_BYTES_MIN: usize = 6;

fn mask(body: &mut Vec<u8>, secret: &[u8]) {
    if secret.len() < MASKED_BYTES_MIN {
        return;
    }
    let mut from = 0;
    while let Some(at) = body[from..]
        .windows(secret.len())
        .position(|window| window == secret)
    {
        let start = from + at;
        body.splice(start..start + secret.len(), HIDDEN.bytes());
        // Continue after the replacement: a secret that is part of HIDDEN would be found in it again, without
        // end.
        from = start + HIDDEN.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: AuthKind, secret: &tempfile::NamedTempFile) -> AuthSettings {
        AuthSettings {
            kind,
            secret: SecretSource::File(secret.path().into()),
            ..AuthSettings::default()
        }
    }

    fn secret() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "open sesame\n").expect("written");
        file
    }

    async fn headers_with(settings: &AuthSettings) -> HeaderMap {
        let credentials = Credentials::new(settings, Client::new).expect("credentials");
        let mut headers = HeaderMap::new();
        credentials.add(&mut headers).await.expect("a header");
        headers
    }

    #[tokio::test]
    async fn each_kind_sends_its_header() {
        let secret = secret();
        let bearer = headers_with(&settings(AuthKind::Bearer, &secret)).await;
        assert_eq!(bearer[AUTHORIZATION], "Bearer open sesame");
        assert!(bearer[AUTHORIZATION].is_sensitive());
        let basic = headers_with(&AuthSettings {
            user: "Aladdin".into(),
            ..settings(AuthKind::Basic, &secret)
        })
        .await;
        // The example of RFC 7617, section 2.
        assert_eq!(basic[AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let header = headers_with(&AuthSettings {
            header: "X-Api-Key".into(),
            ..settings(AuthKind::Header, &secret)
        })
        .await;
        assert_eq!(header["x-api-key"], "open sesame");
    }

    #[test]
    fn contradicting_settings_are_refused() {
        let secret = secret();
        let refused = |settings: AuthSettings, names: &str| {
            let error = Credentials::new(&settings, Client::new).err().expect(names);
            let text = format!("{error:#}");
            assert!(text.contains(names) && !text.contains("sesame"), "{text}");
        };
        refused(settings(AuthKind::None, &secret), "api.auth.secret");
        refused(settings(AuthKind::Basic, &secret), "api.auth.user");
        refused(settings(AuthKind::Header, &secret), "api.auth.header");
        refused(settings(AuthKind::OAuth2, &secret), "api.auth.oauth2.token_url");
        refused(
            AuthSettings {
                user: "x".into(),
                ..settings(AuthKind::Bearer, &secret)
            },
            "api.auth.user",
        );
        let no_secret = AuthSettings {
            kind: AuthKind::Bearer,
            ..AuthSettings::default()
        };
        refused(no_secret, "api.auth.secret");
    }

    #[test]
    fn secret_in_a_response_body_is_masked() {
        let secret = secret();
        let basic = AuthSettings {
            user: "Aladdin".into(),
            ..settings(AuthKind::Basic, &secret)
        };
        let credentials = Credentials::new(&basic, Client::new).expect("credentials");
        let mut body = b"open sesame? QWxhZGRpbjpvcGVuIHNlc2FtZQ== open sesame".to_vec();
        credentials.mask_secrets(&mut body);
        assert_eq!(String::from_utf8_lossy(&body), "[secret]? [secret] [secret]");
    }

    #[test]
    fn secret_that_is_part_of_the_mask_is_masked_once() {
        let mut body = b"secret, secret".to_vec();
        mask(&mut body, b"secret");
        assert_eq!(String::from_utf8_lossy(&body), "[secret], [secret]");
    }
}
