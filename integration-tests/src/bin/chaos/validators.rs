//! One validator under test: its lives, from one fault to the next.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::http::Http;
use harness::pipeline::{Pipeline, Service};
use harness::wait::{await_until, pause};
use rand_chacha::ChaCha8Rng;

use crate::plan::{self, Damage, TRANSACTION_TIMEOUT, ValidatorFault};
use crate::tally::{Incident, Tally};

/// Timeout until all partitions of a validator are processed.
// The open transaction of a frozen validator and a broker that is down may delay it, one after the other.
const READY_MAX: Duration = Duration::from_secs(180);
/// Timeout of a drain.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Maximum number of exits in a row before a validator counts as broken.
// It may exit by design, and an orchestrator restarts it; one that never gets ready is a defect.
const EXITS_MAX: u32 = 20;
/// Text that a validator logs when it rejoins after a stale static member has fenced it.
const REJOINS: &str = "instance id is vacant again";
/// Pause before a validator that exited by itself is restarted.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// Validator under test, and the random stream of its faults.
pub(crate) struct Validator {
    service: Service,
    state: PathBuf,
    random: ChaCha8Rng,
    http: Http,
}

impl Validator {
    /// Returns the validator with this number; it does not run yet.
    pub(crate) fn new(pipeline: &Pipeline, number: u32, seed: u64) -> Result<Self> {
        let settings = pipeline
            .validator_settings(number)
            .with("validator.transaction_timeout", humantime(TRANSACTION_TIMEOUT))
            // A commit must be abandoned before the brokers abort its transaction.
            .with("validator.commit_timeout", humantime(TRANSACTION_TIMEOUT * 3 / 4));
        Ok(Self {
            service: pipeline.service("validator", number, settings)?,
            state: pipeline.state_folder(number),
            random: plan::random_stream(seed, number),
            http: Http::new()?,
        })
    }

    /// Injects one fault after the other until this time; the validator is ready afterwards.
    pub(crate) fn inject_until(&mut self, until: Instant, tally: &Tally) -> Result<()> {
        self.start_ready(tally)?;
        while Instant::now() < until {
            let fault = plan::validator_fault(&mut self.random);
            self.inject(fault, tally)
                .and_then(|()| self.start_ready(tally))
                .with_context(|| format!("{}: {fault:?}", self.service.process.name()))?;
        }
        Ok(())
    }

    /// Starts the validator if it does not run, and waits until it is ready; restarts it if it exits
    /// meanwhile.
    pub(crate) fn start_ready(&mut self, tally: &Tally) -> Result<()> {
        let started = Instant::now();
        let url = format!("{}/readyz", self.service.admin);
        for _ in 0..EXITS_MAX {
            if self.service.process.id().is_none() {
                self.service.process.start()?;
            }
            // One limit for all attempts, however often it exits.
            let left = READY_MAX.saturating_sub(started.elapsed());
            let what = format!("{} is ready ({url})", self.service.process.name());
            let is_ready = await_until(&what, left, || {
                if self.has_exited(tally)? {
                    return Ok(ControlFlow::Break(false));
                }
                Ok(match self.http.get(&url) {
                    Ok((200, _)) => ControlFlow::Break(true),
                    Ok((status, body)) => ControlFlow::Continue(format!("{status} {body}")),
                    Err(error) => ControlFlow::Continue(format!("{error:#}")),
                })
            })?;
            if is_ready {
                return Ok(());
            }
            pause(RESTART_DELAY)?;
        }
        bail!(
            "{} exited {EXITS_MAX} times by itself and never got ready",
            self.service.process.name()
        )
    }

    /// Drains the validator with SIGTERM, and counts an exit with an error.
    pub(crate) fn terminate(&mut self, tally: &Tally) -> Result<()> {
        if !self.has_exited(tally)? && self.service.process.id().is_some() {
            let status = self.service.process.request_shutdown(DRAIN_MAX)?;
            if !status.success() {
                tally.exited_by_itself(format!(
                    "{} after SIGTERM ({status}): {}",
                    self.service.process.name(),
                    self.last_line()?
                ));
            }
        }
        Ok(())
    }

    fn inject(&mut self, fault: ValidatorFault, tally: &Tally) -> Result<()> {
        match fault {
            ValidatorFault::Kill(after) => {
                pause(after)?;
                self.kill(Incident::Killed, tally)
            }
            ValidatorFault::KillWhileStarting(after) => {
                self.kill(Incident::Killed, tally)?;
                self.service.process.start()?;
                pause(after)?;
                self.kill(Incident::KilledWhileStarting, tally)
            }
            ValidatorFault::KillAndStayDown(time) => {
                self.kill(Incident::KilledAndStayedDown, tally)?;
                pause(time)
            }
            ValidatorFault::FreezePastSession(time) => self.freeze(time, Incident::Zombie, tally),
            ValidatorFault::FreezeBriefly(time) => self.freeze(time, Incident::FrozenBriefly, tally),
            ValidatorFault::LoseDisk => {
                self.kill(Incident::DiskLost, tally)?;
                fs::remove_dir_all(&self.state).context("losing the state directory")
            }
            ValidatorFault::LoseStore(which) => {
                self.kill(Incident::StoreLost, tally)?;
                match self.store(which)? {
                    Some(store) => fs::remove_file(store).context("losing a store"),
                    None => Ok(()),
                }
            }
            ValidatorFault::DamageStore(which, damage) => {
                self.kill(Incident::StoreDamaged, tally)?;
                match self.store(which)? {
                    Some(store) => damage_file(&store, damage),
                    None => Ok(()),
                }
            }
            ValidatorFault::Restart => {
                self.terminate(tally)?;
                tally.count(Incident::Restarted);
                Ok(())
            }
        }
    }

    fn kill(&mut self, incident: Incident, tally: &Tally) -> Result<()> {
        if !self.has_exited(tally)? {
            self.service.process.kill()?;
            tally.count(incident);
        }
        Ok(())
    }

    fn freeze(&mut self, time: Duration, incident: Incident, tally: &Tally) -> Result<()> {
        if self.has_exited(tally)? {
            return Ok(());
        }
        self.service.process.freeze()?;
        pause(time)?;
        self.service.process.thaw()?;
        tally.count(incident);
        // It finishes what it had begun before it learns that it was fenced: no other fault may interrupt
        // that.
        pause(Duration::from_millis(500))
    }

    /// Counts the rejoins after a stale static member has fenced the validator, from its whole log.
    pub(crate) fn count_rejoins(&self, tally: &Tally) -> Result<()> {
        let log = self.service.process.log()?;
        // A rejoin ends no process, so only the log shows it.
        log.lines()
            .filter(|line| line.contains(REJOINS))
            .for_each(|_| tally.count(Incident::Rejoined));
        Ok(())
    }

    /// Returns true if the validator has exited by itself, and counts that.
    fn has_exited(&mut self, tally: &Tally) -> Result<bool> {
        let Some(status) = self.service.process.try_wait()? else {
            return Ok(false);
        };
        let line = self.last_line()?;
        tally.exited_by_itself(format!("{} ({status}): {line}", self.service.process.name()));
        Ok(true)
    }

    fn last_line(&self) -> Result<String> {
        let log = self.service.process.log_since_start()?;
        Ok(log.lines().last().unwrap_or("it logged nothing").to_owned())
    }

    /// Returns one of the stores that exist, if any, picked by this number.
    fn store(&self, which: u64) -> Result<Option<PathBuf>> {
        let mut stores: Vec<PathBuf> = fs::read_dir(&self.state)
            .with_context(|| format!("listing the stores in {}", self.state.display()))?
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
            .collect();
        // The directory lists its files in any order, and the same seed must pick the same store.
        stores.sort();
        let count = u64::try_from(stores.len()).unwrap_or(1).max(1);
        Ok(stores
            .into_iter()
            .nth(usize::try_from(which % count).unwrap_or(0)))
    }
}

fn damage_file(store: &Path, damage: Damage) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(store)
        .with_context(|| format!("opening {}", store.display()))?;
    let length = file.metadata()?.len();
    let damaged = match damage {
        Damage::Truncated => file.set_len(length / 2),
        Damage::Zeroed => file.write_all(&[0; 8 * 1024]),
        Damage::Garbled => file
            .seek(SeekFrom::Start(length / 2))
            .and_then(|_| file.write_all(&[0xa5; 512])),
    };
    damaged.with_context(|| format!("damaging {}", store.display()))
}

fn humantime(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
