//! A lane: one instance's life in a story of kills, from one death to the next.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::http::Http;
use crate::pipeline::Service;
use crate::wait::{await_until, pause};

/// How long a program may take to come to a step while orders flow.
const STEP_MAX: Duration = Duration::from_secs(90);
/// How long a program may take until it is ready; a lost session or an open transaction of a dead one is
/// waited for meanwhile.
const READY_MAX: Duration = Duration::from_secs(90);

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessFault {
    /// It kills itself at a named step, after so many passes.
    CrashAt(&'static str, u32),
    /// `kill -9`, this long after it was ready.
    Kill(Duration),
    /// `kill -9`, and it stays away until others have taken over.
    KillAndStayDown(Duration),
    /// It stands still for longer than its session, with all its work in its hands.
    Freeze(Duration),
    /// It stands still at a named step, after so many passes, for longer than its session; then `kill -9`.
    FreezeAt(&'static str, u32, Duration),
    /// `kill -9`, and its state directory is lost.
    LoseDisk,
    /// `kill -9`, and its stores are damaged.
    DamageDisk,
}

/// One instance and what stays with it from life to life.
pub struct InstanceLifecycle<'a> {
    /// The instance.
    pub service: &'a mut Service,
    /// Where its state is, if it has any.
    pub state: Option<PathBuf>,
    /// Failpoints in force in each of its lives, such as guards that are taken out.
    pub failpoints: &'a str,
}

impl InstanceLifecycle<'_> {
    /// Lives through all faults, and is running afterwards.
    ///
    /// # Errors
    /// It ended when nobody killed it, or did not come back.
    pub fn run(&mut self, faults: &[ProcessFault]) -> Result<()> {
        for (number, fault) in faults.iter().enumerate() {
            self.suffer(fault)
                .with_context(|| format!("{}, fault {number}: {fault:?}", self.service.process.name()))?;
        }
        self.start()
    }

    /// Starts it, with the lane's failpoints.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with("")
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or does not get ready.
    pub fn start_ready(&mut self) -> Result<()> {
        self.start()?;
        await_ready(self.service, READY_MAX)
    }

    fn suffer(&mut self, fault: &ProcessFault) -> Result<()> {
        match fault {
            ProcessFault::CrashAt(step, passes) => {
                self.start_with(&format!("{step}={passes}*off->return"))?;
                self.service.process.wait_killed(STEP_MAX)
            }
            ProcessFault::Kill(after) => {
                self.start_ready()?;
                pause(*after)?;
                self.service.process.kill()
            }
            ProcessFault::KillAndStayDown(time) => {
                self.start_ready()?;
                self.service.process.kill()?;
                pause(*time)
            }
            ProcessFault::Freeze(time) => {
                self.start_ready()?;
                self.service.process.freeze()?;
                pause(*time)?;
                self.service.process.thaw()?;
                await_ready(self.service, READY_MAX)?;
                self.service.process.kill()
            }
            ProcessFault::FreezeAt(step, passes, time) => {
                self.start_with(&format!("{step}={passes}*off->1*return->off"))?;
                self.service.process.wait_frozen(STEP_MAX)?;
                pause(*time)?;
                self.service.process.thaw()?;
                await_ready(self.service, READY_MAX)?;
                self.service.process.kill()
            }
            ProcessFault::LoseDisk => {
                self.start_ready()?;
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

    fn start_with(&mut self, step: &str) -> Result<()> {
        let failpoints = [self.failpoints, step]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(";");
        self.service.process.start_with(&[("FAILPOINTS", &failpoints)])
    }
}

/// All instances, which have no state, live through their faults at the same time.
///
/// # Errors
/// As for [`InstanceLifecycle::run`].
pub fn run_stateless(services: &mut [Service], faults: &[Vec<ProcessFault>]) -> Result<()> {
    let lanes = services.iter_mut().map(|service| InstanceLifecycle {
        service,
        state: None,
        failpoints: "",
    });
    run_all(lanes.zip(faults))
}

/// Lanes live through their faults at the same time.
///
/// # Errors
/// As for [`InstanceLifecycle::run`].
pub fn run_all<'a>(
    lanes: impl Iterator<Item = (InstanceLifecycle<'a>, &'a Vec<ProcessFault>)>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .map(|(mut lane, faults)| scope.spawn(move || lane.run(faults)))
            .collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .map_err(|_| anyhow!("a lane panicked"))
                .and_then(|lived| lived)
        })
    })
}

/// Waits until a program says that it is ready.
///
/// # Errors
/// It ended, or does not get ready; the error shows what it waits for.
pub fn await_ready(service: &mut Service, limit: Duration) -> Result<()> {
    let http = Http::new()?;
    let url = format!("{}/readyz", service.admin);
    let what = format!("{} is ready ({url})", service.process.name());
    await_until(&what, limit, || {
        service.expect_running()?;
        Ok(match http.get(&url) {
            Ok((200, _)) => ControlFlow::Break(()),
            Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Cuts every store in half: what a disk may leave of a file that was being written.
fn damage(state: &Path) -> Result<()> {
    for file in fs::read_dir(state).context("looking for stores")? {
        let path = file.context("looking for stores")?.path();
        if path.extension().is_some_and(|extension| extension == "redb") {
            let store = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            let length = store.metadata()?.len();
            store
                .set_len(length / 2)
                .with_context(|| format!("damaging {}", path.display()))?;
        }
    }
    Ok(())
}
