//! `metrics`: serves what only Kafka knows of the pipeline, for Prometheus, also while no other program runs.

mod backlog;
mod parked;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use records::Timestamp;
use service::admin::AdminSettings;
use service::status::{self, Identity, WorkReport};
use service::{Health, Shutdown};

use self::backlog::BacklogReading;
use self::parked::ParkedReading;
use crate::cli::ServeMetrics;
use crate::commands::Status;
use crate::config::Config;
use crate::metrics::{Metrics, Subject};

/// Maximum time of a reading of the backlog, for the watchdog: each request to a broker that does not respond takes its
/// time.
const READING_MAX: Duration = Duration::from_secs(600);

/// Interval at which a wait looks for the shutdown.
const SHUTDOWN_INTERVAL: Duration = Duration::from_millis(200);

/// Serves until the shutdown is requested.
pub(crate) fn run(options: &ServeMetrics, config: &Config) -> anyhow::Result<Status> {
    let shutdown = Shutdown::on_signals()?;
    let health = Health::new(READING_MAX);
    let mut registry = service::metrics::registry("outbox", service::VERSION);
    let metrics = Metrics::register(&mut registry);
    let identity = Identity {
        program: "outbox",
        version: service::VERSION,
        instance_id: options.which.group.clone(),
    };
    let route = status::route(identity, &health, &WorkReport::default());
    let mut admin = AdminSettings::on_port(options.listen.port());
    admin.listen = options.listen;
    let address = service::admin::spawn_thread(&admin, Arc::new(registry), health.clone(), route)
        .context("serving the metrics at the address of --listen")?;
    eprintln!("serving http://{address}/metrics");
    let backlog = BacklogReading::open(options, config)?;
    let mut parked = ParkedReading::new(&options.which.group, config);
    for subject in [Subject::Backlog, Subject::Parked] {
        health.set_unready(subject.as_str(), "not read yet");
    }
    health.set_ready(Health::STARTED);
    let rounds = Rounds {
        interval: Duration::from_secs(options.interval),
        shutdown: &shutdown,
        health: &health,
        metrics: &metrics,
    };
    // A thread each: the parked calls may take long to read, and the backlog must not wait for them.
    std::thread::scope(|scope| {
        scope.spawn(|| rounds.run(Subject::Parked, || parked.read(&metrics)));
        rounds.run(Subject::Backlog, || {
            health.tick();
            backlog.read(&metrics)
        });
    });
    Ok(Status::Ok)
}

/// Reads a subject again and again.
struct Rounds<'a> {
    interval: Duration,
    shutdown: &'a Shutdown,
    health: &'a Health,
    metrics: &'a Metrics,
}

impl Rounds<'_> {
    fn run(&self, subject: Subject, mut read: impl FnMut() -> anyhow::Result<()>) {
        let mut pace = Pace::default();
        while !self.shutdown.is_requested() {
            let started = Instant::now();
            match read() {
                Ok(()) => {
                    pace.took(started.elapsed());
                    self.metrics.read(subject, Timestamp::now());
                    self.health.set_ready(subject.as_str());
                }
                // The values stay as they were: an alert looks at their age.
                Err(error) => {
                    self.metrics.failed(subject);
                    let error = format!("{error:#}");
                    tracing::warn!(subject = subject.as_str(), error, "reading failed, trying again");
                    self.health.set_unready(subject.as_str(), error);
                }
            }
            let until = Instant::now() + pace.wait(self.interval);
            while Instant::now() < until && !self.shutdown.is_requested() {
                std::thread::sleep(SHUTDOWN_INTERVAL);
            }
        }
    }
}

/// Durations of the last readings, by which the next one waits.
#[derive(Default)]
struct Pace {
    last: [Duration; 5],
}

impl Pace {
    fn took(&mut self, time: Duration) {
        self.last.rotate_left(1);
        self.last[4] = time;
    }

    /// Returns the wait after a reading: the interval, or longer, so that reading takes a tenth of the time at most.
    // By the shortest of them: one that has waited for a new leader after the death of a broker puts no load on the others,
    // and would leave the values unread for minutes.
    fn wait(&self, interval: Duration) -> Duration {
        let shortest = self.last.into_iter().min().unwrap_or_default();
        interval.max(shortest.saturating_mul(9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn wait_after(took: &[u64]) -> u64 {
        let mut pace = Pace::default();
        for seconds in took {
            pace.took(Duration::from_secs(*seconds));
        }
        pace.wait(INTERVAL).as_secs()
    }

    #[test]
    fn reading_takes_a_tenth_of_the_time_at_most() {
        assert_eq!(wait_after(&[1; 9]), 15);
        assert_eq!(wait_after(&[10; 5]), 90);
        assert_eq!(wait_after(&[10, 20, 30, 40, 50, 60]), 180);
    }

    #[test]
    fn slow_readings_for_a_while_delay_none() {
        assert_eq!(wait_after(&[10]), 15);
        assert_eq!(wait_after(&[1, 10, 15, 15, 10]), 15);
    }
}
