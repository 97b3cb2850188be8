//! Two brokers, and what the first says to the second goes through a proxy.
//!
//! ```text
//! broker 1: controller, coordinator of all groups and transactions
//!    │  ▲
//!  proxy │ is this transaction open?
//!    ▼  │
//! broker 2: leads what is placed on it
//! ```
//!
//! A coordinator answers the end of a transaction once it is decided, and then writes its markers. With the
//! proxy held, those of broker 2 are still to be written, for as long as a story needs to look at that.
//! Clients, and broker 2's questions about transactions, do not pass the proxy.

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

const LIMIT: Duration = Duration::from_secs(30);

/// The cluster; it ends when this is dropped.
pub struct TwoBrokers {
    /// Where all clients connect.
    pub kafka: String,
    /// Between broker 1 and broker 2.
    pub proxy: Proxy,
    addresses: [String; 2],
    brokers: [Broker; 2],
    folder: PathBuf,
    passed: bool,
}

impl TwoBrokers {
    /// Starts both, with the coordinators' topics on broker 1.
    ///
    /// # Errors
    /// A broker does not start; the error says how to get what is missing.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outbox-two-brokers-")
            .tempdir()
            .context("making a folder for two brokers")?
            .keep();
        let (controller, internal) = (free_port()?, [free_port()?, free_port()?]);
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, internal[1])))?;
        let broker = |number: u32, internal: String| {
            let voters = format!("1@127.0.0.1:{controller}");
            let place = [
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
            Broker::new(folder.join(number.to_string()), place)
        };
        let brokers = [
            broker(1, internal[0].to_string()),
            broker(2, format!("{}:{}", internal[1], proxy.port())),
        ];
        // At the same time: the second one waits for the first, and Java takes its time.
        let addresses = std::thread::scope(|scope| {
            let second = scope.spawn(|| brokers[1].start());
            let first = brokers[0].start()?;
            let second = second
                .join()
                .map_err(|_| anyhow!("starting broker 2 panicked"))??;
            Ok::<_, anyhow::Error>([first, second])
        })
        .context("this story needs two brokers of its own")?;
        let cluster = Self {
            kafka: addresses.join(","),
            proxy,
            addresses,
            brokers,
            folder,
            passed: false,
        };
        // Kafka would make them when they are first used, and choose the broker by itself.
        for topic in ["__consumer_offsets", "__transaction_state"] {
            cluster.create_topic(topic, 1, &[("cleanup.policy", "compact")])?;
        }
        Ok(cluster)
    }

    /// Creates a topic with one partition, which lies on broker 1 or 2, and waits until both know it.
    ///
    /// # Errors
    /// Kafka refuses.
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
            result.map_err(|(name, error)| anyhow!("Kafka refuses {name} on broker {broker}: {error}"))?;
        }
        self.addresses
            .iter()
            .try_for_each(|address| await_leader(address, name, broker))
    }

    /// All went well: nothing of it needs to stay.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for TwoBrokers {
    fn drop(&mut self) {
        if self.passed {
            self.brokers.iter_mut().for_each(Broker::discard);
            let _removed = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// One partition each, so that one broker has them all.
const ONE_COORDINATOR: [&str; 2] = [
    "offsets.topic.num.partitions=1",
    "transaction.state.log.num.partitions=1",
];

/// A broker hears of a new topic a moment after the controller has made it.
fn await_leader(address: &str, topic: &str, broker: i32) -> Result<()> {
    let reader = reader(address, "read_committed")?;
    await_until(&format!("{address} knows who leads {topic}"), LIMIT, || {
        let metadata = reader
            .fetch_metadata(Some(topic), LIMIT)
            .with_context(|| format!("asking {address} about {topic}"))?;
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
    })
}
