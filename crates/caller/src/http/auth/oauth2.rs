//! Bearer tokens by the OAuth2 client credentials grant (RFC 6749, section 4.4). One token serves all calls
//! and is renewed before it expires.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use service::secrets::{Secret, SecretSource, Watched};

use crate::http::template::percent_encode;

/// Settings of the token endpoint: `[api.auth.oauth2]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OAuth2Settings {
    /// URL of the token endpoint.
    pub(crate) token_url: String,
    /// Client id. The client secret is `api.auth.secret`.
    pub(crate) client_id: String,
    /// Requested scopes, separated by blanks; empty: the server's default.
    pub(crate) scope: String,
    /// Audience of the token, for servers that require one; empty: not sent.
    pub(crate) audience: String,
    /// Place of client id and secret in the token request.
    pub(crate) client_auth: ClientAuth,
    /// Maximum duration of a token request. It adds to the duration of a call, so `caller.drain_timeout` must
    /// allow for it.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

/// Place of the client id and secret in a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    /// `Authorization` header, which RFC 6749 prefers.
    Basic,
    /// Fields of the form in the body.
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

/// Requests tokens and caches the latest one.
pub(crate) struct TokenSource {
    client: Box<dyn Fn() -> Client + Send + Sync>,
    settings: OAuth2Settings,
    url: Url,
    secret: Watched<Secret>,
    token: Mutex<Option<Token>>,
    /// Locked while a token is requested; holds the time of the latest request.
    requested_at: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    /// Time from which a new token is requested, while this one stays in use.
    renew_at: Instant,
    expires_at: Instant,
}

/// Minimum interval between token requests, however many calls need a token and however often the API refuses
/// one.
const REQUEST_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Lifetime of a token if the endpoint gives none (RFC 6749 only recommends `expires_in`).
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);

/// Maximum lifetime of a token, whatever the endpoint says. It also keeps `Instant` arithmetic within range.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Maximum size of a token response. Real ones have a few hundred bytes to a few KiB.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Successful token response (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Error response (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// No credentials are available at the moment; the reason was logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoCredentials;

impl TokenSource {
    /// Creates the source of these settings. Requests no token yet.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(
        settings: &OAuth2Settings,
        secret: &SecretSource,
        client: impl Fn() -> Client + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let url = Url::parse(&settings.token_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none())
            .context(
                "the setting api.auth.oauth2.token_url must be a URL that starts with https:// or http://, \
                 without a password",
            )?;
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
            requested_at: tokio::sync::Mutex::new(None),
        })
    }

    /// Returns a token that has not expired. All concurrent calls share one token request.
    ///
    /// # Errors
    /// No token is available; the reason was logged.
    pub(crate) async fn token(&self) -> Result<HeaderValue, NoCredentials> {
        let now = Instant::now();
        let token = self.unexpired(now);
        let mut requested_at = match &token {
            Some(token) if now < token.renew_at => return Ok(token.value.clone()),
            // Renewal delays one call only: the one that gets the lock renews, the others use the old token.
            Some(token) => match self.requested_at.try_lock() {
                Ok(requested_at) => requested_at,
                Err(_) => return Ok(token.value.clone()),
            },
            None => self.requested_at.lock().await,
        };
        // Read again: another call may have got a token, or failed, while this one waited for the lock.
        let now = Instant::now();
        let token = self.unexpired(now);
        let is_too_soon =
            requested_at.is_some_and(|at| now.saturating_duration_since(at) < REQUEST_INTERVAL_MIN);
        match token {
            Some(token) if now < token.renew_at || is_too_soon => return Ok(token.value),
            // Nothing was sent, so the call is retried with backoff and loses nothing by failing at once.
            None if is_too_soon => return Err(NoCredentials),
            Some(_) | None => {}
        }
        *requested_at = Some(now);
        match self.request(now).await {
            Ok(token) => {
                let value = token.value.clone();
                *self.lock() = Some(token);
                Ok(value)
            }
            Err(error) => {
                // Counted from the end: a request that took longer than the interval must not be followed by
                // the next one at once, by each of the calls that waited.
                *requested_at = Some(Instant::now());
                tracing::warn!(
                    token_url = %self.url, error = format!("{error:#}"),
                    "token request failed, calls without a token wait and are not sent"
                );
                token.map(|token| token.value).ok_or(NoCredentials)
            }
        }
    }

    /// Discards a token that the API refused.
    pub(crate) fn refused(&self, authorization: &HeaderValue) {
        let mut token = self.lock();
        // Late refusals of an earlier token must not discard its successor.
        if token.as_ref().is_some_and(|token| token.value == authorization) {
            *token = None;
            tracing::warn!(token_url = %self.url, "API refused the token, requesting a new one");
        }
    }

    /// Returns the latest token, expired or not.
    pub(crate) fn latest(&self) -> Option<HeaderValue> {
        self.lock().as_ref().map(|token| token.value.clone())
    }

    fn unexpired(&self, now: Instant) -> Option<Token> {
        self.lock().clone().filter(|token| now < token.expires_at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Token>> {
        // A token is replaced in one assignment, so a panic elsewhere leaves it whole.
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a token.
    ///
    /// # Errors
    /// The endpoint is unreachable, refuses, or returns no bearer token. No error quotes the response.
    async fn request(&self, now: Instant) -> anyhow::Result<Token> {
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
            // Each part is form-encoded before they are joined (RFC 6749, section 2.3.1).
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
            // The URL stands in the log entry already, and some have a secret in the query.
            .map_err(|error| anyhow!(error.without_url()))
            .context("the token endpoint did not respond")?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .context("reading the response of the token endpoint")?
        {
            ensure!(
                body.len() + chunk.len() <= RESPONSE_BYTES_MAX,
                "the response of the token endpoint is longer than {RESPONSE_BYTES_MAX} bytes"
            );
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            // Only the error code is quoted, and at most 60 characters of it: the rest may contain anything.
            let denied = serde_json::from_slice(&body).unwrap_or(Denied {
                error: "no reason".into(),
            });
            bail!(
                "the token endpoint responded with status {status}: {:.60}",
                denied.error
            );
        }
        // The library's error may quote a part of the response, and with it the token.
        let Ok(granted) = serde_json::from_slice::<Granted>(&body) else {
            bail!("the response of the token endpoint has no access_token");
        };
        let is_bearer = granted
            .token_type
            .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        ensure!(
            is_bearer,
            "the token endpoint returned a token that is not a bearer token"
        );
        let lifetime = granted
            .expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map_or(LIFETIME_DEFAULT, |lifetime| lifetime.min(LIFETIME_MAX));
        Ok(Token {
            value: Secret::header("Bearer ", &granted.access_token)?,
            // A fifth of the lifetime remains to survive an outage of the token endpoint.
            renew_at: now + lifetime.mul_f64(0.8),
            expires_at: now + lifetime,
        })
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    percent_encode(&mut encoded, text);
    encoded
}
