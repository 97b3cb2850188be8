//! The program: parses the flags, serves until a signal, and prints a summary.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use legacy_api::{Server, Settings};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

/// Stand-in for a legacy payments API. It charges once per request, not once per order, and counts the charges.
#[derive(Parser)]
#[command(name = "legacy-api", version)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks a running stand-in at the address of --listen, or of --control-listen if it is given, and prints its
    /// statistics. Exit status 1 if there is no answer within 3 s. For health checks of containers.
    Health,
}

fn main() -> ExitCode {
    let CommandLine { settings, command } = CommandLine::parse();
    let ended = runtime(settings.threads).and_then(|runtime| {
        let ended = match command {
            None => runtime.block_on(serve(&settings)),
            Some(Command::Health) => runtime.block_on(health(&settings)),
        };
        // Slow and silent requests would delay the exit for up to --silence-max.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("legacy-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn health(settings: &Settings) -> anyhow::Result<()> {
    let answer = legacy_api::ask(settings.control_listen.unwrap_or(settings.listen)).await?;
    println!("{answer}");
    Ok(())
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    // Installed before the address is printed: a script may send the signal as soon as it has read it.
    let mut terminate = signal(SignalKind::terminate()).context("installing the handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("installing the handler for SIGINT")?;
    let server = Server::bind(settings).await?;
    let counter = server.counter();
    announce(&server)?;
    tokio::select! {
        ended = server.run() => ended?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("legacy-api: {}", counter.stats());
    Ok(())
}

/// Prints the addresses. Scripts read the first line to learn the port.
fn announce(server: &Server) -> anyhow::Result<()> {
    // Standard output only: with port 0, a script waits for this line.
    let mut stdout = std::io::stdout().lock();
    let mut lines = format!("listening on http://{}\n", server.address());
    if let Some(address) = server.control_address() {
        lines.push_str(&format!("control on http://{address}\n"));
    }
    stdout
        .write_all(lines.as_bytes())
        .and_then(|()| stdout.flush())
        .context("printing the address")
}

/// Builds the runtime. With one thread it runs on the main thread, and a request never changes threads.
fn runtime(threads: u32) -> anyhow::Result<Runtime> {
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads as usize);
    }
    builder
        .enable_all()
        .build()
        .context("starting the threads of the server (--threads)")
}
