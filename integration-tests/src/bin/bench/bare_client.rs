//! Bare HTTP client: the caller's client in a loop, without Kafka and call notes.
//!
//! It runs in a process of its own, so that it is measured in the same way as the caller.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use harness::orders::{Mix, Orders};

use crate::resource_usage::{self, Used};

/// Load that the bare client generates.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// URL of the payments endpoint.
    #[arg(long)]
    pub(crate) url: String,
    /// Number of requests to send.
    #[arg(long)]
    pub(crate) calls: u64,
    /// Maximum number of requests in flight.
    #[arg(long)]
    pub(crate) in_flight: u64,
    /// Seed of the orders.
    #[arg(long)]
    pub(crate) seed: u64,
}

/// Line that the client prints when all requests are answered.
const DONE: &str = "done";

/// Runs the bare client in a process of its own; returns the CPU time and memory of that process.
pub(crate) fn measure(arguments: &Arguments) -> Result<Used> {
    let mut child = Command::new(std::env::current_exe().context("finding this program")?)
        .arg("bare")
        .args(["--url", &arguments.url])
        .args(["--calls", &arguments.calls.to_string()])
        .args(["--in-flight", &arguments.in_flight.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the bare client")?;
    let mut line = String::new();
    let stdout = child
        .stdout
        .take()
        .context("the bare client has no standard output")?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("waiting for the bare client")?;
    // The client exits only at the end of its input: until then its figures are in /proc.
    let used = resource_usage::used(child.id())?;
    drop(child.stdin.take());
    let status = child.wait().context("waiting for the exit of the bare client")?;
    ensure!(
        status.success() && line.trim() == DONE,
        "the bare client exited with {status}"
    );
    Ok(used)
}

/// Sends all requests, prints [`DONE`], and waits for the end of its input.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let orders = Orders::Generated(Mix::all_new(arguments.seed));
    // Built before the first request, so that only the client is measured.
    let bodies: Arc<Vec<Vec<u8>>> = Arc::new(
        (0..arguments.calls)
            .filter_map(|sequence| orders.record(sequence).value)
            .collect(),
    );
    // One thread, no proxy, HTTP/1.1: the same set-up as the caller's, so that only the caller's own work
    // differs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(usize::try_from(arguments.in_flight)?)
        .build()
        .context("setting up an HTTP client")?;
    runtime.block_on(async {
        let next = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..arguments.in_flight)
            .map(|_| {
                let (client, next, bodies) = (client.clone(), Arc::clone(&next), Arc::clone(&bodies));
                let url = arguments.url.clone();
                tokio::spawn(async move {
                    while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let sent = client
                            .post(&url)
                            .header("content-type", "application/json")
                            .body(body.clone())
                            .send();
                        // The body must be read, or its connection cannot be used again.
                        sent.await?.error_for_status()?.bytes().await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.await.context("a worker panicked")??;
        }
        anyhow::Ok(())
    })?;
    println!("{DONE}");
    std::io::stdout()
        .flush()
        .context("reporting the end of the requests")?;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("waiting for the end of the input")?;
    Ok(())
}
