//! The layering of the crates (`crates/README.md`), checked against their manifests, and the paths named there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Workspace crates that each crate may depend on. A crate not listed here may depend on all.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("records", &[]),
    ("schemas", &["records"]),
    ("pipeline", &["records", "schemas"]),
    ("registry", &["schemas", "service"]),
    ("store", &["records"]),
    ("kafka", &["records"]),
    ("service", &[]),
    ("membership", &["kafka", "service"]),
    ("legacy-api", &[]),
];

/// External crates that a crate must not depend on.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    // Formats of records only: no client, no runtime.
    ("records", &["rdkafka", "redb", "reqwest", "tokio", "tracing"]),
    // Schemas are parsed, and values read by them; neither is fetched.
    ("schemas", &["rdkafka", "redb", "reqwest", "tokio", "tracing"]),
    // Decisions read no clock, socket or random source; see also its `.clippy.toml`.
    (
        "pipeline",
        &[
            "rdkafka", "redb", "reqwest", "tokio", "tracing", "rand", "backoff",
        ],
    ),
    // A store does not know Kafka; only a program brings the two together.
    ("store", &["rdkafka", "tokio"]),
];

/// Number of crates below which the folder was not found as a whole.
const CRATES_MIN: usize = 10;

#[test]
fn crates_depend_only_on_allowed_crates() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let names: BTreeSet<String> = fs::read_dir(&crates)
        .expect("the folder of the crates")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // Without crates there would be nothing to violate.
    assert!(
        names.len() >= CRATES_MIN,
        "found only {names:?} in {}",
        crates.display()
    );

    for (name, allowed) in ALLOWED {
        let dependencies = dependencies(&crates.join(name));
        let violations: Vec<_> = dependencies
            .intersection(&names)
            .filter(|other| !allowed.contains(&other.as_str()))
            .collect();
        assert!(
            violations.is_empty(),
            "{name} depends on {violations:?}; of the workspace it may depend only on {allowed:?}"
        );
    }
    for (name, forbidden) in FORBIDDEN {
        let dependencies = dependencies(&crates.join(name));
        let violations: Vec<_> = forbidden
            .iter()
            .filter(|other| dependencies.contains(**other))
            .collect();
        assert!(violations.is_empty(), "{name} must not depend on {violations:?}");
    }
}

/// Returns the dependencies of a crate, without dev-dependencies.
fn dependencies(folder: &Path) -> BTreeSet<String> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let manifest: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Tests may use more: those of the pipeline need a random source.
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table
        .into_iter()
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// A rename that forgets the README would send its readers to files that are gone.
#[test]
fn source_paths_in_the_readme_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let crates = repository.join("crates");
    let readme = fs::read_to_string(crates.join("README.md")).expect("crates/README.md");
    let paths = source_paths(&readme);
    // Without paths none would be missing.
    assert!(!paths.is_empty(), "crates/README.md names no source path");

    // Relative to the README, or to the repository for what is outside `crates`.
    let exists = |path: &&str| crates.join(path).exists() || repository.join(path).exists();
    let missing: Vec<_> = paths.into_iter().filter(|path| !exists(path)).collect();
    assert!(
        missing.is_empty(),
        "crates/README.md names paths that do not exist: {missing:#?}"
    );
}

/// Returns the paths with `/src/` in the inline code of a Markdown text.
fn source_paths(markdown: &str) -> Vec<&str> {
    // Between two fences: the drawings and commands of a code block contain no inline code.
    let prose = markdown.split("```").step_by(2);
    prose
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .filter(|code| code.contains("/src/"))
        .collect()
}

#[test]
fn source_paths_are_inline_code_with_src() {
    let markdown = "Read `a/src/b.rs`, `c.rs`\n```\n`d/src/e.rs`\n```\nand `f/src/`, not g/src/h.rs.";
    assert_eq!(source_paths(markdown), ["a/src/b.rs", "f/src/"]);
}
