//! Text that nobody may read: in no log, no metric, no error and no dead letter.
//!
//! A settings file names where a secret is, and never holds it: `file:/run/secrets/token`, `env:API_TOKEN`.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::watched_file::Watched;

/// A secret. It can be shown to nobody; who needs it says so by [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself. Look twice at where it goes.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// For a header, marked so that nobody prints it.
    ///
    /// # Errors
    /// A header cannot hold it. The error does not say it either.
    pub(crate) fn header(prefix: &str, text: &str) -> anyhow::Result<HeaderValue> {
        let value = HeaderValue::from_str(&format!("{prefix}{text}"));
        // The error of the library is left out: nothing that has seen the secret speaks.
        let Ok(mut value) = value else {
            bail!("it has characters that no HTTP header can hold");
        };
        value.set_sensitive(true);
        Ok(value)
    }

    /// For the header `Authorization`: `Basic`, as RFC 7617 has it.
    ///
    /// # Errors
    /// As for [`Secret::header`].
    pub(crate) fn basic(user: &str, password: &str) -> anyhow::Result<HeaderValue> {
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

/// What stands where a secret stood.
pub(crate) const HIDDEN: &str = "[secret]";

/// Where a secret is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum SecretSource {
    /// Nowhere: the setting is empty.
    #[default]
    None,
    /// In a file, without the end of its last line; it is read anew when it changes.
    File(PathBuf),
    /// In a variable of the environment, for as long as the process lives.
    Environment(String),
}

impl SecretSource {
    /// Reads it now, and again whenever its file changes.
    ///
    /// # Errors
    /// It cannot be read, or is empty.
    pub(crate) fn watched<T: Clone>(
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
            .with_context(|| format!("the secret of the setting {setting} cannot be used"))
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
                // The error of the library would show what is in the variable.
                Err(_) => bail!("the variable {name} is not in the environment, or is no UTF-8"),
            },
        };
        let text = text.trim_end_matches(['\r', '\n']);
        ensure!(!text.is_empty(), "{} is empty", String::from(self.clone()));
        Ok(Secret(text.to_owned()))
    }
}

/// Says so when a file with a secret can be read by everybody on the machine.
pub(crate) fn warn_if_others_may_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!(
            file = %path.display(), mode = format!("{:o}", mode & 0o777),
            "a file with a secret can be used by everybody on this machine; chmod o= it"
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
            // What stands there may be the secret itself, so it is not repeated.
            _ => Err(
                "expected file:PATH or env:NAME; a secret itself does not belong into a settings file"
                    .to_owned(),
            ),
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
    fn a_secret_shows_itself_to_nobody() {
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
    fn a_secret_in_the_settings_is_refused_without_repeating_it() {
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
    fn what_cannot_be_read_is_refused_by_name() {
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
