//! Passes the version on to the compiler: with the commit if the build names one in `OUTBOX_COMMIT`.

fn main() {
    println!("cargo:rerun-if-env-changed=OUTBOX_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    // Not asked of git: a build from an archive has none, and every commit would compile all programs again.
    let commit = std::env::var("OUTBOX_COMMIT").unwrap_or_default();
    let commit = commit.trim();
    if commit.is_empty() {
        println!("cargo:rustc-env=OUTBOX_VERSION={version} (development build)");
    } else {
        println!("cargo:rustc-env=OUTBOX_VERSION={version} ({commit})");
    }
}
