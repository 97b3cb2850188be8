//! Commands, one module each.

mod cause_shape;
pub(crate) mod dead_letters;
pub(crate) mod group;
pub(crate) mod launch;
pub(crate) mod metrics;
pub(crate) mod notes;
pub(crate) mod operations;
pub(crate) mod order;
pub(crate) mod parked;
pub(crate) mod replay;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod switch;
pub(crate) mod topics;

/// Result of a command that could be carried out. It becomes the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// All checks passed, or all changes were made.
    Ok,
    /// A check found something that a program refuses to start on, or a requested change was not made.
    Problem,
}

/// Prints a result as JSON on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
