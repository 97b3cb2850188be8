//! Three brokers, as a pipeline for payments has: each partition lies on all of them, and two must have a record
//! before it counts. So one may be down at any time, and nothing that was acknowledged is lost.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::consumer::Consumer;

use crate::cluster::broker::Broker;
use crate::process::free_port;
use crate::read_back::topics::reader;
use crate::wait::await_until;

/// How long a broker that came back may take to have caught up with the others.
const IN_SYNC_MAX: Duration = Duration::from_secs(120);
/// On a machine with more work than it can do; in seconds.
const START_MAX_S: &str = "300";
const RESPONSE_MAX: Duration = Duration::from_secs(10);

/// The cluster; it ends when this is dropped.
pub struct ThreeBrokers {
    /// Where clients connect.
    pub kafka: String,
    brokers: Vec<Broker>,
    folder: PathBuf,
    passed: bool,
}

impl ThreeBrokers {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Starts them, each with a heap of so many MiB.
    ///
    /// # Errors
    /// A broker does not start; the error says how to get what is missing.
    pub fn start(heap_mib: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outbox-three-brokers-")
            .tempdir()
            .context("making a folder for three brokers")?
            .keep();
        let voters = (1..=Self::COUNT)
            .map(|node| Ok(format!("{node}@127.0.0.1:{}", free_port()?)))
            .collect::<Result<Vec<_>>>()?
            .join(",");
        let brokers: Vec<Broker> = (1..=Self::COUNT)
            .map(|node| {
                let place = [
                    "--node",
                    &node.to_string(),
                    "--voters",
                    &voters,
                    "--wait",
                    START_MAX_S,
                    "--heap",
                    &heap_mib.to_string(),
                ]
                .into_iter()
                .chain(REPLICATED.into_iter().flat_map(|setting| ["--set", setting]))
                .map(str::to_owned)
                .collect();
                Broker::new(folder.join(node.to_string()), place)
            })
            .collect();
        // At the same time: a controller answers nothing before most of the others are there.
        let addresses = std::thread::scope(|scope| {
            let starts: Vec<_> = brokers
                .iter()
                .map(|broker| scope.spawn(|| broker.start()))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().map_err(|_| anyhow!("starting a broker panicked"))?)
                .collect::<Result<Vec<_>>>()
        })
        .context("this story needs three brokers of its own")?;
        Ok(Self {
            kafka: addresses.join(","),
            brokers,
            folder,
            passed: false,
        })
    }

    /// One of them, from 0 on.
    #[must_use]
    pub fn broker(&self, index: usize) -> &Broker {
        &self.brokers[index]
    }

    /// Waits until each replica of each partition is in sync, so that the next broker may go down.
    ///
    /// # Errors
    /// One is not within the limit; the error says which.
    pub fn await_in_sync(&self) -> Result<()> {
        let reader = reader(&self.kafka, "read_committed")?;
        await_until("all replicas are in sync", IN_SYNC_MAX, || {
            // Brokers come and go: what is not answered is asked again.
            let metadata = match reader.fetch_metadata(None, RESPONSE_MAX) {
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
                None if metadata.brokers().len() == Self::COUNT => ControlFlow::Break(()),
                None => ControlFlow::Continue(format!("{} brokers", metadata.brokers().len())),
                Some(behind) => ControlFlow::Continue(behind),
            })
        })
    }

    /// All went well: nothing of it needs to stay.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for ThreeBrokers {
    fn drop(&mut self) {
        if self.passed {
            self.brokers.iter_mut().for_each(Broker::discard);
            let _removed = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Kafka's own topics, too, lie on all three and need two.
const REPLICATED: [&str; 6] = [
    "offsets.topic.replication.factor=3",
    "transaction.state.log.replication.factor=3",
    "transaction.state.log.min.isr=2",
    "default.replication.factor=3",
    "min.insync.replicas=2",
    "replica.lag.time.max.ms=10000",
];
