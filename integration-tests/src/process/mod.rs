//! A program under test as a process: started, killed, frozen, and started again.

mod failpoints;
pub mod instance_lifecycle;
mod log;
pub mod memory;
mod ports;
pub mod settings;
pub mod signals;

pub(crate) use log::last_run;
pub use log::tail_of;
pub use ports::free_port;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use records::Timestamp;

use crate::wait::await_until;

/// Environment variable with the folder of the programs under test.
pub const FOLDER_VARIABLE: &str = "OUTBOX_BIN_DIR";
/// Timeout from SIGKILL until the process is gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A program with its arguments and log, and at most one running process of it. Dropping it kills the
/// process.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    file_kib_max: Option<u64>,
    child: Option<Child>,
    /// Last time at which the process was seen running.
    alive_at: Timestamp,
    interruptions: Vec<Interruption>,
}

/// Time span within which a process was killed, or was frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Last time at which it was seen running before.
    pub from: Timestamp,
    /// Time at which it was gone, or running again.
    pub until: Timestamp,
}

impl Process {
    /// Describes a process without starting it. All its runs append to one log.
    ///
    /// # Errors
    /// The program does not exist.
    pub fn new(name: &str, program: &str, log: PathBuf) -> Result<Self> {
        let program = folder()?.join(program);
        ensure!(
            program.is_file(),
            "{} does not exist: build the programs (`cargo build --workspace`), or set \
             {FOLDER_VARIABLE} to their folder",
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

    /// Adds command line arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Has the program of this folder run from the next start on, as an upgrade does.
    ///
    /// # Errors
    /// The folder has no such program.
    pub fn replace_program(&mut self, folder: &Path) -> Result<()> {
        let name = self.program.file_name().context("a program has a name")?;
        let program = folder.join(name);
        ensure!(program.is_file(), "{} does not exist", program.display());
        self.program = program;
        Ok(())
    }

    /// Limits the size of each file that the process writes, in KiB, from its next start on. To the program
    /// this is a full disk. [`Process::lift_file_limit`] removes the limit.
    pub fn limit_files(&mut self, kib_max: u64) {
        self.file_kib_max = Some(kib_max);
    }

    /// Removes the file size limit of the running process.
    ///
    /// # Errors
    /// The process does not run, or `prlimit` (util-linux) is missing.
    pub fn lift_file_limit(&mut self) -> Result<()> {
        self.file_kib_max = None;
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let status = Command::new("prlimit")
            .args(["--fsize=unlimited:unlimited", "--pid", &id.to_string()])
            .status()
            .context("running prlimit")?;
        ensure!(status.success(), "prlimit for {} exited with {status}", self.name);
        Ok(())
    }

    /// Name in logs and messages, such as `validator-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the process.
    ///
    /// # Errors
    /// The process runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts the process with a failpoint at which it kills itself, after passing it `passes` times.
    ///
    /// # Errors
    /// The process runs already or cannot be started.
    pub fn start_with_crash_at(&mut self, failpoint: &str, passes: u32) -> Result<()> {
        let failpoints = match passes {
            0 => format!("{failpoint}=return"),
            passes => format!("{failpoint}={passes}*off->return"),
        };
        self.start_with(&[(failpoints::VARIABLE, &failpoints)])
    }

    /// Starts the process with more environment variables.
    ///
    /// # Errors
    /// The process runs already or cannot be started.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        // A second process would share the log and lose the first one's handle.
        ensure!(self.child.is_none(), "{} runs already", self.name);
        // One variable holds all failpoints, so those of the caller and of the environment are joined.
        let failpoints = failpoints::requested(variables)?;
        let mut variables = variables.to_vec();
        variables.retain(|(name, _)| *name != failpoints::VARIABLE);
        if !failpoints.is_empty() {
            variables.push((failpoints::VARIABLE, &failpoints));
        }
        let log = self.open_log(&variables)?;
        let mut command = match self.file_kib_max {
            None => Command::new(&self.program),
            // SIGXFSZ would kill the program; ignored, the write fails with EFBIG instead. Only the soft
            // limit is set, because a process may not raise its hard limit again.
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
            // No terminal: a program that asks for input must fail, not hang.
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log file")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        self.alive_at = Timestamp::now();
        Ok(())
    }

    /// Process id, while the process runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns the exit status if the process has ended; then it can be started again.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))?;
        match status {
            // Narrows the span in which a later kill falls.
            None => self.alive_at = Timestamp::now(),
            Some(status) => self.record_end(status),
        }
        Ok(status)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// The process does not run, or still runs at the timeout.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        ensure!(self.child.is_some(), "{} does not run", self.name);
        let what = format!("exit of {}", self.name);
        await_until(&what, timeout, || {
            Ok(match self.try_wait()? {
                Some(status) => ControlFlow::Break(status),
                None => ControlFlow::Continue("running".into()),
            })
        })
    }

    /// Waits until the process kills itself at its failpoint.
    ///
    /// # Errors
    /// It did not reach the failpoint before the timeout, or ended in another way.
    pub fn wait_killed(&mut self, timeout: Duration) -> Result<()> {
        let status = self.wait_exit(timeout)?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!(
                "{} was to crash at a failpoint but exited with {status}",
                self.name
            );
        }
        Ok(())
    }

    /// Sends SIGKILL and waits until the process is gone.
    ///
    /// # Errors
    /// The process does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(KILL_TIMEOUT).map(drop)
    }

    /// Sends SIGTERM and waits until the process has drained and exited with status 0.
    ///
    /// # Errors
    /// The process does not run, still runs at the timeout, or exits with another status.
    pub fn terminate(&mut self, timeout: Duration) -> Result<()> {
        let status = self.request_shutdown(timeout)?;
        ensure!(status.success(), "{} exited with {status} on SIGTERM", self.name);
        Ok(())
    }

    /// Sends SIGTERM, waits until the process has ended, and returns its status.
    ///
    /// # Errors
    /// The process does not run, or still runs at the timeout.
    pub fn request_shutdown(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(timeout)
    }

    /// Sends SIGSTOP: a pause of the whole process, as of a stalled machine.
    ///
    /// # Errors
    /// The process does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Waits until the process has frozen itself at its failpoint.
    ///
    /// # Errors
    /// The process does not run, or did not reach the failpoint before the timeout.
    pub fn wait_frozen(&self, timeout: Duration) -> Result<()> {
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let what = format!("{} is frozen", self.name);
        await_until(&what, timeout, || {
            // `pid (comm) state …`: comm may contain spaces and parentheses, so the state follows the last
            // ")".
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))
                .with_context(|| format!("reading /proc/{id}/stat"))?;
            let state = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .chars()
                .next();
            Ok(match state {
                Some('T') => ControlFlow::Break(()),
                state => ControlFlow::Continue(format!("process state {state:?}")),
            })
        })
    }

    /// Sends SIGCONT, after [`Process::freeze`], and records the interruption.
    ///
    /// # Errors
    /// The process does not run.
    pub fn thaw(&mut self) -> Result<()> {
        // Read before `signal`, which finds the process alive and moves `alive_at`; frozen, it did nothing
        // since.
        let from = self.alive_at;
        self.signal(Signal::SIGCONT)?;
        self.alive_at = Timestamp::now();
        self.interruptions.push(Interruption {
            from,
            until: self.alive_at,
        });
        Ok(())
    }

    /// All kills and freezes so far.
    #[must_use]
    pub fn interruptions(&self) -> &[Interruption] {
        &self.interruptions
    }

    /// Returns the whole log, of all runs.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // A process that exited by itself is a finding; its id may belong to another process by now.
        if let Some(status) = self.try_wait()? {
            bail!(
                "cannot send {signal} to {}: it has exited by itself with {status}",
                self.name
            );
        }
        let id = self.id().with_context(|| format!("{} does not run", self.name))?;
        let id = i32::try_from(id).context("a process id")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    fn record_end(&mut self, status: ExitStatus) {
        self.child = None;
        // A process that drained has finished its work: only a kill explains a repeated request.
        if status.signal() == Some(Signal::SIGKILL as i32) {
            self.interruptions.push(Interruption {
                from: self.alive_at,
                until: Timestamp::now(),
            });
        }
    }

    /// Returns the log of the current or last run.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log_since_start(&self) -> Result<String> {
        Ok(last_run(&self.log()?).to_owned())
    }

    fn open_log(&self, variables: &[(&str, &str)]) -> Result<File> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        writeln!(file, "{} {variables:?} ----", log::STARTED)
            .with_context(|| format!("writing {}", self.log.display()))?;
        Ok(file)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Until `wait` the process id cannot be reused, so this kills no other process.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Returns the folder of the programs under test: that of the variable, or else of this executable.
///
/// # Errors
/// The running executable has no folder.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return Ok(folder.into());
    }
    let executable = std::env::current_exe().context("asking for the path of this executable")?;
    let folder = executable.parent().context("this executable has no folder")?;
    // Cargo puts test binaries into `deps`, one level below the programs.
    match folder.file_name() {
        Some(name) if name == "deps" => Ok(folder.parent().unwrap_or(folder).to_owned()),
        _ => Ok(folder.to_owned()),
    }
}
