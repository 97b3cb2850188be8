//! A broker for one scenario, started and stopped by `scripts/kafka`.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use records::{Offset, Partition};

use crate::cluster::ADDRESS_VARIABLE;
use crate::process::free_port;
use crate::proxy::{Proxy, Rule};

/// One broker in a folder of its own. Dropping it kills the process, deletes its data and keeps its log;
/// [`Broker::discard`] deletes the log too.
pub struct Broker {
    folder: PathBuf,
    options: Vec<String>,
}

/// Starts a broker that clients can reach only through a proxy with this rule.
///
/// # Errors
/// There is no free port, or the broker does not start.
pub fn start_behind_proxy<R: Rule>(rule: R) -> Result<(Broker, Proxy<R>)> {
    let port = free_port()?;
    let proxy = Proxy::with_rule(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), rule)?;
    // Clients connect to the advertised address, whatever they bootstrap from.
    let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}", proxy.port());
    let options = ["--port", &port.to_string(), "--set", &advertised].map(str::to_owned);
    let folder = tempfile::Builder::new()
        .prefix("outbox-own-broker-")
        .tempdir()
        .context("creating a folder for a broker")?
        // Not deleted on drop: the log must survive a failed scenario.
        .keep();
    let broker = Broker::new(folder, options.into());
    broker.start()?;
    Ok((broker, proxy))
}

impl Broker {
    /// Describes a broker without starting it. `options` go to `scripts/kafka start`: node id, voters,
    /// settings.
    #[must_use]
    pub fn new(folder: PathBuf, options: Vec<String>) -> Self {
        Self { folder, options }
    }

    /// Starts the broker and returns its bootstrap address, which stays the same over restarts.
    ///
    /// # Errors
    /// The broker does not answer in time, or Java is missing; the error has the script's output.
    pub fn start(&self) -> Result<String> {
        // The script stops the broker when this process ends, even by a signal that runs no destructor.
        let process = std::process::id().to_string();
        let mut arguments = vec!["--port".to_owned(), "auto".into(), "--for".into(), process];
        arguments.extend(self.options.iter().cloned());
        self.kafka("start", &arguments)
    }

    /// Sends SIGKILL and waits until the process is gone.
    ///
    /// # Errors
    /// The script fails.
    pub fn kill(&self) -> Result<()> {
        self.kafka("stop", &["--now".into()]).map(drop)
    }

    /// Sends SIGTERM: a controlled shutdown that moves leadership first. SIGKILL follows if that takes too
    /// long.
    ///
    /// # Errors
    /// The script fails.
    pub fn stop(&self) -> Result<()> {
        self.kafka("stop", &[]).map(drop)
    }

    /// Sends SIGSTOP: a long pause, with all connections open.
    ///
    /// # Errors
    /// The broker does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Sends SIGCONT, after [`Broker::freeze`].
    ///
    /// # Errors
    /// The broker does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Removes the end of a partition's log from the disk of a broker that was killed, as a lost disk or a leader
    /// that was not in sync does.
    ///
    /// # Errors
    /// No record batch begins at `end`, or the log's file cannot be changed.
    pub fn truncate_log(&self, topic: &str, partition: Partition, end: Offset) -> Result<()> {
        let name = format!("{topic}-{partition}");
        let log = find_folder(&self.folder, &name)?.with_context(|| format!("{name} has no folder"))?;
        for entry in std::fs::read_dir(&log)? {
            let path = entry?.path();
            // The broker rebuilds these from the log.
            let is_derived = ["index", "timeindex", "txnindex", "snapshot"].map(OsStr::new);
            if path
                .extension()
                .is_some_and(|extension| is_derived.contains(&extension))
            {
                std::fs::remove_file(&path)?;
            }
        }
        let segment = log.join("00000000000000000000.log");
        let bytes = std::fs::read(&segment).with_context(|| format!("reading {}", segment.display()))?;
        let mut at = 0;
        // Each batch begins with its first offset (8 bytes) and the length of what follows (4 bytes).
        while let Some((offset, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<8>) {
            if i64::from_be_bytes(*offset) == end.0 {
                let file = std::fs::OpenOptions::new().write(true).open(&segment)?;
                return Ok(file.set_len(u64::try_from(at)?)?);
            }
            let length = rest.first_chunk::<4>().context("the log ends within a batch")?;
            at += 12 + usize::try_from(u32::from_be_bytes(*length))?;
        }
        bail!("no record batch of {name} begins at {end}")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let file = self.folder.join("kafka.pid");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let id: i32 = text
            .trim()
            .parse()
            .with_context(|| format!("parsing the process id in {}", file.display()))?;
        kill(Pid::from_raw(id), signal)
            .with_context(|| format!("sending {signal} to the broker with process id {id}"))
    }

    /// Kills the broker and deletes its data and log.
    pub fn discard(&mut self) {
        // The scenario has passed; a folder that cannot be deleted is no reason to fail it.
        let _deleted = self.kafka("clean", &["--now".into()]);
    }

    fn kafka(&self, command: &str, arguments: &[String]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka");
        let output = Command::new(&script)
            .arg(command)
            .arg("--dir")
            .arg(&self.folder)
            .args(arguments)
            // With it set, the script would act on the Kafka that serves all other scenarios.
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

/// Returns the folder of this name within a folder, at any depth.
fn find_folder(within: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(within).with_context(|| format!("reading {}", within.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.file_name() == Some(OsStr::new(name)) {
            return Ok(Some(path));
        }
        if let Some(found) = find_folder(&path, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Environment variable from which the JVM reads more options.
const JAVA_OPTIONS_VARIABLE: &str = "JAVA_TOOL_OPTIONS";

/// Returns the JVM options of a broker, after those of the user.
fn java_options() -> String {
    // C1 only. A broker that lives for seconds gains nothing from the optimizing compiler: without it a start
    // takes 5 s of CPU time instead of 10 s.
    let of_user = std::env::var(JAVA_OPTIONS_VARIABLE).unwrap_or_default();
    format!("{of_user} -XX:TieredStopAtLevel=1").trim().to_owned()
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Discarded before.
        if !self.folder.exists() {
            return;
        }
        // A drop must not panic; a broker that survives ends with this process at the latest.
        let _killed = self.kill();
        let _deleted = std::fs::remove_dir_all(self.folder.join("data"));
        eprintln!("broker log kept in {}", self.folder.display());
    }
}
