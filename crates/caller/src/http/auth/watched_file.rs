//! What is made from files, and made anew when they change: secrets and certificates are renewed while the
//! program runs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a change may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A value and the files that it is made from.
pub(crate) struct Watched<T> {
    setting: &'static str,
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: T,
    stamps: Vec<Stamp>,
    looked_at: Instant,
}

/// What changes with a file, also when a link in its path is turned to another file.
type Stamp = Option<(SystemTime, u64, u64)>;

impl<T: Clone> Watched<T> {
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(
        setting: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        // Before the files are read: what changes in between is read once too often, and not missed.
        let stamps = files.iter().map(stamp).collect();
        let state = State {
            value: make()?,
            stamps,
            looked_at: Instant::now(),
        };
        Ok(Self {
            setting,
            files,
            make: Box::new(make),
            state: Mutex::new(state),
        })
    }

    /// The value. Where its files have become unusable, the last one is kept, and that is told.
    pub(crate) fn get(&self) -> T {
        self.get_at(Instant::now())
    }

    fn get_at(&self, now: Instant) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files.is_empty() || now.saturating_duration_since(state.looked_at) < LOOK_EVERY {
            return state.value.clone();
        }
        state.looked_at = now;
        let stamps: Vec<_> = self.files.iter().map(stamp).collect();
        if stamps != state.stamps {
            let setting = self.setting;
            match (self.make)() {
                Ok(value) => {
                    state.value = value;
                    tracing::info!(setting, files = ?self.files, "files have changed and are read anew");
                }
                Err(error) => tracing::error!(
                    setting, files = ?self.files, error = format!("{error:#}"),
                    "files have changed and cannot be used; what was read before is used on"
                ),
            }
            state.stamps = stamps;
        }
        state.value.clone()
    }
}

fn stamp(path: &PathBuf) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Story: a secret is renewed by a new file in the old one's place, as orchestrators do it; then the file
    /// goes, and comes back.
    #[test]
    fn a_change_is_seen_and_what_cannot_be_read_changes_nothing() {
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
        let begun = Instant::now();
        let at = |looks: u32| watched.get_at(begun + LOOK_EVERY * looks + Duration::from_millis(1));
        assert_eq!(watched.get(), "one");
        write("two");
        assert_eq!(watched.get_at(begun), "one", "looked too early");
        assert_eq!(at(1), "two");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(at(2), "two");
        assert_eq!(at(3), "two");
        write("three");
        assert_eq!(at(4), "three");
    }

    #[test]
    fn what_cannot_be_made_at_first_is_refused() {
        let watched = Watched::<String>::new("test", Vec::new(), || anyhow::bail!("no"));
        assert!(watched.is_err());
    }
}
