//! Asks before something is written.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use anyhow::{Context, bail};

/// Whether the person agrees; `yes` stands for an answer given beforehand.
///
/// # Errors
/// Nobody is there to be asked.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("{question} Nobody can be asked, as standard input is no terminal: say so with --yes");
    }
    // The question is no part of the result, which may go to a file.
    eprint!("{question} [y/N] ");
    io::stderr().flush().context("the question cannot be shown")?;
    answer(stdin.lock())
}

fn answer(mut input: impl BufRead) -> anyhow::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line).context("the answer cannot be read")?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn only_a_yes_is_one() {
        for (line, agreed) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("", false),
            ("no\n", false),
            ("yy", false),
        ] {
            assert_eq!(answer(line.as_bytes()).expect("read"), agreed, "{line:?}");
        }
    }
}
