//! Three brokers with replication factor 3 and `min.insync.replicas` 2, as in production.
//!
//! One broker at a time may be down, and no acknowledged record is lost.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::consumer::Consumer;

use crate::cluster::broker::Broker;
use crate::process::free_port;
use crate::read_back::topics::reader;
use crate::wait::await_until;

/// Timeout until a restarted broker has caught up.
const IN_SYNC_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout of a broker's start, in seconds; long, for an overloaded machine.
const START_TIMEOUT_S: &str = "300";
/// Timeout of each metadata request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running cluster; dropping it kills the brokers.
pub struct ThreeBrokers {
    /// Bootstrap servers, `host:port,…`.
    pub kafka: String,
    brokers: Vec<Broker>,
    folder: PathBuf,
    passed: bool,
}

impl ThreeBrokers {
    /// Number of brokers in the cluster.
    pub const COUNT: usize = 3;

    /// Starts the brokers, each with a heap of this size in MiB.
    ///
    /// # Errors
    /// A broker does not start, or Java is missing.
    pub fn start(heap_mib: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outbox-three-brokers-")
            .tempdir()
            .context("creating a folder for three brokers")?
            .keep();
        let voters = (1..=Self::COUNT)
            // Each broker is a controller too: with three voters the quorum survives one broker.
            .map(|node| Ok(format!("{node}@127.0.0.1:{}", free_port()?)))
            .collect::<Result<Vec<_>>>()?
            .join(",");
        let brokers: Vec<Broker> = (1..=Self::COUNT)
            .map(|node| {
                let options = [
                    "--node",
                    &node.to_string(),
                    "--voters",
                    &voters,
                    "--wait",
                    START_TIMEOUT_S,
                    "--heap",
                    &heap_mib.to_string(),
                ]
                .into_iter()
                .chain(REPLICATED.into_iter().flat_map(|setting| ["--set", setting]))
                .map(str::to_owned)
                .collect();
                Broker::new(folder.join(node.to_string()), options)
            })
            .collect();
        let addresses = start_all(&brokers).context("starting the three brokers of this scenario")?;
        Ok(Self {
            kafka: addresses.join(","),
            brokers,
            folder,
            passed: false,
        })
    }

    /// Returns a broker by its index, from 0.
    #[must_use]
    pub fn broker(&self, index: usize) -> &Broker {
        &self.brokers[index]
    }

    /// Kills all brokers, passes the data folder of each to `change`, and starts them again, in any case.
    ///
    /// # Errors
    /// `change` failed, or a broker does not start.
    pub fn kill_all_and_restart<T>(&self, change: impl FnOnce(&[PathBuf]) -> Result<T>) -> Result<T> {
        self.brokers.iter().try_for_each(Broker::kill)?;
        let data: Vec<PathBuf> = (1..=Self::COUNT)
            .map(|node| self.folder.join(node.to_string()).join("data"))
            .collect();
        let changed = change(&data);
        start_all(&self.brokers).context("starting all brokers again")?;
        changed
    }

    /// Waits until all replicas of all partitions are in sync, so that the next broker may go down.
    ///
    /// # Errors
    /// A replica is not in sync within 120 s; the error names its partition.
    pub fn await_in_sync(&self) -> Result<()> {
        let reader = reader(&self.kafka, "read_committed")?;
        await_until("all replicas are in sync", IN_SYNC_TIMEOUT, || {
            // Brokers go down during the scenario: a failed request is repeated until the timeout.
            let metadata = match reader.fetch_metadata(None, RESPONSE_TIMEOUT) {
                Ok(metadata) => metadata,
                Err(error) => return Ok(ControlFlow::Continue(error.to_string())),
            };
            let behind = metadata.topics().iter().find_map(|topic| {
                topic.partitions().iter().find_map(|partition| {
                    let is_in_sync =
                        partition.leader() >= 0 && partition.isr().len() == partition.replicas().len();
                    (!is_in_sync).then(|| {
                        format!(
                            "{}/{}: leader {}, in sync {:?} of {:?}",
                            topic.name(),
                            partition.id(),
                            partition.leader(),
                            partition.isr(),
                            partition.replicas()
                        )
                    })
                })
            });
            Ok(match behind {
                // A missing broker counts too, whether or not it has replicas.
                None if metadata.brokers().len() == Self::COUNT => ControlFlow::Break(()),
                None => ControlFlow::Continue(format!("{} brokers", metadata.brokers().len())),
                Some(behind) => ControlFlow::Continue(behind),
            })
        })
    }

    /// Marks the scenario as passed: data and logs are deleted.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

/// Starts all brokers, and returns their addresses.
// Concurrently: a controller answers nothing before a majority of the voters runs.
fn start_all(brokers: &[Broker]) -> Result<Vec<String>> {
    std::thread::scope(|scope| {
        let starts: Vec<_> = brokers
            .iter()
            .map(|broker| scope.spawn(|| broker.start()))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().map_err(|_| anyhow!("starting a broker panicked"))?)
            .collect()
    })
}

impl Drop for ThreeBrokers {
    fn drop(&mut self) {
        if self.passed {
            self.brokers.iter_mut().for_each(Broker::discard);
            // Best effort: the scenario has passed.
            let _removed = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Broker settings that replicate Kafka's internal topics too.
const REPLICATED: [&str; 6] = [
    "offsets.topic.replication.factor=3",
    "transaction.state.log.replication.factor=3",
    "transaction.state.log.min.isr=2",
    "default.replication.factor=3",
    "min.insync.replicas=2",
    // A third of the default, so that writes wait less for a broker that is down or frozen.
    "replica.lag.time.max.ms=10000",
];
