//! The program: settings, server, and a summary when it is told to stop.

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
        // Requests that are still slow or silent must not hold up the end.
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
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
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

/// Scripts read the first line to learn the port.
fn announce(server: &Server) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut lines = format!("listening on http://{}\n", server.address());
    if let Some(address) = server.control_address() {
        lines.push_str(&format!("control on http://{address}\n"));
    }
    stdout
        .write_all(lines.as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot print the address")
}

/// With one thread there is none beside the main one, and a request never changes threads.
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
        .context("cannot start the threads that serve (--threads)")
}
