//! Idempotency keys that an operator names, on the command line or in a file.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, ensure};

/// Maximum number of keys of one command, which are kept in memory.
const KEYS_MAX: usize = 100_000;

/// Returns the keys of the arguments, or else those of the file, in which `-` is standard input; `None` if neither is
/// given.
///
/// # Errors
/// The file cannot be read, or there are no keys in it, or too many.
pub(crate) fn keys(arguments: &[String], file: Option<&Path>) -> anyhow::Result<Option<BTreeSet<String>>> {
    let keys = match file {
        None if arguments.is_empty() => return Ok(None),
        None => arguments.iter().cloned().collect(),
        Some(file) if file == Path::new("-") => lines(std::io::stdin().lock())?,
        Some(file) => {
            let opened = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
            lines(BufReader::new(opened)).with_context(|| format!("reading {}", file.display()))?
        }
    };
    ensure!(!keys.is_empty(), "there are no keys: nothing to do");
    Ok(Some(keys))
}

/// Reads one key per line. Empty lines are skipped.
fn lines(input: impl std::io::BufRead) -> anyhow::Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for line in input.lines() {
        let line = line?;
        let key = line.strip_suffix('\r').unwrap_or(&line);
        if !key.is_empty() {
            keys.insert(key.to_owned());
        }
        ensure!(
            keys.len() <= KEYS_MAX,
            "there are more than {KEYS_MAX} keys: name them in parts"
        );
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines() {
        let keys = lines("b\r\na b\n\n a\n".as_bytes()).expect("read");
        assert_eq!(keys, ["b", "a b", " a"].map(str::to_owned).into());
    }

    #[test]
    fn no_keys_are_named_or_an_empty_file_is_refused() {
        assert_eq!(keys(&[], None).expect("none"), None);
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(keys(&[], Some(file.path())).is_err());
        let named = keys(&["a".to_owned()], None).expect("named");
        assert_eq!(named, Some(["a".to_owned()].into()));
    }
}
