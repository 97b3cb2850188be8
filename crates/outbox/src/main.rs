//! The operator's command line of the outbox pipeline.

mod cli;
mod commands;
mod config;
mod confirm;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::cli::{Cli, Command};
use crate::commands::Answer;
use crate::config::Config;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(Answer::Sound) => ExitCode::SUCCESS,
        Ok(Answer::Unsound) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Answer> {
    // librdkafka's own lines would stand between a command's; what matters of them is in its errors.
    service::logging::init_with_default("warn,librdkafka=off")?;
    let config: Config = service::config::load(cli.config.as_deref(), &[])?;
    config.check().context("the settings are refused")?;
    match &cli.command {
        Command::Topics(command) => commands::topics::run(command, &config, cli.json),
        Command::Notes(which) => commands::notes::run(which, &config, cli.json),
    }
}
