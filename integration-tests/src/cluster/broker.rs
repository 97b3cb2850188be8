//! A broker of the harness's own, started and ended by `scripts/kafka`: for stories in which brokers suffer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::ADDRESS_VARIABLE;
use crate::process::free_port;
use crate::proxy::{Proxy, Rule};

/// One broker in a folder of its own. Dropped, it is killed and its data deleted; its log stays, unless it is
/// forgotten before ([`Broker::discard`]).
pub struct Broker {
    folder: PathBuf,
    place: Vec<String>,
}

/// A broker of a story's own that clients reach through a proxy alone, with a rule for what passes. It runs; the
/// clients' address is the proxy's.
///
/// # Errors
/// There is no free port, or the broker does not start.
pub fn start_behind_proxy<R: Rule>(rule: R) -> Result<(Broker, Proxy<R>)> {
    let port = free_port()?;
    let proxy = Proxy::with_rule(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), rule)?;
    let told = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}", proxy.port());
    let place = ["--port", &port.to_string(), "--set", &told].map(str::to_owned);
    let folder = tempfile::Builder::new()
        .prefix("outbox-own-broker-")
        .tempdir()
        .context("making a folder for a broker")?
        .keep();
    let broker = Broker::new(folder, place.into());
    broker.start()?;
    Ok((broker, proxy))
}

impl Broker {
    /// Describes a broker; nothing is started yet. `place` are the options of `scripts/kafka start` that say
    /// who it is in its cluster.
    #[must_use]
    pub fn new(folder: PathBuf, place: Vec<String>) -> Self {
        Self { folder, place }
    }

    /// Starts it, and says at which address it answers. It keeps that address over restarts.
    ///
    /// # Errors
    /// It does not answer in time, or there is no Java; the script's words are in the error.
    pub fn start(&self) -> Result<String> {
        // It ends with this process, even where no destructor runs any more.
        let process = std::process::id().to_string();
        let mut arguments = vec!["--port".to_owned(), "auto".into(), "--for".into(), process];
        arguments.extend(self.place.iter().cloned());
        self.kafka("start", &arguments)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.kafka("stop", &["--now".into()]).map(drop)
    }

    /// SIGTERM: it hands its partitions over and ends; with SIGKILL if that takes too long.
    ///
    /// # Errors
    /// It cannot be ended.
    pub fn stop(&self) -> Result<()> {
        self.kafka("stop", &[]).map(drop)
    }

    /// Stops it in the midst of what it does, as a long pause of its machine would.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Broker::freeze`].
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let file = self.folder.join("kafka.pid");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let id: i32 = text.trim().parse().context("a broker's process id")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("sending {signal} to a broker"))
    }

    /// Kills it, and deletes all that it has left behind.
    pub fn discard(&mut self) {
        // The story is over; what cannot be cleaned up is not worth failing for.
        let _deleted = self.kafka("clean", &["--now".into()]);
    }

    fn kafka(&self, command: &str, arguments: &[String]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka");
        let output = Command::new(&script)
            .arg(command)
            .arg("--dir")
            .arg(&self.folder)
            .args(arguments)
            // It would take that Kafka, which serves the other stories, for this one.
            .env_remove(ADDRESS_VARIABLE)
            .env(JAVA_OPTIONS_VARIABLE, java_options())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", script.display()))?;
        ensure!(
            output.status.success(),
            "`scripts/kafka {command}` in {} ended with {}:\n{}",
            self.folder.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Java reads more options from it.
const JAVA_OPTIONS_VARIABLE: &str = "JAVA_TOOL_OPTIONS";

/// A broker that lives for seconds wins nothing from the slower of Java's two compilers: without it, a start
/// takes half the processor time (5 s in place of 10 s).
fn java_options() -> String {
    let of_user = std::env::var(JAVA_OPTIONS_VARIABLE).unwrap_or_default();
    format!("{of_user} -XX:TieredStopAtLevel=1").trim().to_owned()
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.folder.exists() {
            return;
        }
        let _killed = self.kill();
        let _deleted = std::fs::remove_dir_all(self.folder.join("data"));
        eprintln!("what a broker logged is kept in {}", self.folder.display());
    }
}
