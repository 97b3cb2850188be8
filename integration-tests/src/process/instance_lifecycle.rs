//! Lifecycle of one instance under a sequence of process faults: start, fault, restart.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::http::Http;
use crate::pipeline::Service;
use crate::wait::{await_until, pause};

/// Timeout until a program reaches a failpoint while orders flow.
const FAILPOINT_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout until a program is ready. It may wait for the session or the open transaction of a killed one.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// A fault of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessFault {
    /// Crash at a failpoint, after passing it this many times.
    CrashAt(&'static str, u32),
    /// SIGKILL, this long after it became ready.
    Kill(Duration),
    /// SIGKILL, and no restart for this long, so that others take over.
    KillAndStayDown(Duration),
    /// SIGSTOP for this long, past its session, with work in flight; then SIGKILL.
    Freeze(Duration),
    /// Freeze at a failpoint, after passing it this many times, for longer than its session; then SIGKILL.
    FreezeAt(&'static str, u32, Duration),
    /// SIGKILL and loss of the state directory.
    LoseDisk,
    /// SIGKILL and damage to all stores.
    DamageDisk,
}

/// One instance with what stays the same over its restarts.
pub struct InstanceLifecycle<'a> {
    /// Process of the instance.
    pub service: &'a mut Service,
    /// State directory, if it has one.
    pub state: Option<PathBuf>,
    /// Failpoints of every start, such as disabled guards.
    pub failpoints: &'a str,
}

impl InstanceLifecycle<'_> {
    /// Injects all faults in order, with a restart after each.
    ///
    /// # Errors
    /// The instance exited without a fault, or did not become ready.
    pub fn run(&mut self, faults: &[ProcessFault]) -> Result<()> {
        for (number, fault) in faults.iter().enumerate() {
            self.inject(fault)
                .with_context(|| format!("{}, fault {number}: {fault:?}", self.service.process.name()))?;
        }
        self.start()
    }

    /// Starts the instance.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with("")
    }

    /// Starts the instance and waits until it is ready.
    ///
    /// # Errors
    /// It exited, or did not become ready within 90 s.
    pub fn start_ready(&mut self) -> Result<()> {
        self.start()?;
        await_ready(self.service, READY_TIMEOUT)
    }

    fn inject(&mut self, fault: &ProcessFault) -> Result<()> {
        match fault {
            ProcessFault::CrashAt(failpoint, passes) => {
                self.start_with(&format!("{failpoint}={passes}*off->return"))?;
                self.service.process.wait_killed(FAILPOINT_TIMEOUT)
            }
            ProcessFault::Kill(after) => {
                self.start_ready()?;
                pause(*after)?;
                self.service.process.kill()
            }
            ProcessFault::KillAndStayDown(time) => {
                // Ready first, or it would have no partitions to take over.
                self.start_ready()?;
                self.service.process.kill()?;
                pause(*time)
            }
            ProcessFault::Freeze(time) => {
                self.start_ready()?;
                self.service.process.freeze()?;
                pause(*time)?;
                self.service.process.thaw()?;
                // It must recover from the lost session by itself before it is killed.
                await_ready(self.service, READY_TIMEOUT)?;
                self.service.process.kill()
            }
            ProcessFault::FreezeAt(failpoint, passes, time) => {
                // Once: afterwards it must be able to go on.
                self.start_with(&format!("{failpoint}={passes}*off->1*return->off"))?;
                self.service.process.wait_frozen(FAILPOINT_TIMEOUT)?;
                pause(*time)?;
                self.service.process.thaw()?;
                await_ready(self.service, READY_TIMEOUT)?;
                self.service.process.kill()
            }
            ProcessFault::LoseDisk => {
                self.start_ready()?;
                // Killed first: a running validator holds the lock on its state directory.
                self.service.process.kill()?;
                match &self.state {
                    Some(state) => fs::remove_dir_all(state).context("losing the state directory"),
                    None => Ok(()),
                }
            }
            ProcessFault::DamageDisk => {
                self.start_ready()?;
                self.service.process.kill()?;
                match &self.state {
                    Some(state) => damage(state),
                    None => Ok(()),
                }
            }
        }
    }

    fn start_with(&mut self, failpoint: &str) -> Result<()> {
        let failpoints = [self.failpoints, failpoint]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(";");
        self.service.process.start_with(&[("FAILPOINTS", &failpoints)])
    }
}

/// Runs instances without state concurrently, each with its own faults.
///
/// # Errors
/// The first error of [`InstanceLifecycle::run`].
pub fn run_stateless(services: &mut [Service], faults: &[Vec<ProcessFault>]) -> Result<()> {
    let instances = services.iter_mut().map(|service| InstanceLifecycle {
        service,
        state: None,
        failpoints: "",
    });
    run_all(instances.zip(faults))
}

/// Runs instances concurrently, each with its own faults.
///
/// # Errors
/// The first error of [`InstanceLifecycle::run`].
pub fn run_all<'a>(
    instances: impl Iterator<Item = (InstanceLifecycle<'a>, &'a Vec<ProcessFault>)>,
) -> Result<()> {
    std::thread::scope(|scope| {
        // Collected first: a lazy iterator would start each thread only after the one before has ended.
        let threads: Vec<_> = instances
            .map(|(mut instance, faults)| scope.spawn(move || instance.run(faults)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("the thread of an instance panicked"))
                .and_then(|result| result)
        })
    })
}

/// Waits until a program's readiness endpoint returns 200.
///
/// # Errors
/// The program exited, or was not ready at the timeout; the error has the reason it gave last.
pub fn await_ready(service: &mut Service, timeout: Duration) -> Result<()> {
    let http = Http::new()?;
    let url = format!("{}/readyz", service.admin);
    let what = format!("{} is ready ({url})", service.process.name());
    await_until(&what, timeout, || {
        // Fails at once if the program has exited, and not only at the timeout.
        service.expect_running()?;
        Ok(match http.get(&url) {
            Ok((200, _)) => ControlFlow::Break(()),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            // The admin endpoint may not listen yet.
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Truncates every store to half its size, as a crash of the disk may.
fn damage(state: &Path) -> Result<()> {
    for file in fs::read_dir(state).context("listing the stores")? {
        let path = file.context("listing the stores")?.path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            let store = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            let length = store.metadata()?.len();
            store
                .set_len(length / 2)
                .with_context(|| format!("truncating {}", path.display()))?;
        }
    }
    Ok(())
}
