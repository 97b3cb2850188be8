//! Measurement of the latency of one validator under a steady load: from an order's producer to a reader of the outbox.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Keys, Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, high_watermarks, read_topic};
use harness::wait::pause;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use records::Timestamp;

use crate::{resource_usage, validator};

/// Timeout of each wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Options of `bench latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Orders sent per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    per_second: u64,
    /// Time that is measured, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Time before that, in seconds, whose orders do not count: all clients connect, and a broker that has just started
    /// compiles its own code.
    #[arg(long, default_value_t = 30)]
    warm_up: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Setting of the validator, such as validator.commit_interval=10ms; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = validator::setting)]
    setting: Vec<(String, String)>,
    /// Process id of the broker, whose CPU time is then reported too.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Sends orders at a fixed rate, and prints how long they took to become readable in the outbox; before that the same
/// without a validator, for a reader of the orders topic.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    let mut pipeline = Pipeline::create("bench-latency-bare", arguments.partitions)?;
    let bare = run(arguments, &pipeline, &pipeline.topics.orders, None)?;
    pipeline.passed();
    let mut pipeline = Pipeline::create("bench-latency", arguments.partitions)?;
    let settings = validator::with_settings(pipeline.validator_settings(1), &arguments.setting);
    let mut service = pipeline.service("validator", 1, settings)?;
    service.process.start()?;
    await_ready(&mut service, LIMIT)?;
    let with_validator = run(arguments, &pipeline, &pipeline.topics.pending, Some(&mut service))?;
    service.process.terminate(LIMIT)?;
    pipeline.passed();
    println!(
        "{} orders/s for {} s on {} partitions, after {} s that do not count; from the producer's send to a reader",
        arguments.per_second, arguments.seconds, arguments.partitions, arguments.warm_up
    );
    let mut table = Table::new();
    table.set_header([
        "",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "maximum ms",
        "broker, cores",
        "validator, cores",
    ]);
    for (name, run) in [
        ("of the orders topic, without a validator", &bare),
        ("of the outbox", &with_validator),
    ] {
        let mut row = vec![name.to_owned()];
        row.extend([500, 990, 999, 1000].map(|permille| run.at(permille).to_string()));
        row.extend([run.broker_cores, run.validator_cores].map(shown));
        table.add_row(row);
    }
    println!("{table}");
    Ok(())
}

fn shown(cores: Option<f64>) -> String {
    cores.map_or_else(|| "-".into(), |cores| format!("{cores:.2}"))
}

/// Figures of one run.
struct Run {
    /// Latencies in ms, in rising order.
    latencies: Vec<i64>,
    broker_cores: Option<f64>,
    validator_cores: Option<f64>,
}

impl Run {
    /// Returns the latency that this share of the orders, in thousandths, did not exceed.
    fn at(&self, permille: usize) -> i64 {
        self.latencies[(self.latencies.len() - 1) * permille / 1000]
    }
}

/// Sends orders, and reads the topic that they, or their calls, are in.
fn run(
    arguments: &Arguments,
    pipeline: &Pipeline,
    topic: &str,
    mut validator: Option<&mut Service>,
) -> Result<Run> {
    let count = arguments.per_second * (arguments.warm_up + arguments.seconds);
    let reader = reader(pipeline, topic)?;
    // Beside the feed, so that each record is read as soon as it is readable.
    let reading = std::thread::spawn(move || arrivals(&reader, count));
    let feed = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix {
            keys: Keys::Random,
            ..Mix::all_new(arguments.seed)
        }),
        count,
        per_second: Some(arguments.per_second),
    });
    pause(Duration::from_secs(arguments.warm_up))?;
    let validator_id = validator
        .as_ref()
        .map(|service| service.process.id().context("the validator does not run"))
        .transpose()?;
    let cpu_of = |id: Option<u32>| {
        id.map(|id| resource_usage::used(id).map(|used| used.cpu))
            .transpose()
    };
    let (started, first_ms) = (Instant::now(), Timestamp::now().0);
    let before = [cpu_of(arguments.broker_pid)?, cpu_of(validator_id)?];
    let sent = feed.finish()?;
    let took = started.elapsed();
    let after = [cpu_of(arguments.broker_pid)?, cpu_of(validator_id)?];
    let arrivals = reading.join().ok().context("the thread that reads panicked")?;
    if let Some(service) = &mut validator {
        service.expect_running()?;
    }
    ensure!(
        arrivals.len() as u64 == sent,
        "only {} of {sent} orders were read from {topic} within {LIMIT:?}",
        arrivals.len()
    );
    let orders = read_topic(&pipeline.kafka, &pipeline.topics.orders, Keep::Fingerprints)?;
    let mut latencies: Vec<i64> = orders
        .iter()
        .filter(|order| order.timestamp_ms >= first_ms)
        .filter_map(|order| Some(arrivals.get(order.key.as_deref()?)? - order.timestamp_ms))
        .collect();
    latencies.sort_unstable();
    ensure!(!latencies.is_empty(), "no order was sent after the warm-up");
    let cores = |index: usize| -> Option<f64> {
        let used: Duration = after[index]?.saturating_sub(before[index]?);
        Some(used.as_secs_f64() / took.as_secs_f64())
    };
    Ok(Run {
        latencies,
        broker_cores: cores(0),
        validator_cores: cores(1),
    })
}

fn reader(pipeline: &Pipeline, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &pipeline.kafka)
        .set("group.id", "bench-latency")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .with_context(|| format!("creating a reader of {topic}"))?;
    let mut from = TopicPartitionList::new();
    for (partition, _) in high_watermarks(&pipeline.kafka, topic)? {
        from.add_partition_offset(topic, partition.0, Offset::Beginning)?;
    }
    consumer
        .assign(&from)
        .with_context(|| format!("following {topic}"))?;
    Ok(consumer)
}

/// Reads this many records, and returns the wall-clock time in ms at which each key was read.
fn arrivals(consumer: &BaseConsumer, count: u64) -> HashMap<Vec<u8>, i64> {
    let mut arrivals = HashMap::new();
    let mut until = Instant::now() + LIMIT;
    while (arrivals.len() as u64) < count && Instant::now() < until {
        // An error is no record; too few of them are noticed at the end.
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        until = Instant::now() + LIMIT;
        arrivals.insert(record.key().unwrap_or_default().to_vec(), Timestamp::now().0);
    }
    arrivals
}
