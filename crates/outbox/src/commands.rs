//! The commands, one module each.

pub(crate) mod notes;
pub(crate) mod topics;

/// What a command found; it becomes the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All is well.
    Sound,
    /// Something is wrong that a program would refuse to start on, or what was asked for was not done.
    Unsound,
}

/// A result for a program.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
