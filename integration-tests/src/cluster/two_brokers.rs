//! Two brokers with a proxy on the way from the first to the second.
//!
//! ```text
//! broker 1: controller, coordinator of all groups and transactions
//!    │          ▲
//!  proxy        │ AddPartitionsToTxn (verification)
//!    ▼          │
//! broker 2: leads the partitions placed on it
//! ```
//!
//! The transaction coordinator answers `EndTxn` once the outcome is in its log, and writes the markers
//! afterwards. While the proxy holds requests, the markers on broker 2 stay unwritten for as long as a
//! scenario needs. Clients, and requests from broker 2 to broker 1, do not pass the proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;

use crate::cluster::broker::Broker;
use crate::process::free_port;
use crate::proxy::Proxy;
use crate::read_back::topics::reader;
use crate::wait::await_until;

/// Timeout of each request and each wait.
const LIMIT: Duration = Duration::from_secs(30);

/// A running cluster; dropping it kills the brokers.
pub struct TwoBrokers {
    /// Bootstrap servers, `host:port,…`.
    pub kafka: String,
    /// Proxy for requests from broker 1 to broker 2.
    pub proxy: Proxy,
    addresses: [String; 2],
    brokers: [Broker; 2],
    folder: PathBuf,
    passed: bool,
}

impl TwoBrokers {
    /// Starts both brokers, with all coordinators on broker 1.
    ///
    /// # Errors
    /// A broker does not start, or Java is missing.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outbox-two-brokers-")
            .tempdir()
            .context("creating a folder for two brokers")?
            .keep();
        let (controller, internal) = (free_port()?, [free_port()?, free_port()?]);
        // Before the brokers: the second announces the proxy's port to the first.
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, internal[1])))?;
        let broker = |number: u32, internal: String| {
            let voters = format!("1@127.0.0.1:{controller}");
            let options = [
                "--node",
                &number.to_string(),
                "--voters",
                &voters,
                "--internal",
                &internal,
            ]
            .into_iter()
            .chain(ONE_COORDINATOR.into_iter().flat_map(|setting| ["--set", setting]))
            .map(str::to_owned)
            .collect();
            Broker::new(folder.join(number.to_string()), options)
        };
        let brokers = [
            broker(1, internal[0].to_string()),
            broker(2, format!("{}:{}", internal[1], proxy.port())),
        ];
        // Concurrently: the second waits for the controller on the first, and each JVM takes seconds.
        let addresses = std::thread::scope(|scope| {
            let second = scope.spawn(|| brokers[1].start());
            let first = brokers[0].start()?;
            let second = second
                .join()
                .map_err(|_| anyhow!("starting broker 2 panicked"))??;
            Ok::<_, anyhow::Error>([first, second])
        })
        .context("starting the two brokers of this scenario")?;
        let cluster = Self {
            kafka: addresses.join(","),
            proxy,
            addresses,
            brokers,
            folder,
            passed: false,
        };
        // Kafka creates them at first use, and would choose the broker itself.
        for topic in ["__consumer_offsets", "__transaction_state"] {
            cluster.create_topic(topic, 1, &[("cleanup.policy", "compact")])?;
        }
        Ok(cluster)
    }

    /// Creates a topic with one partition on broker 1 or 2, and waits until both report its leader.
    ///
    /// # Errors
    /// Kafka refuses, or a broker does not report the leader within 30 s.
    pub fn create_topic(&self, name: &str, broker: i32, settings: &[(&str, &str)]) -> Result<()> {
        let replicas: [&[i32]; 1] = [&[broker]];
        let mut topic = NewTopic::new(name, 1, TopicReplication::Variable(&replicas));
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        let client: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .create()
            .context("creating an admin client")?;
        let options = AdminOptions::new()
            .request_timeout(Some(LIMIT))
            .operation_timeout(Some(LIMIT));
        let results = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime")?
            .block_on(client.create_topics(&[topic], &options))
            .with_context(|| format!("creating {name} on broker {broker}"))?;
        for result in results {
            result.map_err(|(name, error)| {
                anyhow!("Kafka refused to create {name} on broker {broker}: {error}")
            })?;
        }
        // A broker learns of a new topic a moment after the controller has created it.
        self.addresses
            .iter()
            .try_for_each(|address| await_leader(address, name, broker))
    }

    /// Marks the scenario as passed: data and logs are deleted.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for TwoBrokers {
    fn drop(&mut self) {
        if self.passed {
            self.brokers.iter_mut().for_each(Broker::discard);
            // Best effort: the scenario has passed.
            let _removed = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Broker settings that give each internal topic one partition, and so one broker all coordinators.
const ONE_COORDINATOR: [&str; 2] = [
    "offsets.topic.num.partitions=1",
    "transaction.state.log.num.partitions=1",
];

/// Waits until the broker at this address reports `broker` as the leader of the topic.
fn await_leader(address: &str, topic: &str, broker: i32) -> Result<()> {
    let reader = reader(address, "read_committed")?;
    await_until(
        &format!("{address} reports broker {broker} as leader of {topic}"),
        LIMIT,
        || {
            let metadata = reader
                .fetch_metadata(Some(topic), LIMIT)
                .with_context(|| format!("fetching metadata of {topic} from {address}"))?;
            let leader = metadata
                .topics()
                .first()
                .and_then(|topic| topic.partitions().first())
                .map(|partition| partition.leader());
            Ok(if leader == Some(broker) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(format!("{leader:?}"))
            })
        },
    )
}
