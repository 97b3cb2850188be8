//! Start-up of a long-running program: settings, checks, run, exit code.

use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Rename;
use crate::{Shutdown, cli, config, logging};

/// Long-running program, as [`Program::main`] starts it; `S` are its settings.
#[derive(Clone, Copy, Debug)]
pub struct Program<S> {
    /// Old names of settings, which are refused with their new names.
    pub renamed_settings: &'static [Rename],
    /// Checks what the types of the settings cannot express.
    pub check_settings: fn(&S) -> anyhow::Result<()>,
    /// Checks the topics, for `--check`.
    pub check_topics: fn(&S) -> anyhow::Result<()>,
    /// Runs until the shutdown is requested.
    pub run: fn(&S, &Shutdown) -> anyhow::Result<()>,
}

impl<S: DeserializeOwned + Serialize + Default> Program<S> {
    /// Loads and checks the settings, then runs the program, or checks the topics and returns.
    #[must_use]
    pub fn main(&self, flags: &cli::Flags) -> ExitCode {
        cli::finish(self.start(flags))
    }

    fn start(&self, flags: &cli::Flags) -> anyhow::Result<()> {
        logging::init()?;
        // Before anything that takes time: a signal during start-up must drain, not kill.
        let shutdown = Shutdown::on_signals()?;
        let settings: S = config::load(flags.config.as_deref(), self.renamed_settings)?;
        (self.check_settings)(&settings)?;
        if flags.check {
            (self.check_topics)(&settings)?;
            println!("the settings and the topics are sound");
            return Ok(());
        }
        (self.run)(&settings, &shutdown)
    }
}
