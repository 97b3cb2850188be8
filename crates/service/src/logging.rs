//! Logs go to standard error: for a person where that is a terminal, else one JSON object a line.

use std::io::IsTerminal as _;

use anyhow::{Context, bail};
use tracing_subscriber::EnvFilter;

/// What is logged, in the syntax of `tracing_subscriber::EnvFilter`, such as `info,rdkafka=debug`.
/// `RUST_LOG` is heard where this is not set.
pub const FILTER_VARIABLE: &str = "OUTBOX_LOG";
/// `human` or `json`, where the choice by the terminal is not wanted.
pub const FORMAT_VARIABLE: &str = "OUTBOX_LOG_FORMAT";

/// Starts logging, for the whole process. Panics are logged too, so that no line escapes the format.
///
/// # Errors
/// One of the variables cannot be understood, or logging was started before.
pub fn init() -> anyhow::Result<()> {
    init_with_default("info")
}

/// The same with another filter where the environment has none; a command line is quieter than a service.
///
/// # Errors
/// As of [`init`].
pub fn init_with_default(filter: &str) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (source, directives) = [FILTER_VARIABLE, "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)))
        .unwrap_or(("the default", filter.to_owned()));
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("{source} is {directives:?}, which is no log filter, such as \"info\""))?;
    let json = is_json(
        variable(FORMAT_VARIABLE).as_deref(),
        std::io::stderr().is_terminal(),
    )?;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        builder.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    log_panics();
    Ok(())
}

fn is_json(format: Option<&str>, is_terminal: bool) -> anyhow::Result<bool> {
    match format {
        None => Ok(!is_terminal),
        Some("human") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => bail!("{FORMAT_VARIABLE} is {other:?}; expected \"human\" or \"json\""),
    }
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            at = panic.location().map(tracing::field::display),
            %backtrace,
            "panic: {}",
            panic.payload_as_str().unwrap_or("without a text"),
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn the_format_follows_the_terminal_unless_it_is_said() {
        assert!(is_json(None, false).expect("a choice"));
        assert!(!is_json(None, true).expect("a choice"));
        assert!(is_json(Some("json"), true).expect("a choice"));
        assert!(!is_json(Some("human"), false).expect("a choice"));
        let error = is_json(Some("xml"), true)
            .expect_err("no such format")
            .to_string();
        assert!(
            error.contains("OUTBOX_LOG_FORMAT") && error.contains("\"json\""),
            "{error}"
        );
    }
}
