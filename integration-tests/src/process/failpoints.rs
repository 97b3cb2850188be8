//! Failpoints that a start asks for: crash points, freezes, failures, and guards to disable.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// Environment variable from which the programs read their failpoints.
pub(super) const VARIABLE: &str = "FAILPOINTS";

/// Returns the failpoints among these variables, after those of `OUTBOX_TEST_GUARDS`.
///
/// # Errors
/// A name is none of the programs' failpoints, which the programs would ignore without a word.
pub(super) fn requested(variables: &[(&str, &str)]) -> Result<String> {
    // Disables guards in every program, to see a scenario fail:
    // `OUTBOX_TEST_GUARDS="guard-high-watermark=return"`.
    let guards = std::env::var("OUTBOX_TEST_GUARDS").unwrap_or_default();
    let of_scenario = variables
        .iter()
        .filter(|(name, _)| *name == VARIABLE)
        .map(|(_, value)| *value);
    let requested = [guards.as_str()]
        .into_iter()
        .chain(of_scenario)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(";");
    for failpoint in requested.split(';').filter(|failpoint| !failpoint.is_empty()) {
        let name = failpoint.split('=').next().unwrap_or_default().trim();
        ensure!(
            known()?.contains(name),
            "no program has the failpoint {name:?}, so it would do nothing; they have {:?}",
            known()?
        );
    }
    Ok(requested)
}

/// Returns the names of the failpoints in the sources of the programs.
fn known() -> Result<&'static BTreeSet<String>> {
    static KNOWN: OnceLock<Result<BTreeSet<String>>> = OnceLock::new();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let known = KNOWN.get_or_init(|| {
        let mut names = BTreeSet::new();
        collect(&crates, &mut names)?;
        // Sources without failpoints are not the programs' sources.
        ensure!(!names.is_empty(), "no failpoints in {}", crates.display());
        Ok(names)
    });
    known
        .as_ref()
        .map_err(|error| anyhow::anyhow!("reading the names of the failpoints: {error:#}"))
}

fn collect(folder: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            names.extend(names_in(&text));
        }
    }
    Ok(())
}

/// Returns the first argument of each failpoint macro.
fn names_in(source: &str) -> impl Iterator<Item = String> {
    [
        "kill_at!(\"",
        "freeze_at!(\"",
        "fails_at!(\"",
        "guard_removed!(\"",
    ]
    .into_iter()
    .flat_map(move |call| source.split(call).skip(1))
    .filter_map(|rest| rest.split('"').next())
    .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_failpoint_is_an_error() {
        let known = requested(&[(VARIABLE, "before-commit=2*off->return;guard-intents=return")]);
        assert!(known.is_ok(), "{known:?}");
        let error = requested(&[(VARIABLE, "guard-that-was-renamed=return")]).expect_err("an unknown name");
        assert!(error.to_string().contains("guard-that-was-renamed"), "{error}");
    }
}
