//! What a request shows to prove who sends it.

use std::sync::Arc;

use anyhow::{anyhow, ensure};
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::oauth2::{NoCredentials, OAuth2Settings, TokenSource};
use super::secret::{HIDDEN, Secret, SecretSource};
use super::watched_file::Watched;

/// The settings of the credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuthSettings {
    /// How requests prove who sends them.
    pub(crate) kind: AuthKind,
    /// The bearer token, the password, the header's value, or the OAuth2 client secret: `file:PATH` or
    /// `env:NAME`.
    pub(crate) secret: SecretSource,
    /// The user, for `basic`.
    pub(crate) user: String,
    /// The name of the header, for `header`.
    pub(crate) header: String,
    /// Where tokens come from, for `oauth2`.
    pub(crate) oauth2: OAuth2Settings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthKind {
    /// They do not.
    #[default]
    None,
    /// `Authorization: Bearer SECRET`.
    Bearer,
    /// `Authorization: Basic`, with user and secret.
    Basic,
    /// A header of any name with the secret as its value.
    Header,
    /// A bearer token by OAuth2's client credentials.
    OAuth2,
}

/// The credentials of requests.
pub(crate) enum Credentials {
    None,
    Fixed {
        header: HeaderName,
        value: Watched<Shown>,
    },
    OAuth2(Box<TokenSource>),
}

/// A header's value, and the secret in it.
#[derive(Clone)]
pub(crate) struct Shown {
    value: HeaderValue,
    secret: Arc<Secret>,
}

/// How a secret is shown.
type Show = Box<dyn Fn(&Secret) -> anyhow::Result<HeaderValue> + Send + Sync>;

const SECRET: &str = "api.auth.secret";

impl Credentials {
    /// The credentials of these settings. Tokens are asked for with `client`.
    ///
    /// # Errors
    /// Names the setting that is wrong.
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
        let only = |setting: &str, is_set: bool, wanted: AuthKind| {
            ensure!(
                is_set == (*kind == wanted),
                "the setting api.auth.{setting} belongs to the kind {wanted:?}, and api.auth.kind is {kind:?}: set \
                 both or neither"
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
        let fixed = |header: HeaderName, shown: Show| {
            let value = secret.watched(SECRET, move |secret| {
                Ok(Shown {
                    value: shown(&secret)?,
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
                    "the setting api.auth.user has a colon in it, and what comes after it would be read as the password"
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

    /// Adds what a request shows.
    pub(crate) async fn show(&self, headers: &mut HeaderMap) -> Result<(), NoCredentials> {
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

    /// The API did not take what these headers show.
    pub(crate) fn refused(&self, shown: Option<&HeaderValue>) {
        match (self, shown) {
            (Self::OAuth2(source), Some(shown)) => source.refused(shown),
            (Self::OAuth2(_), None) | (Self::None | Self::Fixed { .. }, _) => {}
        }
    }

    /// Takes secrets out of an answer that repeats them: it becomes an outcome or a dead letter.
    pub(crate) fn scrub(&self, body: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Fixed { value, .. } => {
                let Shown { value, secret } = value.get();
                hide(body, secret.reveal().as_bytes());
                hide_credentials(body, &value);
            }
            Self::OAuth2(source) => {
                if let Some(value) = source.current() {
                    hide_credentials(body, &value);
                }
            }
        }
    }
}

fn hide_credentials(body: &mut Vec<u8>, shown: &HeaderValue) {
    // Behind "Bearer " or "Basic ".
    if let Some(secret) = shown.as_bytes().rsplit(|byte| *byte == b' ').next() {
        hide(body, secret);
    }
}

/// What is shorter is found in texts by chance, and nobody's secret.
const HIDE_BYTES_MIN: usize = 6;

fn hide(body: &mut Vec<u8>, secret: &[u8]) {
    if secret.len() < HIDE_BYTES_MIN {
        return;
    }
    while let Some(at) = body.windows(secret.len()).position(|window| window == secret) {
        body.splice(at..at + secret.len(), HIDDEN.bytes());
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

    async fn shown(settings: &AuthSettings) -> HeaderMap {
        let credentials = Credentials::new(settings, Client::new).expect("credentials");
        let mut headers = HeaderMap::new();
        credentials.show(&mut headers).await.expect("a header");
        headers
    }

    #[tokio::test]
    async fn each_kind_shows_the_secret_in_its_way() {
        let secret = secret();
        let bearer = shown(&settings(AuthKind::Bearer, &secret)).await;
        assert_eq!(bearer[AUTHORIZATION], "Bearer open sesame");
        assert!(bearer[AUTHORIZATION].is_sensitive());
        let basic = shown(&AuthSettings {
            user: "Aladdin".into(),
            ..settings(AuthKind::Basic, &secret)
        })
        .await;
        // The example of RFC 7617, section 2.
        assert_eq!(basic[AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let header = shown(&AuthSettings {
            header: "X-Api-Key".into(),
            ..settings(AuthKind::Header, &secret)
        })
        .await;
        assert_eq!(header["x-api-key"], "open sesame");
    }

    #[test]
    fn settings_that_do_not_fit_together_are_refused() {
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
    fn an_answer_that_repeats_the_secret_is_scrubbed() {
        let secret = secret();
        let basic = AuthSettings {
            user: "Aladdin".into(),
            ..settings(AuthKind::Basic, &secret)
        };
        let credentials = Credentials::new(&basic, Client::new).expect("credentials");
        let mut body = b"open sesame? QWxhZGRpbjpvcGVuIHNlc2FtZQ== open sesame".to_vec();
        credentials.scrub(&mut body);
        assert_eq!(String::from_utf8_lossy(&body), "[secret]? [secret] [secret]");
    }
}
