//! The rules of the house (`crates/README.md`), held against the manifests: which crate knows which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of the workspace that each of them may know. A crate that is not listed here may know all.
const MAY_KNOW: [(&str, &[&str]); 7] = [
    ("records", &[]),
    ("pipeline", &["records"]),
    ("store", &["records"]),
    ("kafka", &["records"]),
    ("service", &[]),
    ("membership", &["kafka", "service"]),
    ("legacy-api", &[]),
];

/// What a crate does without, and why.
const NEVER: [(&str, &[&str]); 3] = [
    ("records", &["rdkafka", "redb", "reqwest", "tokio", "tracing"]),
    // Decisions read no clock, socket or random source; see also its `.clippy.toml`.
    (
        "pipeline",
        &[
            "rdkafka", "redb", "reqwest", "tokio", "tracing", "rand", "backoff",
        ],
    ),
    ("store", &["rdkafka", "tokio"]),
];

#[test]
fn arrows_point_one_way() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let names: BTreeSet<String> = fs::read_dir(&crates)
        .expect("the crates")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        names.len() >= 9,
        "only {names:?} were found in {}",
        crates.display()
    );

    for (name, allowed) in MAY_KNOW {
        let known = dependencies(&crates.join(name));
        let wrong: Vec<_> = known
            .intersection(&names)
            .filter(|other| !allowed.contains(&other.as_str()))
            .collect();
        assert!(
            wrong.is_empty(),
            "{name} may know {allowed:?} of our crates, and knows {wrong:?}"
        );
    }
    for (name, banned) in NEVER {
        let known = dependencies(&crates.join(name));
        let wrong: Vec<_> = banned.iter().filter(|other| known.contains(**other)).collect();
        assert!(wrong.is_empty(), "{name} must do without {wrong:?}");
    }
}

/// What a crate depends on when it is used; what only its tests need is left out.
fn dependencies(folder: &Path) -> BTreeSet<String> {
    let path: PathBuf = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let manifest: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table
        .into_iter()
        .flat_map(|table| table.keys().cloned())
        .collect()
}
