//! Bearer tokens by OAuth2's client credentials (RFC 6749, section 4.4): asked for once for all calls, and
//! again before they expire.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};

use super::secret::{Secret, SecretSource};
use super::watched_file::Watched;
use crate::http::template::percent_encode;

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OAuth2Settings {
    /// The address of the token endpoint.
    pub(crate) token_url: String,
    /// Who we are; the client secret is `api.auth.secret`.
    pub(crate) client_id: String,
    /// What is asked for, separated by blanks; empty: nothing in particular.
    pub(crate) scope: String,
    /// For whom the token is meant, where the server wants to be told; empty: it does not.
    pub(crate) audience: String,
    /// How the client id and secret are sent.
    pub(crate) client_auth: ClientAuth,
    /// How long a request for a token may take.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    /// In the `Authorization` header, as RFC 6749 prefers it.
    Basic,
    /// In the form.
    Body,
}

impl Default for OAuth2Settings {
    fn default() -> Self {
        Self {
            token_url: String::new(),
            client_id: String::new(),
            scope: String::new(),
            audience: String::new(),
            client_auth: ClientAuth::Basic,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Asks for tokens, and keeps the last one.
pub(crate) struct TokenSource {
    client: Box<dyn Fn() -> Client + Send + Sync>,
    settings: OAuth2Settings,
    url: Url,
    secret: Watched<Secret>,
    token: Mutex<Option<Token>>,
    /// OwnedPartition while a token is asked for; knows when that was.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    /// From then on a new one is asked for, while this one serves.
    renew_at: Instant,
    expires_at: Instant,
}

/// A token endpoint is not asked more often than this, however many calls want a token, and however often
/// the API refuses what it hands out.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Where the endpoint does not say how long a token lives.
const LIFE_UNSAID: Duration = Duration::from_secs(300);

/// An endpoint's answer is a few hundred bytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// There are none to be had at the moment; why was logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoCredentials;

impl TokenSource {
    /// The source of these settings. No token is asked for yet.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub(crate) fn new(
        settings: &OAuth2Settings,
        secret: &SecretSource,
        client: impl Fn() -> Client + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let url = Url::parse(&settings.token_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none())
            .context("the setting api.auth.oauth2.token_url must be an address that begins with https:// or http://")?;
        ensure!(
            !settings.client_id.is_empty(),
            "the setting api.auth.oauth2.client_id is empty"
        );
        ensure!(
            !settings.timeout.is_zero(),
            "the setting api.auth.oauth2.timeout must be longer than 0"
        );
        Ok(Self {
            client: Box::new(client),
            settings: settings.clone(),
            url,
            secret: secret.watched("api.auth.secret", Ok)?,
            token: Mutex::new(None),
            asking: tokio::sync::Mutex::new(None),
        })
    }

    /// A token that lives. Many may ask at once: one request is made for all of them.
    pub(crate) async fn token(&self) -> Result<HeaderValue, NoCredentials> {
        let now = Instant::now();
        let token = self.living(now);
        let mut asked_at = match &token {
            Some(token) if now < token.renew_at => return Ok(token.value.clone()),
            // It serves on; somebody else is asking for the next one.
            Some(token) => match self.asking.try_lock() {
                Ok(asked_at) => asked_at,
                Err(_) => return Ok(token.value.clone()),
            },
            None => self.asking.lock().await,
        };
        // What was asked for while this one waited is for this one, too.
        let now = Instant::now();
        let token = self.living(now);
        let is_too_soon = asked_at.is_some_and(|at| now.saturating_duration_since(at) < ASK_EVERY);
        match token {
            Some(token) if now < token.renew_at || is_too_soon => return Ok(token.value),
            None if is_too_soon => return Err(NoCredentials),
            Some(_) | None => {}
        }
        *asked_at = Some(now);
        match self.ask(now).await {
            Ok(token) => {
                let value = token.value.clone();
                *self.lock() = Some(token);
                Ok(value)
            }
            Err(error) => {
                // A slow failure must not be followed by another one at once.
                *asked_at = Some(Instant::now());
                tracing::warn!(
                    token_url = %self.url, error = format!("{error:#}"),
                    "no token could be had for the API; calls without one wait, and nothing of them was sent"
                );
                token.map(|token| token.value).ok_or(NoCredentials)
            }
        }
    }

    /// The API refused this token: the next call gets another one.
    pub(crate) fn refused(&self, shown: &HeaderValue) {
        let mut token = self.lock();
        if token.as_ref().is_some_and(|token| token.value == shown) {
            *token = None;
            tracing::warn!(token_url = %self.url, "the API refused its token; a new one is asked for");
        }
    }

    /// The last token.
    pub(crate) fn current(&self) -> Option<HeaderValue> {
        self.lock().as_ref().map(|token| token.value.clone())
    }

    fn living(&self, now: Instant) -> Option<Token> {
        self.lock().clone().filter(|token| now < token.expires_at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, now: Instant) -> anyhow::Result<Token> {
        let OAuth2Settings {
            client_id,
            scope,
            audience,
            client_auth,
            timeout,
            ..
        } = &self.settings;
        let secret = self.secret.get();
        let mut form = vec![("grant_type", "client_credentials")];
        let optional = [("scope", scope.as_str()), ("audience", audience.as_str())];
        form.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        let mut request = (self.client)().post(self.url.clone()).timeout(*timeout);
        match client_auth {
            // Both parts are encoded as in a form first (RFC 6749, section 2.3.1).
            ClientAuth::Basic => {
                let header = Secret::basic(&encoded(client_id), &encoded(secret.reveal()))?;
                request = request.header(AUTHORIZATION, header);
            }
            ClientAuth::Body => {
                form.extend([
                    ("client_id", client_id.as_str()),
                    ("client_secret", secret.reveal()),
                ]);
            }
        }
        let form: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let mut response = request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(form.join("&"))
            .send()
            .await
            .map_err(|error| anyhow!(error.without_url()))
            .context("the token endpoint did not answer")?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .context("the token endpoint's answer broke off")?
        {
            ensure!(
                body.len() + chunk.len() <= RESPONSE_BYTES_MAX,
                "the token endpoint's answer is longer than {RESPONSE_BYTES_MAX} bytes"
            );
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            // Its error code is a word of RFC 6749, section 5.2. The rest of the answer might hold anything.
            let denied = serde_json::from_slice(&body).unwrap_or(Denied {
                error: "no reason".into(),
            });
            bail!(
                "the token endpoint answered with status {status}: {:.60}",
                denied.error
            );
        }
        // The error of the library could repeat a part of the answer, and with it the token.
        let Ok(granted) = serde_json::from_slice::<Granted>(&body) else {
            bail!("the token endpoint's answer holds no access_token");
        };
        let is_bearer = granted
            .token_type
            .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        ensure!(
            is_bearer,
            "the token endpoint handed out something that is no bearer token"
        );
        let life = granted
            .expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map_or(LIFE_UNSAID, |life| life.min(LIFE_MAX));
        Ok(Token {
            value: Secret::header("Bearer ", &granted.access_token)?,
            // A fifth of its life is left for a token endpoint that is down for a while.
            renew_at: now + life.mul_f64(0.8),
            expires_at: now + life,
        })
    }
}

/// Nobody should rely on one token for longer.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    percent_encode(&mut encoded, text);
    encoded
}
