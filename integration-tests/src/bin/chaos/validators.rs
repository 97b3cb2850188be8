//! One validator under test: its lives, from one fault to the next.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::pipeline::Pipeline;
use harness::wait::pause;
use rand_chacha::ChaCha8Rng;

use crate::instance::Instance;
use crate::plan::{self, Damage, TRANSACTION_TIMEOUT, ValidatorFault};
use crate::tally::{Incident, Tally};
use harness::read_back::stores::DAMAGED;

/// Text that a validator logs when it rejoins after a stale static member has fenced it.
const REJOINS: &str = "instance id is vacant again";
/// Error of a write beyond the limit on the file size, which stands for a full disk.
const DISK_FULL: &str = "File too large";
/// Time in which a validator on a full disk must say so. It may own no partition to write to.
const DISK_FULL_NOTICED_MAX: Duration = Duration::from_secs(12);
/// Size in KiB by which the log may grow on a full disk. Small, because a store with few keys is written near
/// its start.
const LOG_GROWTH_KIB_MAX: u64 = 64;

/// Validator under test, and the random stream of its faults.
pub(crate) struct Validator {
    pub(crate) instance: Instance,
    state: PathBuf,
    log: PathBuf,
    random: ChaCha8Rng,
    /// Fault before the drawn ones.
    first: Option<ValidatorFault>,
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
            instance: Instance::new(pipeline.service("validator", number, settings)?)?,
            state: pipeline.state_folder(number),
            log: pipeline.folder().join(format!("validator-{number}.log")),
            random: plan::random_stream(seed, number),
            // Cheap but rare: so each run has it, however short it is.
            first: (number == 1).then_some(ValidatorFault::FillDisk),
        })
    }

    /// Injects one fault after the other until this time; the validator is ready afterwards.
    pub(crate) fn inject_until(&mut self, until: Instant, tally: &Tally) -> Result<()> {
        self.instance.start_ready(tally)?;
        while Instant::now() < until {
            let fault = self
                .first
                .take()
                .unwrap_or_else(|| plan::validator_fault(&mut self.random));
            self.inject(fault, tally)
                .and_then(|()| self.instance.start_ready(tally))
                .with_context(|| format!("{}: {fault:?}", self.instance.name()))?;
        }
        Ok(())
    }

    /// Deletes the state directory of the validator, which does not run.
    pub(crate) fn lose_state(&self) -> Result<()> {
        match fs::remove_dir_all(&self.state) {
            // Killed before it had made one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("losing the state directory"),
        }
    }

    fn inject(&mut self, fault: ValidatorFault, tally: &Tally) -> Result<()> {
        match fault {
            ValidatorFault::Kill(after) => {
                pause(after)?;
                self.kill(Incident::Killed, tally)
            }
            ValidatorFault::KillWhileStarting(after) => {
                self.kill(Incident::Killed, tally)?;
                self.instance.service.process.start()?;
                pause(after)?;
                self.kill(Incident::KilledWhileStarting, tally)
            }
            ValidatorFault::KillAndStayDown(time) => {
                self.kill(Incident::KilledAndStayedDown, tally)?;
                pause(time)
            }
            ValidatorFault::FreezePastSession(time) => self.instance.freeze(time, Incident::Zombie, tally),
            ValidatorFault::FreezeBriefly(time) => self.instance.freeze(time, Incident::FrozenBriefly, tally),
            ValidatorFault::LoseDisk => {
                self.kill(Incident::DiskLost, tally)?;
                self.lose_state()
            }
            ValidatorFault::FillDisk => self.fill_disk(tally),
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
                self.instance.terminate(tally)?;
                tally.count(Incident::Restarted);
                Ok(())
            }
        }
    }

    fn kill(&mut self, incident: Incident, tally: &Tally) -> Result<()> {
        self.instance.kill(incident, tally)
    }

    /// Restarts the validator on a full disk, and gives it space again once it has said so.
    fn fill_disk(&mut self, tally: &Tally) -> Result<()> {
        self.instance.stop_at_once(tally)?;
        let log_kib = fs::metadata(&self.log).map_or(0, |log| log.len()) / 1024;
        // Before the store's end, so that its next write fails, and the creation of another store too.
        let process = &mut self.instance.service.process;
        process.limit_files(log_kib + LOG_GROWTH_KIB_MAX);
        process.start()?;
        if self
            .instance
            .await_unready(DISK_FULL, DISK_FULL_NOTICED_MAX, tally)?
        {
            tally.count(Incident::DiskFull);
        }
        // With space again the same process must go on.
        if self.instance.service.process.id().is_some() {
            self.instance.service.process.lift_file_limit()?;
        }
        Ok(())
    }

    /// Counts the rejoins after a stale static member has fenced the validator, from its whole log.
    pub(crate) fn count_rejoins(&self, tally: &Tally) -> Result<()> {
        let log = self.instance.service.process.log()?;
        // A rejoin ends no process, so only the log shows it.
        log.lines()
            .filter(|line| line.contains(REJOINS))
            .for_each(|_| tally.count(Incident::Rejoined));
        Ok(())
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
    // For the checks at the end, which otherwise expect a sound store.
    fs::write(store.with_extension(DAMAGED), b"").context("noting a damaged store")?;
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
