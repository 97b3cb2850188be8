//! Start-up of a long-running program: settings, checks, run, exit code.

use std::process::ExitCode;

use anyhow::ensure;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{AdminSettings, probe};
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
    /// Returns the settings of the admin server, for the command `health`.
    pub admin: fn(&S) -> &AdminSettings,
    /// Runs until the shutdown is requested.
    pub run: fn(&S, &Shutdown) -> anyhow::Result<()>,
}

impl<S: DeserializeOwned + Serialize + Default> Program<S> {
    /// Carries out the command. Without one: loads and checks the settings, then runs the program, or checks the topics
    /// and returns.
    #[must_use]
    pub fn main(&self, flags: &cli::Flags, command: Option<cli::Command>) -> ExitCode {
        cli::finish(match command {
            Some(cli::Command::Health) => self.health(flags),
            None => self.start(flags),
        })
    }

    fn health(&self, flags: &cli::Flags) -> anyhow::Result<()> {
        ensure!(
            !flags.check,
            "--check and the command health cannot be combined; use one of them"
        );
        let settings: S = config::load(flags.config.as_deref(), self.renamed_settings)?;
        println!("{}", probe::ask_ready((self.admin)(&settings).listen)?);
        Ok(())
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
