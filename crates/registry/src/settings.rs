//! Settings of the schema registry: `[schema_registry]`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::Url;
use schemas::{CacheLimits, Schemas};
use serde::{Deserialize, Serialize};
use service::secrets::SecretSource;

use crate::client::RegistryClient;

/// Settings of the schema registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// URLs of the registry, each with its path if it has one; asked in this order until one answers. Empty: orders are
    /// read as they are.
    pub urls: Vec<String>,
    /// Maximum duration of a request.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Time for which the registry must have said that it has no such schema until it is believed: its instances learn
    /// of a new one after each other. Not for callers, which wait until it has the schema
    /// ([`crate::EndsWait::Schema`]).
    #[serde(with = "humantime_serde")]
    pub unknown_after: Duration,
    /// Time for which a schema then counts as unknown, before the registry is asked again.
    #[serde(with = "humantime_serde")]
    pub unknown_for: Duration,
    /// Maximum number of schemas that are kept.
    pub schemas_max: usize,
    /// Credentials of the requests.
    pub auth: RegistryAuth,
    /// Certificate authorities for HTTPS.
    pub tls: RegistryTls,
}

/// Credentials for the registry: `[schema_registry.auth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryAuth {
    /// Kind of credentials.
    pub kind: RegistryAuthKind,
    /// Bearer token or password, as `file:PATH` or `env:NAME`.
    pub secret: SecretSource,
    /// User name, for `basic`.
    pub user: String,
}

/// Kinds of credentials for the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryAuthKind {
    /// Requests carry no credentials.
    #[default]
    None,
    /// `Authorization: Bearer`, with the secret as the token.
    Bearer,
    /// `Authorization: Basic`, with user name and secret.
    Basic,
}

/// Certificates for HTTPS: `[schema_registry.tls]`. The file is PEM, and is reloaded when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryTls {
    /// Certificate authorities trusted for the registry, in place of the system's; empty: the system's.
    pub ca_file: PathBuf,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            timeout: Duration::from_secs(5),
            // Longer than instances of a registry usually lag behind each other.
            unknown_after: Duration::from_secs(5),
            unknown_for: Duration::from_secs(60),
            schemas_max: 1_000,
            auth: RegistryAuth::default(),
            tls: RegistryTls::default(),
        }
    }
}

impl RegistrySettings {
    /// Returns an empty cache of schemas; `None` if orders are read as they are.
    #[must_use]
    pub fn schemas(&self) -> Option<Schemas> {
        let limits = CacheLimits {
            ids_max: self.schemas_max,
            unknown_for: self.unknown_for,
        };
        (!self.urls.is_empty()).then(|| Schemas::new(limits))
    }

    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what is allowed.
    pub fn check(&self) -> anyhow::Result<()> {
        for text in &self.urls {
            // The URL may contain the password, so the errors do not quote it.
            let authority = text.split('/').nth(2).unwrap_or_default();
            ensure!(
                !authority.contains('@'),
                "the setting schema_registry.urls contains a user name or password, which would appear in logs; use \
                 [schema_registry.auth]"
            );
            let url =
                Url::parse(text).with_context(|| format!("the setting schema_registry.urls has {text:?}"))?;
            ensure!(
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.query().is_none()
                    && url.fragment().is_none(),
                "the setting schema_registry.urls has {text:?}; it must start with http:// or https:// and have no query"
            );
        }
        let auth = &self.auth;
        match auth.kind {
            RegistryAuthKind::None if auth.secret != SecretSource::None || !auth.user.is_empty() => bail!(
                "schema_registry.auth has a secret or a user, which are not used with schema_registry.auth.kind = \
                 \"none\"; set it to \"basic\" or \"bearer\""
            ),
            RegistryAuthKind::Basic if auth.user.is_empty() => bail!(
                "the setting schema_registry.auth.user is empty; schema_registry.auth.kind = \"basic\" needs a user name"
            ),
            RegistryAuthKind::None | RegistryAuthKind::Bearer | RegistryAuthKind::Basic => {}
        }
        ensure!(
            !self.timeout.is_zero(),
            "the setting schema_registry.timeout is 0; no request could be answered"
        );
        ensure!(
            self.unknown_for >= Duration::from_secs(1),
            "the setting schema_registry.unknown_for is {:?}; it must be at least 1s, or each order of an unknown schema \
             would ask the registry again",
            self.unknown_for
        );
        // Each partition waits for one schema at a time, which must not be forgotten for another one's.
        ensure!(
            (100..=100_000).contains(&self.schemas_max),
            "the setting schema_registry.schemas_max is {}; it must be from 100 to 100000",
            self.schemas_max
        );
        if !self.urls.is_empty() {
            // Reads the files that the settings name.
            RegistryClient::new(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let check = |change: fn(&mut RegistrySettings), expected: &str| {
            let mut settings = RegistrySettings::default();
            change(&mut settings);
            let error = settings.check().expect_err(expected).to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        };
        check(|s| s.urls = vec!["ftp://h".into()], "http://");
        check(|s| s.urls = vec!["h:8081".into()], "schema_registry.urls");
        check(
            |s| s.urls = vec!["http://u:hunter2@h".into()],
            "[schema_registry.auth]",
        );
        check(|s| s.urls = vec!["http://h/?a=1".into()], "query");
        check(|s| s.auth.user = "u".into(), "schema_registry.auth.kind");
        check(|s| s.auth.kind = RegistryAuthKind::Basic, "auth.user");
        check(|s| s.timeout = Duration::ZERO, "schema_registry.timeout");
        check(|s| s.unknown_for = Duration::ZERO, "unknown_for");
        check(|s| s.schemas_max = 1, "schemas_max");
        let default = RegistrySettings::default();
        default.check().expect("the defaults are valid");
        assert!(default.schemas().is_none(), "no registry by default");
    }
}
