//! One program under test: started until it is ready, killed, frozen and drained, with each incident counted.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use harness::http::Http;
use harness::pipeline::Service;
use harness::wait::{await_until, pause};

use crate::tally::{Incident, Tally};

/// Timeout until all partitions of an instance are processed.
// The open transaction of a frozen validator and a broker that is down may delay it, one after the other.
pub(crate) const READY_MAX: Duration = Duration::from_secs(180);
/// Timeout of a drain.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Maximum number of exits in a row before an instance counts as broken.
// It may exit by design, and an orchestrator restarts it; one that never gets ready is a defect.
const EXITS_MAX: u32 = 20;
/// Pause before an instance that exited by itself is restarted.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// Validator or caller under test.
pub(crate) struct Instance {
    pub(crate) service: Service,
    http: Http,
}

impl Instance {
    pub(crate) fn new(service: Service) -> Result<Self> {
        Ok(Self {
            service,
            http: Http::new()?,
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.service.process.name()
    }

    /// Starts the instance if it does not run, and waits until it is ready; restarts it if it exits
    /// meanwhile.
    pub(crate) fn start_ready(&mut self, tally: &Tally) -> Result<()> {
        let started = Instant::now();
        for _ in 0..EXITS_MAX {
            if self.service.process.id().is_none() {
                self.service.process.start()?;
            }
            // One limit for all attempts, however often it exits.
            let left = READY_MAX.saturating_sub(started.elapsed());
            let what = format!("{} is ready ({}/readyz)", self.name(), self.service.admin);
            let is_ready = await_until(&what, left, || {
                if self.has_exited(tally)? {
                    return Ok(ControlFlow::Break(false));
                }
                Ok(match self.readiness() {
                    (Some(200), _) => ControlFlow::Break(true),
                    (_, seen) => ControlFlow::Continue(seen),
                })
            })?;
            if is_ready {
                return Ok(());
            }
            pause(RESTART_DELAY)?;
        }
        bail!(
            "{} exited {EXITS_MAX} times by itself and never got ready",
            self.name()
        )
    }

    /// Waits until the running instance is not ready for a reason with these words. Returns `false` if it is
    /// not so within this time.
    pub(crate) fn await_unready(&mut self, words: &str, within: Duration, tally: &Tally) -> Result<bool> {
        let until = Instant::now() + within;
        while Instant::now() < until && !self.has_exited(tally)? {
            if matches!(self.readiness(), (Some(503), body) if body.contains(words)) {
                return Ok(true);
            }
            pause(Duration::from_millis(50))?;
        }
        Ok(false)
    }

    /// Returns the status of the readiness endpoint, if it answers, and what it said.
    pub(crate) fn readiness(&self) -> (Option<u16>, String) {
        match self.http.get(&format!("{}/readyz", self.service.admin)) {
            Ok((status, body)) => (Some(status), format!("{status} {body}")),
            Err(error) => (None, format!("{error:#}")),
        }
    }

    /// Drains the instance with SIGTERM, and counts an exit with an error.
    pub(crate) fn terminate(&mut self, tally: &Tally) -> Result<()> {
        if !self.has_exited(tally)? && self.service.process.id().is_some() {
            let status = self.service.process.request_shutdown(DRAIN_MAX)?;
            if !status.success() {
                tally.exited_by_itself(format!(
                    "{} after SIGTERM ({status}): {}",
                    self.name(),
                    self.last_line()?
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, incident: Incident, tally: &Tally) -> Result<()> {
        if self.stop_at_once(tally)? {
            tally.count(incident);
        }
        Ok(())
    }

    /// Sends SIGKILL as a part of an incident that is counted as a whole. Returns `false` if it had exited.
    pub(crate) fn stop_at_once(&mut self, tally: &Tally) -> Result<bool> {
        if self.has_exited(tally)? || self.service.process.id().is_none() {
            return Ok(false);
        }
        self.service.process.kill()?;
        Ok(true)
    }

    pub(crate) fn freeze(&mut self, time: Duration, incident: Incident, tally: &Tally) -> Result<()> {
        if self.has_exited(tally)? {
            return Ok(());
        }
        self.service.process.freeze()?;
        let paused = pause(time);
        // Also after Ctrl-C: a frozen process would not react to SIGTERM.
        self.service.process.thaw()?;
        paused?;
        tally.count(incident);
        // It finishes what it had begun before it learns that it was fenced: no other fault may interrupt
        // that.
        pause(Duration::from_millis(500))
    }

    /// Returns true if the instance has exited by itself, and counts that.
    pub(crate) fn has_exited(&mut self, tally: &Tally) -> Result<bool> {
        let Some(status) = self.service.process.try_wait()? else {
            return Ok(false);
        };
        let line = self.last_line()?;
        tally.exited_by_itself(format!("{} ({status}): {line}", self.name()));
        Ok(true)
    }

    fn last_line(&self) -> Result<String> {
        let log = self.service.process.log_since_start()?;
        Ok(log.lines().last().unwrap_or("it logged nothing").to_owned())
    }
}

/// Acts on all of them at the same time.
pub(crate) fn for_each_at_once<T: Send>(
    instances: &mut [T],
    act: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = instances
            .iter_mut()
            .map(|instance| scope.spawn(|| act(instance)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the thread of an instance panicked"))
                .and_then(|result| result)
        })
    })
}
