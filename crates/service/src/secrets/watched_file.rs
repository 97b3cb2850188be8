//! Values made from files and reloaded when the files change, so that secrets and certificates are renewed
//! while the program runs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Interval at which the files are checked for changes. A `stat` each second costs nothing, and one second of
/// requests with an old secret is retried.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Value and the files that it is made from.
pub struct Watched<T> {
    setting: &'static str,
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: T,
    versions: Vec<FileVersion>,
    checked_at: Instant,
}

/// Modification time, size and inode of a file; `None` if it cannot be read. The inode changes when a
/// symbolic link in the path is switched to another file, as Kubernetes does for mounted secrets.
type FileVersion = Option<(SystemTime, u64, u64)>;

impl<T: Clone> Watched<T> {
    /// Makes the value for the first time. `setting` names it in logs.
    ///
    /// # Errors
    /// The error of `make`.
    pub fn new(
        setting: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        // Taken before the files are read: a change in between causes one reload too many instead of being
        // missed.
        let versions = files.iter().map(version).collect();
        let state = State {
            value: make()?,
            versions,
            checked_at: Instant::now(),
        };
        Ok(Self {
            setting,
            files,
            make: Box::new(make),
            state: Mutex::new(state),
        })
    }

    /// Returns the value, reloaded if its files have changed. If the reload fails, the previous value stays
    /// in use and an error is logged.
    pub fn get(&self) -> T {
        self.get_at(Instant::now())
    }

    fn get_at(&self, now: Instant) -> T {
        // The value is replaced in one assignment, so a panic elsewhere leaves it whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files.is_empty() || now.saturating_duration_since(state.checked_at) < CHECK_INTERVAL {
            return state.value.clone();
        }
        state.checked_at = now;
        let versions: Vec<_> = self.files.iter().map(version).collect();
        if versions != state.versions {
            let setting = self.setting;
            match (self.make)() {
                Ok(value) => {
                    state.value = value;
                    tracing::info!(setting, files = ?self.files, "files changed, value reloaded");
                }
                // The old secret may stay valid for hours, and failing now would stop all payments.
                Err(error) => tracing::error!(
                    setting, files = ?self.files, error = format!("{error:#}"),
                    "reload of changed files failed, keeping the previous value; operator action required"
                ),
            }
            // Also after a failure: the same broken file is not read and logged again each second.
            state.versions = versions;
        }
        state.value.clone()
    }
}

fn version(path: &PathBuf) -> FileVersion {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A secret is renewed by renaming a new file over the old one, as orchestrators do; then the file is
    /// removed and created again.
    #[test]
    fn changed_file_is_reloaded_missing_file_is_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let write = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).expect("written");
            std::fs::rename(&new, &path).expect("renamed");
        };
        write("one");
        let read = path.clone();
        let watched = Watched::new("test", vec![path.clone()], move || {
            Ok(std::fs::read_to_string(&read)?)
        })
        .expect("a value");
        let started = Instant::now();
        let at = |checks: u32| watched.get_at(started + CHECK_INTERVAL * checks + Duration::from_millis(1));
        assert_eq!(watched.get(), "one");
        write("two");
        assert_eq!(watched.get_at(started), "one", "checked too early");
        assert_eq!(at(1), "two");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(at(2), "two");
        assert_eq!(at(3), "two");
        write("three");
        assert_eq!(at(4), "three");
    }

    #[test]
    fn failure_at_the_start_is_an_error() {
        let watched = Watched::<String>::new("test", Vec::new(), || anyhow::bail!("no"));
        assert!(watched.is_err());
    }
}
