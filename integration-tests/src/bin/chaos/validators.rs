//! One validator's lives, from one fault to the next.

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

use crate::plan::{self, Damage, ProcessFault, TRANSACTION_TIMEOUT};
use crate::tally::{ClientError, Tally};

/// How long a validator may take until all its partitions run: others may stand still with an open transaction, and
/// a broker may be down, one after the other.
const READY_MAX: Duration = Duration::from_secs(180);
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// An orchestrator starts what has ended again, but not for ever.
const ENDED_MAX: u32 = 20;
/// What a validator logs then.
const BEGUN_AGAIN: &str = "instance id is vacant again";
const AGAIN: Duration = Duration::from_millis(500);

/// A validator and its row of faults.
pub(crate) struct InstanceLifecycle {
    service: Service,
    state: PathBuf,
    random: ChaCha8Rng,
    http: Http,
}

impl InstanceLifecycle {
    /// The validator with this number; it does not run yet.
    pub(crate) fn new(pipeline: &Pipeline, number: u32, seed: u64) -> Result<Self> {
        let settings = pipeline
            .validator_settings(number)
            .with("validator.transaction_timeout", humantime(TRANSACTION_TIMEOUT))
            .with("validator.commit_timeout", humantime(TRANSACTION_TIMEOUT * 3 / 4));
        Ok(Self {
            service: pipeline.service("validator", number, settings)?,
            state: pipeline.state_folder(number),
            random: plan::row(seed, number),
            http: Http::new()?,
        })
    }

    /// Suffers one fault after the other until then, and is at work afterwards.
    pub(crate) fn suffer_until(&mut self, until: Instant, tally: &Tally) -> Result<()> {
        self.work(tally)?;
        while Instant::now() < until {
            let fault = plan::fault(&mut self.random);
            self.suffer(fault, tally)
                .and_then(|()| self.work(tally))
                .with_context(|| format!("{}: {fault:?}", self.service.process.name()))?;
        }
        Ok(())
    }

    /// Starts it if it does not run, and waits until all its partitions do.
    pub(crate) fn work(&mut self, tally: &Tally) -> Result<()> {
        let started = Instant::now();
        let url = format!("{}/readyz", self.service.admin);
        for _ in 0..ENDED_MAX {
            if self.service.process.id().is_none() {
                self.service.process.start()?;
            }
            let left = READY_MAX.saturating_sub(started.elapsed());
            let what = format!("{} is ready ({url})", self.service.process.name());
            let is_ready = await_until(&what, left, || {
                if self.look(tally)? {
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
            pause(AGAIN)?;
        }
        bail!(
            "{} ended {ENDED_MAX} times by itself",
            self.service.process.name()
        )
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self, tally: &Tally) -> Result<()> {
        if !self.look(tally)? && self.service.process.id().is_some() {
            let status = self.service.process.request_shutdown(DRAIN_MAX)?;
            if !status.success() {
                tally.ended_by_itself(format!(
                    "{}, told to end, ended with {status}: {}",
                    self.service.process.name(),
                    self.last_line()?
                ));
            }
        }
        Ok(())
    }

    fn suffer(&mut self, fault: ProcessFault, tally: &Tally) -> Result<()> {
        match fault {
            ProcessFault::Killed(after) => {
                pause(after)?;
                self.kill(ClientError::Killed, tally)
            }
            ProcessFault::KilledStarting(after) => {
                self.kill(ClientError::Killed, tally)?;
                self.service.process.start()?;
                pause(after)?;
                self.kill(ClientError::KilledStarting, tally)
            }
            ProcessFault::Gone(time) => {
                self.kill(ClientError::Gone, tally)?;
                pause(time)
            }
            ProcessFault::Zombie(time) => self.stand_still(time, ClientError::Zombie, tally),
            ProcessFault::Hiccup(time) => self.stand_still(time, ClientError::Hiccup, tally),
            ProcessFault::DiskLost => {
                self.kill(ClientError::DiskLost, tally)?;
                fs::remove_dir_all(&self.state).context("losing the state directory")
            }
            ProcessFault::StoreLost(which) => {
                self.kill(ClientError::StoreLost, tally)?;
                match self.store(which)? {
                    Some(store) => fs::remove_file(store).context("losing a store"),
                    None => Ok(()),
                }
            }
            ProcessFault::StoreDamaged(which, damage) => {
                self.kill(ClientError::StoreDamaged, tally)?;
                match self.store(which)? {
                    Some(store) => spoil(&store, damage),
                    None => Ok(()),
                }
            }
            ProcessFault::Bounced => {
                self.terminate(tally)?;
                tally.count(ClientError::Bounced);
                Ok(())
            }
        }
    }

    fn kill(&mut self, fault: ClientError, tally: &Tally) -> Result<()> {
        if !self.look(tally)? {
            self.service.process.kill()?;
            tally.count(fault);
        }
        Ok(())
    }

    fn stand_still(&mut self, time: Duration, fault: ClientError, tally: &Tally) -> Result<()> {
        if self.look(tally)? {
            return Ok(());
        }
        self.service.process.freeze()?;
        pause(time)?;
        self.service.process.thaw()?;
        tally.count(fault);
        // What it has in its hands, it does now; it may be a while until it hears that it was shut out.
        pause(Duration::from_millis(500))
    }

    /// How often it was shut out by a member that was nobody, in all its lives: that ends no process.
    pub(crate) fn count_begun_again(&self, tally: &Tally) -> Result<()> {
        let log = self.service.process.log()?;
        log.lines()
            .filter(|line| line.contains(BEGUN_AGAIN))
            .for_each(|_| tally.count(ClientError::BegunAgain));
        Ok(())
    }

    /// Whether it has ended though nobody killed it.
    fn look(&mut self, tally: &Tally) -> Result<bool> {
        let Some(status) = self.service.process.try_wait()? else {
            return Ok(false);
        };
        let said = self.last_line()?;
        tally.ended_by_itself(format!("{} ({status}): {said}", self.service.process.name()));
        Ok(true)
    }

    fn last_line(&self) -> Result<String> {
        let life = self.service.process.log_since_start()?;
        Ok(life.lines().last().unwrap_or("nothing").to_owned())
    }

    fn store(&self, which: u64) -> Result<Option<PathBuf>> {
        let mut stores: Vec<PathBuf> = fs::read_dir(&self.state)
            .context("looking for stores")?
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
            .collect();
        stores.sort();
        let count = u64::try_from(stores.len()).unwrap_or(1).max(1);
        Ok(stores
            .into_iter()
            .nth(usize::try_from(which % count).unwrap_or(0)))
    }
}

fn spoil(store: &Path, damage: Damage) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(store)
        .with_context(|| format!("opening {}", store.display()))?;
    let length = file.metadata()?.len();
    let spoilt = match damage {
        Damage::Cut => file.set_len(length / 2),
        Damage::Zeroed => file.write_all(&[0; 8 * 1024]),
        Damage::Garbled => file
            .seek(SeekFrom::Start(length / 2))
            .and_then(|_| file.write_all(&[0xa5; 512])),
    };
    spoilt.with_context(|| format!("damaging {}", store.display()))
}

fn humantime(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
