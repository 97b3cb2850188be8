//! The program: parses the flags, serves until a signal, and prints a summary.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use legacy_api::{Server, Settings};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    let settings = Settings::parse();
    let ended = runtime(settings.threads).and_then(|runtime| {
        let ended = runtime.block_on(serve(&settings));
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
