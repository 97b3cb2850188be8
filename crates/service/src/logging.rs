//! Logging to standard error: readable text on a terminal, otherwise one JSON object per line.

use std::io::IsTerminal as _;

use anyhow::{Context, bail};
use tracing_subscriber::EnvFilter;

/// Environment variable with the log filter, in the syntax of `tracing_subscriber::EnvFilter`, such as
/// `info,librdkafka=debug`. `RUST_LOG` applies if this is not set.
pub const FILTER_VARIABLE: &str = "OUTBOX_LOG";
/// Environment variable with the log format, `human` or `json`. Without it the terminal decides.
pub const FORMAT_VARIABLE: &str = "OUTBOX_LOG_FORMAT";

/// Starts logging for the whole process, panics included.
///
/// # Errors
/// One of the variables is not valid, or logging was started before.
pub fn init() -> anyhow::Result<()> {
    init_with_default("info")
}

/// Starts logging with another default filter: a command line is quieter than a service.
///
/// # Errors
/// The same as those of [`init`].
pub fn init_with_default(filter: &str) -> anyhow::Result<()> {
    // Compose files and manifests set a variable that is not wanted to the empty text, so that counts as not
    // set.
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (source, directives) = [FILTER_VARIABLE, "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)))
        .unwrap_or(("the default", filter.to_owned()));
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("{source} is {directives:?}, which is not a log filter such as \"info\""))?;
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
            // Fields at the top level, and the innermost span only: log stores index flat fields, and the
            // list of all spans would repeat them on every line.
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
    // The default hook prints plain text, which a log store that expects JSON per line drops or splits.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            at = panic.location().map(tracing::field::display),
            %backtrace,
            "panic: {}",
            panic.payload_as_str().unwrap_or("without a message"),
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn terminal_decides_the_format_unless_it_is_set() {
        assert!(is_json(None, false).expect("a format"));
        assert!(!is_json(None, true).expect("a format"));
        assert!(is_json(Some("json"), true).expect("a format"));
        assert!(!is_json(Some("human"), false).expect("a format"));
        let error = is_json(Some("xml"), true)
            .expect_err("no such format")
            .to_string();
        assert!(
            error.contains("OUTBOX_LOG_FORMAT") && error.contains("\"json\""),
            "{error}"
        );
    }
}
