//! `validator` and `caller`: replace this process by the program of that name beside it.
//!
//! bash has a builtin `caller`, which a shell runs in place of a program on its path.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::cli::Launch;
use crate::commands::Status;

/// Starts the program in place of this process, so that signals and the exit status are its own. Returns only if that
/// failed, with the error.
///
/// # Errors
/// The program is not beside this one, or cannot be executed.
pub(crate) fn run(program: &str, options: &Launch, config: Option<&Path>) -> anyhow::Result<Status> {
    let own = std::env::current_exe().context("finding the folder of this program")?;
    let path = own.with_file_name(program);
    let error = Command::new(&path).args(arguments(options, config)).exec();
    Err(error).with_context(|| not_started(&path))
}

/// Returns the arguments of the program. `--config` was taken from among them, because each command has it.
fn arguments(options: &Launch, config: Option<&Path>) -> Vec<OsString> {
    let config = config.map(|path| ["--config".into(), path.as_os_str().to_owned()]);
    config
        .into_iter()
        .flatten()
        .chain(options.arguments.iter().cloned())
        .collect()
}

fn not_started(path: &Path) -> String {
    format!(
        "starting {} failed; the programs of a release belong into one folder",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn arguments_reach_the_program() {
        for (line, expected) in [
            ("outbox caller", ""),
            ("outbox caller --config c.toml --check", "--config c.toml --check"),
            ("outbox --config c.toml caller --check", "--config c.toml --check"),
            (
                "outbox caller --show-request t/0@1 --config c.toml",
                "--show-request t/0@1 --config c.toml",
            ),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            let Command::Caller(options) = &cli.command else {
                panic!("{line} is another command");
            };
            let found = arguments(options, cli.config.as_deref());
            let expected: Vec<OsString> = expected.split_terminator(' ').map(Into::into).collect();
            assert_eq!(found, expected, "{line}");
        }
    }
}
