//! Log files of processes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Marker line that separates the runs of a process in its log file.
pub(crate) const STARTED: &str = "---- started";

/// Number of bytes of a log that are shown after a failure.
const TAIL_BYTES: u64 = 4_000;

/// Returns what a log holds after its last start marker.
pub(crate) fn last_run(log: &str) -> &str {
    log.rsplit(STARTED).next().unwrap_or_default()
}

/// Returns the end of a log file, with its path as heading.
#[must_use]
pub fn tail_of(log: &Path) -> String {
    // Shown in place of an error: the failure that led here matters more.
    let text = read_tail(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
    format!("---- the end of {} ----\n{text}", log.display())
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // The cut may fall within a character.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
