//! Confirmation by the operator before anything is changed.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use anyhow::{Context, bail};

/// Asks the operator, and returns whether the answer was yes. With `yes` it does not ask.
///
/// # Errors
/// Standard input is not a terminal, or cannot be read.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    let stdin = io::stdin();
    // In a script, waiting for an answer would hang, and taking the end of input for a yes would be worse.
    if !stdin.is_terminal() {
        bail!("{question} Standard input is not a terminal, so there is no one to ask: confirm with --yes");
    }
    // To standard error: the result on standard output may be redirected to a file.
    eprint!("{question} [y/N] ");
    io::stderr().flush().context("printing the question")?;
    answer(stdin.lock())
}

/// Asks the operator to type a number, and returns whether it is the right one. `option` is the one that gives the
/// number in a script.
///
/// # Errors
/// Standard input is not a terminal, or cannot be read.
pub(crate) fn confirm_number(question: &str, number: u64, option: &str) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!(
            "{question} Standard input is not a terminal, so there is no one to ask: confirm with {option} {number}"
        );
    }
    eprint!("{question} Type {number} to go on: ");
    io::stderr().flush().context("printing the question")?;
    is_number(stdin.lock(), number)
}

fn is_number(mut input: impl BufRead, number: u64) -> anyhow::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line).context("reading the answer")?;
    Ok(line.trim() == number.to_string())
}

fn answer(mut input: impl BufRead) -> anyhow::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line).context("reading the answer")?;
    // Everything but a clear yes is a no, an empty line and the end of input included.
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::{answer, is_number};

    #[test]
    fn only_the_number_confirms() {
        assert!(is_number("312\n".as_bytes(), 312).expect("read"));
        for line in ["y\n", "\n", "", "31\n", "312 yes\n"] {
            assert!(!is_number(line.as_bytes(), 312).expect("read"), "{line:?}");
        }
    }

    #[test]
    fn only_yes_confirms() {
        for (line, confirmed) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("", false),
            ("no\n", false),
            ("yy", false),
        ] {
            assert_eq!(answer(line.as_bytes()).expect("read"), confirmed, "{line:?}");
        }
    }
}
