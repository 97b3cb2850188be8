//! Secrets, which appear in no log, metric, error message or dead letter.
//!
//! A settings file names the source of a secret and never contains it: `file:/run/secrets/token`,
//! `env:API_TOKEN`.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::Watched;

/// Secret text. Its `Debug` output is masked, it has no `Display`, and only [`Secret::reveal`] returns the
/// text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text itself. Each use must keep it out of logs and errors.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns a header value of prefix and secret, marked sensitive so that its `Debug` output is masked.
    ///
    /// # Errors
    /// The text has characters that no header can carry. The error does not quote it.
    pub fn header(prefix: &str, text: &str) -> anyhow::Result<HeaderValue> {
        let value = HeaderValue::from_str(&format!("{prefix}{text}"));
        // The library's error is dropped: it may quote the secret.
        let Ok(mut value) = value else {
            bail!("it has characters that no HTTP header can carry");
        };
        value.set_sensitive(true);
        Ok(value)
    }

    /// Returns the value of a `Basic` `Authorization` header (RFC 7617).
    ///
    /// # Errors
    /// As for [`Secret::header`].
    pub fn basic(user: &str, password: &str) -> anyhow::Result<HeaderValue> {
        Self::header("Basic ", &STANDARD.encode(format!("{user}:{password}")))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Text that replaces a secret in outputs.
pub const HIDDEN: &str = "[secret]";

/// Source of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretSource {
    /// The setting is empty.
    #[default]
    None,
    /// File, without its final line breaks; reloaded when it changes.
    File(PathBuf),
    /// Environment variable, fixed for the life of the process.
    Environment(String),
}

impl SecretSource {
    /// Reads the secret and makes a value from it, now and whenever its file changes.
    ///
    /// # Errors
    /// The secret cannot be read, is empty, or makes no valid value.
    pub fn watched<T: Clone>(
        &self,
        setting: &'static str,
        make: impl Fn(Secret) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Watched<T>> {
        let source = self.clone();
        let files = match self {
            Self::None | Self::Environment(_) => Vec::new(),
            Self::File(path) => vec![path.clone()],
        };
        Watched::new(setting, files, move || make(source.read(setting)?))
            .with_context(|| format!("loading the secret of the setting {setting}"))
    }

    fn read(&self, setting: &str) -> anyhow::Result<Secret> {
        let text = match self {
            Self::None => bail!("the setting {setting} is empty; it must be file:PATH or env:NAME"),
            Self::File(path) => {
                warn_if_others_may_read(path);
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
            }
            Self::Environment(name) => match std::env::var(name) {
                Ok(text) => text,
                // The library's error quotes a value that is not UTF-8.
                Err(_) => bail!("the environment variable {name} is not set, or is not UTF-8"),
            },
        };
        // Editors and `echo` append a line break, which no API expects in a token.
        let text = text.trim_end_matches(['\r', '\n']);
        // An empty secret would send "Bearer " with each order, and each would be refused with 401.
        ensure!(!text.is_empty(), "{} is empty", String::from(self.clone()));
        Ok(Secret(text.to_owned()))
    }
}

/// Warns if all users of the machine can access a file that contains a secret.
pub fn warn_if_others_may_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    // A missing file is reported by whoever reads it.
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode();
    // Group access is usual: orchestrators mount secrets with the group of the container.
    if mode & 0o007 != 0 {
        tracing::warn!(
            file = %path.display(), mode = format!("{:o}", mode & 0o777),
            "secret file is accessible to all users of this machine, run chmod o= on it"
        );
    }
}

impl TryFrom<String> for SecretSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text.is_empty() => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.into())),
            // The text may be the secret itself, so the error does not quote it.
            _ => Err("expected file:PATH or env:NAME; do not put a secret into a settings file".to_owned()),
        }
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> Self {
        match source {
            SecretSource::None => Self::new(),
            SecretSource::File(path) => format!("file:{}", path.display()),
            SecretSource::Environment(name) => format!("env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_masked_in_debug_output() {
        let secret = Secret("hunter2".into());
        assert_eq!(
            format!("{secret:?} {:#?}", Some(&secret)),
            "[secret] Some(\n    [secret],\n)"
        );
        let header = Secret::header("Bearer ", "hunter2").expect("a header");
        assert_eq!(header, "Bearer hunter2");
        assert!(!format!("{header:?}").contains("hunter2"));
        let error = Secret::header("", "hunter2\n").expect_err("a line break");
        assert!(!format!("{error:#?}").contains("hunter2"), "{error:#?}");
    }

    #[test]
    fn secret_in_the_settings_is_refused_unquoted() {
        let error = SecretSource::try_from("hunter2".to_owned()).expect_err("a secret");
        assert!(
            error.contains("file:PATH") && !error.contains("hunter2"),
            "{error}"
        );
        for (text, source) in [
            ("", SecretSource::None),
            ("env:TOKEN", SecretSource::Environment("TOKEN".into())),
            ("file:/run/a:b", SecretSource::File("/run/a:b".into())),
        ] {
            assert_eq!(SecretSource::try_from(text.to_owned()), Ok(source.clone()));
            assert_eq!(String::from(source), text);
        }
        for wrong in ["file:", "env:", "vault:x"] {
            assert!(SecretSource::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn unreadable_secret_is_refused_by_name() {
        let check = |source: SecretSource, names: &str| {
            let error = source.watched("api.auth.secret", Ok).err().expect(names);
            let text = format!("{error:#}");
            assert!(text.contains("api.auth.secret") && text.contains(names), "{text}");
        };
        check(SecretSource::None, "file:PATH");
        check(
            SecretSource::File("/nonexistent/secret".into()),
            "/nonexistent/secret",
        );
        check(
            SecretSource::Environment("OUTBOX_NO_SUCH_NAME".into()),
            "OUTBOX_NO_SUCH_NAME",
        );
        let empty = tempfile::NamedTempFile::new().expect("a file");
        check(SecretSource::File(empty.path().into()), "is empty");
    }
}
