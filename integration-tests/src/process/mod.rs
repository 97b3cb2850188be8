//! One of the programs, as a process that can be started, killed, stopped and started again.

pub mod instance_lifecycle;
pub mod memory;
pub mod settings;
pub mod signals;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use records::Timestamp;

use crate::wait::await_until;

/// The variable that names the folder of the programs.
pub const FOLDER_VARIABLE: &str = "OUTBOX_BIN_DIR";
/// How much of a log is shown when something fails.
const TAIL_BYTES: u64 = 4_000;
/// How long a process may take to vanish after SIGKILL.
const KILL_MAX: Duration = Duration::from_secs(10);

/// A program, its arguments, its log, and at most one running process of it.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    file_kib_max: Option<u64>,
    child: Option<Child>,
    alive_at: Timestamp,
    interruptions: Vec<Interruption>,
}

/// A time at which a process did not do what it was about to do: killed, or stopped for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// It was still at work then.
    pub from: Timestamp,
    /// It was gone by then, or at work again.
    pub until: Timestamp,
}

impl Process {
    /// Describes a process; nothing is started yet. Its log is appended to over all its lives.
    ///
    /// # Errors
    /// The program was not built.
    pub fn new(name: &str, program: &str, log: PathBuf) -> Result<Self> {
        let program = folder()?.join(program);
        ensure!(
            program.is_file(),
            "{} does not exist: build the programs first (`cargo build --workspace`), or name their folder in {FOLDER_VARIABLE}",
            program.display()
        );
        Ok(Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            log,
            file_kib_max: None,
            child: None,
            alive_at: Timestamp(0),
            interruptions: Vec::new(),
        })
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// From its next start on, a file of its own that grows beyond so many KiB cannot be written: to the program it
    /// is a disk that fails. [`Process::lift_file_limit`] takes that back.
    pub fn limit_files(&mut self, kib_max: u64) {
        self.file_kib_max = Some(kib_max);
    }

    /// Lets the running process write files of any length again.
    ///
    /// # Errors
    /// It does not run, or there is no `prlimit` (of util-linux).
    pub fn lift_file_limit(&mut self) -> Result<()> {
        self.file_kib_max = None;
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let status = Command::new("prlimit")
            .args(["--fsize=unlimited:unlimited", "--pid", &id.to_string()])
            .status()
            .context("running prlimit")?;
        ensure!(status.success(), "prlimit ended with {status}");
        Ok(())
    }

    /// What it is called in logs and messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it.
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it with a named step at which it kills itself, on the pass after `passes` others.
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn start_with_crash_at(&mut self, step: &str, passes: u32) -> Result<()> {
        let failpoints = match passes {
            0 => format!("{step}=return"),
            passes => format!("{step}={passes}*off->return"),
        };
        self.start_with(&[(FAILPOINTS, &failpoints)])
    }

    /// Starts it with more variables in its environment.
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let failpoints = failpoints(variables);
        let mut variables = variables.to_vec();
        variables.retain(|(name, _)| *name != FAILPOINTS);
        if !failpoints.is_empty() {
            variables.push((FAILPOINTS, &failpoints));
        }
        let log = self.open_log(&variables)?;
        let mut command = match self.file_kib_max {
            None => Command::new(&self.program),
            // Ignored, the signal leaves an error in its place. The soft limit only, which can be lifted.
            Some(kib_max) => {
                let mut shell = Command::new("bash");
                let script = format!("trap '' XFSZ; ulimit -S -f {kib_max}; exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(&self.program);
                shell
            }
        };
        let child = command
            .args(&self.arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log file")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        self.alive_at = Timestamp::now();
        Ok(())
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Looks whether it has ended, and how. What ended is forgotten, so that it can be started again.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child
            .try_wait()
            .with_context(|| format!("asking after {}", self.name))?;
        match status {
            None => self.alive_at = Timestamp::now(),
            Some(status) => self.ended(status),
        }
        Ok(status)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It runs on until the limit.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        ensure!(self.child.is_some(), "{} does not run", self.name);
        let what = format!("{} ends", self.name);
        await_until(&what, limit, || {
            Ok(match self.try_wait()? {
                Some(status) => ControlFlow::Break(status),
                None => ControlFlow::Continue("it runs on".into()),
            })
        })
    }

    /// Waits until it dies at the step that it was started for.
    ///
    /// # Errors
    /// It did not come to the step within the limit, or ended in another way.
    pub fn wait_killed(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait_exit(limit)?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("{} was to die at a named step and ended with {status}", self.name);
        }
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(KILL_MAX).map(drop)
    }

    /// SIGTERM, and the wait until it has drained and ended with status 0.
    ///
    /// # Errors
    /// It does not run, runs on until the limit, or ends with another status.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        let status = self.request_shutdown(limit)?;
        ensure!(
            status.success(),
            "{} was told to end and ended with {status}",
            self.name
        );
        Ok(())
    }

    /// SIGTERM, and the wait until it has ended, with whatever status.
    ///
    /// # Errors
    /// It does not run, or runs on until the limit.
    pub fn request_shutdown(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(limit)
    }

    /// Stops it in the midst of what it does, as a long pause of its machine would.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Waits until it stands still, as it was told to do at a named step.
    ///
    /// # Errors
    /// It did not come to the step within the limit, or does not run.
    pub fn wait_frozen(&self, limit: Duration) -> Result<()> {
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let what = format!("{} stands still", self.name);
        await_until(&what, limit, || {
            // The state is the first letter behind the name, which may hold anything but ends with the last ")".
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).context("asking for its state")?;
            let state = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .chars()
                .next();
            Ok(match state {
                Some('T') => ControlFlow::Break(()),
                state => ControlFlow::Continue(format!("it is in state {state:?}")),
            })
        })
    }

    /// Lets it go on after [`Process::freeze`].
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self) -> Result<()> {
        // Before the signal, which looks after the process and finds it alive: it did nothing since then.
        let from = self.alive_at;
        self.signal(Signal::SIGCONT)?;
        self.alive_at = Timestamp::now();
        self.interruptions.push(Interruption {
            from,
            until: self.alive_at,
        });
        Ok(())
    }

    /// Every kill and every freeze so far, with the time within which it fell.
    #[must_use]
    pub fn interruptions(&self) -> &[Interruption] {
        &self.interruptions
    }

    /// All that it has written to its log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!(
                "{} was to get {signal} and has ended by itself with {status}",
                self.name
            );
        }
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let id = i32::try_from(id).context("a process id")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// One that was told to end and drained has interrupted nothing.
    fn ended(&mut self, status: ExitStatus) {
        self.child = None;
        if status.signal() == Some(Signal::SIGKILL as i32) {
            self.interruptions.push(Interruption {
                from: self.alive_at,
                until: Timestamp::now(),
            });
        }
    }

    /// What it has logged since it was started last.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log_since_start(&self) -> Result<String> {
        Ok(self.log()?.rsplit(STARTED).next().unwrap_or_default().to_owned())
    }

    fn open_log(&self, variables: &[(&str, &str)]) -> Result<File> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        writeln!(log, "{STARTED} {variables:?} ----").context("writing a log file")?;
        Ok(log)
    }
}

/// What a log file says where the process is started, before all that it logs in that life.
pub(crate) const STARTED: &str = "---- started";

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // By its own handle; a process that has ended is not somebody else's number yet.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Where the programs read their failpoints.
const FAILPOINTS: &str = "FAILPOINTS";

/// The failpoints among these variables, and the guards that are taken out of every program, to see a test fail:
/// `OUTBOX_TEST_GUARDS="guard-beginnings=return"`.
fn failpoints(variables: &[(&str, &str)]) -> String {
    let guards = std::env::var("OUTBOX_TEST_GUARDS").unwrap_or_default();
    let of_story = variables
        .iter()
        .filter(|(name, _)| *name == FAILPOINTS)
        .map(|(_, value)| *value);
    [guards.as_str()]
        .into_iter()
        .chain(of_story)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(";")
}

/// The folder with the programs: the named one, or that of the running executable.
///
/// # Errors
/// The running executable has no folder.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return Ok(folder.into());
    }
    let executable = std::env::current_exe().context("asking for the path of this executable")?;
    let folder = executable.parent().context("this executable has no folder")?;
    // Tests lie in `deps`, one below the programs.
    match folder.file_name() {
        Some(name) if name == "deps" => Ok(folder.parent().unwrap_or(folder).to_owned()),
        _ => Ok(folder.to_owned()),
    }
}

/// A port of the loopback address that nobody listens on, each time another one. It is not held, but it lies below the
/// range from which the system takes the ports of outgoing connections, one of which could have it by the time that
/// somebody listens on it, or listens on it again after an absence.
///
/// # Errors
/// There is none among many.
pub fn free_port() -> Result<u16> {
    static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..100 {
        let port = rand::random_range(20_000..32_000);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free
            && HANDED_OUT
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(port)
        {
            return Ok(port);
        }
    }
    bail!("no free port among 100 between 20000 and 32000")
}

/// The end of a log file, under a heading, for a person.
#[must_use]
pub fn tail_of(log: &Path) -> String {
    let text = read_tail(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
    format!("---- the end of {} ----\n{text}", log.display())
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
