//! Measurement of the latency of one validator under a steady load: from an order's producer to a reader of the outbox.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Keys, Mix, Orders};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, high_watermarks, read_topic};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use records::Timestamp;

use crate::{resource_usage, validator};

/// Time whose orders do not count: all clients connect meanwhile.
const WARM_UP_MS: i64 = 2_000;
/// Timeout of each wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Options of `bench latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Orders sent per second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    per_second: u64,
    /// Time for which orders are sent, in seconds; those of the first two do not count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..))]
    seconds: u64,
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

/// Sends orders at a fixed rate, and prints how long they took to become readable in the outbox.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    let mut pipeline = Pipeline::create("bench-latency", arguments.partitions)?;
    let settings = validator::with_settings(pipeline.validator_settings(1), &arguments.setting);
    let mut service = pipeline.service("validator", 1, settings)?;
    service.process.start()?;
    await_ready(&mut service, LIMIT)?;
    let validator_id = service.process.id().context("the validator does not run")?;
    let count = arguments.per_second * arguments.seconds;
    let reader = reader(&pipeline)?;
    // Beside the feed, so that each record is read as soon as it is readable.
    let reading = std::thread::spawn(move || arrivals(&reader, count));
    let started = Instant::now();
    let cpu_before = cpu(arguments.broker_pid, validator_id)?;
    let sent = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix {
            keys: Keys::Random,
            ..Mix::all_new(arguments.seed)
        }),
        count,
        per_second: Some(arguments.per_second),
    })
    .finish()?;
    let took = started.elapsed();
    let cpu_after = cpu(arguments.broker_pid, validator_id)?;
    let arrivals = reading
        .join()
        .ok()
        .context("the thread that reads the outbox panicked")?;
    service.expect_running()?;
    service.process.terminate(LIMIT)?;
    ensure!(
        arrivals.len() as u64 == sent,
        "only {} of {sent} orders were read from the outbox within {LIMIT:?}",
        arrivals.len()
    );
    let orders = read_topic(&pipeline.kafka, &pipeline.topics.orders, Keep::Fingerprints)?;
    let first_ms = orders.iter().map(|order| order.timestamp_ms).min().unwrap_or(0);
    let mut latencies: Vec<i64> = orders
        .iter()
        .filter(|order| order.timestamp_ms >= first_ms + WARM_UP_MS)
        .filter_map(|order| Some(arrivals.get(order.key.as_deref()?)? - order.timestamp_ms))
        .collect();
    latencies.sort_unstable();
    let at = |permille: usize| latencies[(latencies.len() - 1) * permille / 1000];
    println!(
        "{} orders/s for {} s on {} partitions, from the producer's send to a reader of the outbox: p50 {} ms, p99 {} \
         ms, p99.9 {} ms, maximum {} ms",
        arguments.per_second,
        arguments.seconds,
        arguments.partitions,
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    let cores = |index: usize| (cpu_after[index] - cpu_before[index]).as_secs_f64() / took.as_secs_f64();
    println!("CPU: validator {:.2} cores", cores(0));
    if arguments.broker_pid.is_some() {
        println!(
            "CPU: broker {:.2} cores, producer and reader of the measurement included",
            cores(1)
        );
    }
    pipeline.passed();
    Ok(())
}

/// Returns the CPU times of the validator and of the broker; zero for an unknown broker.
fn cpu(broker: Option<u32>, validator: u32) -> Result<[Duration; 2]> {
    let broker = broker.map_or(Ok(Duration::ZERO), |id| {
        resource_usage::used(id).map(|used| used.cpu)
    })?;
    Ok([resource_usage::used(validator)?.cpu, broker])
}

fn reader(pipeline: &Pipeline) -> Result<BaseConsumer> {
    let topic = &pipeline.topics.pending;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &pipeline.kafka)
        .set("group.id", "bench-latency")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .context("creating a reader of the outbox")?;
    let mut from = TopicPartitionList::new();
    for (partition, _) in high_watermarks(&pipeline.kafka, topic)? {
        from.add_partition_offset(topic, partition.0, Offset::Beginning)?;
    }
    consumer.assign(&from).context("following the outbox")?;
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
