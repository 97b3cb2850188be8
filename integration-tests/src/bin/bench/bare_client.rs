//! What the same client does with nothing around it: a loop of requests, without Kafka, without notes. It
//! runs as a process of its own, so that it is measured as the caller is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use harness::orders::{Mix, Orders};

use crate::resource_usage::{self, Used};

/// What the loop does.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where payments are taken.
    #[arg(long)]
    pub(crate) url: String,
    /// How many are sent.
    #[arg(long)]
    pub(crate) calls: u64,
    /// How many are under way at once.
    #[arg(long)]
    pub(crate) in_flight: u64,
    /// The seed of the orders.
    #[arg(long)]
    pub(crate) seed: u64,
}

const DONE: &str = "done";

/// Runs the loop in a process of its own; returns what that has used.
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
        .context("starting the bare loop")?;
    let mut said = String::new();
    let stdout = child.stdout.take().context("its output")?;
    BufReader::new(stdout)
        .read_line(&mut said)
        .context("waiting for the bare loop")?;
    // It waits for the end of its input, so that there is still something to look at.
    let used = resource_usage::used(child.id())?;
    drop(child.stdin.take());
    let status = child.wait().context("the end of the bare loop")?;
    ensure!(
        status.success() && said.trim() == DONE,
        "the bare loop ended with {status}"
    );
    Ok(used)
}

/// The loop.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let orders = Orders::Generated(Mix::all_fresh(arguments.seed));
    let bodies: Arc<Vec<Vec<u8>>> = Arc::new(
        (0..arguments.calls)
            .filter_map(|sequence| orders.record(sequence).value)
            .collect(),
    );
    // As the caller's.
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
        let lanes: Vec<_> = (0..arguments.in_flight)
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
                        sent.await?.error_for_status()?.bytes().await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for lane in lanes {
            lane.await.context("a lane")??;
        }
        anyhow::Ok(())
    })?;
    println!("{DONE}");
    std::io::stdout().flush().context("saying so")?;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("waiting to be looked at")?;
    Ok(())
}
