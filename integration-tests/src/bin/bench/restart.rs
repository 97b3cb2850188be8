//! Measurement of restarts: how long orders wait after `kill -9`, after SIGTERM, and in a rolling restart of
//! three validators.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::cluster;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::high_watermarks;
use harness::wait::{await_until, pause};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::resource_usage;

/// Timeout of each wait; filling the store takes longest.
const LIMIT: Duration = Duration::from_secs(900);
/// Time between two restarts: long enough for the store to become durable.
const RUN_TIME: Duration = Duration::from_secs(3);

/// Options of `bench restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of keys in the stores.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Number of restarts of each kind.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Orders sent per second during the measurement.
    #[arg(long, default_value_t = 500)]
    per_second: u64,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures each kind of restart, and prints the times.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    println!(
        "{} keys on {} partitions, {} orders per second, {} restarts of each kind, seed {}",
        arguments.keys, arguments.partitions, arguments.per_second, arguments.runs, arguments.seed
    );
    let mut pipeline = Pipeline::create("bench-restart", arguments.partitions)?;
    let mut validators = [
        pipeline.validator(1)?,
        pipeline.validator(2)?,
        pipeline.validator(3)?,
    ];
    // One validator fills the stores and is restarted; the other two join for the rolling restart.
    let [first, ..] = &mut validators;
    first.process.start()?;
    feed(&pipeline, arguments, arguments.keys, None).finish()?;
    await_until("the store holds all keys", LIMIT, || {
        first.expect_running()?;
        pause(Duration::from_millis(200))?;
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have no verdict")),
        })
    })?;

    // Another seed, or all of them would be duplicates, of which nothing is written to the outbox.
    let more = Arguments {
        seed: arguments.seed + 1,
        ..*arguments
    };
    let feeding = feed(&pipeline, &more, u64::MAX, Some(arguments.per_second));
    let mut table = Table::new();
    table.set_header(vec![
        "from the start to the first pending call",
        "median",
        "maximum",
    ]);
    let killed = restarts(&pipeline, first, arguments.runs, |service| service.process.kill())?;
    table.add_row(row("after kill -9", &killed));
    let drained = restarts(&pipeline, first, arguments.runs, |service| {
        service.process.terminate(Duration::from_secs(60))
    })?;
    table.add_row(row("after SIGTERM", &drained));
    println!("{table}");

    let pauses = roll(&pipeline, &mut validators)?;
    println!(
        "rolling restart of three validators: longest pause of a partition {} ms, \
         median of the {} partitions {} ms",
        pauses.last().map_or(0, Duration::as_millis),
        pauses.len(),
        pauses[pauses.len() / 2].as_millis()
    );
    // Not checked: the last orders may be without a verdict, and nothing depends on them.
    feeding.stop()?;
    pipeline.passed();
    Ok(())
}

fn feed(pipeline: &Pipeline, arguments: &Arguments, count: u64, per_second: Option<u64>) -> Feed {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix::all_new(arguments.seed)),
        count,
        per_second,
    })
}

/// Stops and restarts the validator; returns the sorted times from each start to the first committed pending
/// call.
fn restarts(
    pipeline: &Pipeline,
    service: &mut Service,
    runs: u32,
    stop: impl Fn(&mut Service) -> Result<()>,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..runs {
        // The clock must not start before the last restart is over.
        await_ready(service, LIMIT)?;
        pause(RUN_TIME)?;
        stop(service)?;
        // Committed records behind this end are the work of the restarted validator: what the stopped one has
        // left open is aborted, and never read.
        let outbox = Outbox::from_end(pipeline)?;
        let started = Instant::now();
        service.process.start()?;
        outbox.await_first(service)?;
        took.push(started.elapsed());
    }
    took.sort();
    Ok(took)
}

fn row(what: &str, took: &[Duration]) -> Vec<String> {
    let ms = |time: Option<&Duration>| format!("{} ms", time.map_or(0, Duration::as_millis));
    vec![what.into(), ms(took.get(took.len() / 2)), ms(took.last())]
}

/// Restarts one validator after the other, each when the last one is ready; returns the sorted longest pauses
/// between two pending calls, one for each partition.
fn roll(pipeline: &Pipeline, validators: &mut [Service; 3]) -> Result<Vec<Duration>> {
    for service in &mut validators[1..] {
        service.process.start()?;
    }
    for service in &mut *validators {
        await_ready(service, LIMIT)?;
    }
    // The rebalance after the last join would count as a pause.
    pause(Duration::from_secs(15))?;
    let stop = Arc::new(AtomicBool::new(false));
    let outbox = Outbox::from_end(pipeline)?;
    // Beside the restarts, or the pauses would be read only afterwards.
    let watching = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || outbox.longest_pauses(&stop)
    });
    for service in validators {
        pause(RUN_TIME)?;
        service.process.terminate(Duration::from_secs(60))?;
        service.process.start()?;
        await_ready(service, LIMIT)?;
    }
    pause(RUN_TIME)?;
    stop.store(true, Ordering::Relaxed);
    // A partition without any record would be left out of the maximum.
    let mut pauses = watching
        .join()
        .ok()
        .context("the thread that reads the outbox panicked")?;
    ensure!(
        i32::try_from(pauses.len())? == pipeline.partitions,
        "only {} of {} partitions had pending calls during the rolling restart",
        pauses.len(),
        pipeline.partitions
    );
    pauses.sort();
    Ok(pauses)
}

/// Reader of the outbox under read_committed, from its current end.
struct Outbox {
    consumer: BaseConsumer,
}

impl Outbox {
    fn from_end(pipeline: &Pipeline) -> Result<Self> {
        let topic = &pipeline.topics.pending;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &pipeline.kafka)
            .set("group.id", "bench-outbox")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            // A fetch that the broker answers late would be measured as a pause.
            .set("fetch.wait.max.ms", "10")
            .create()
            .context("creating a reader of the outbox")?;
        let mut from = TopicPartitionList::new();
        for (partition, end) in high_watermarks(&pipeline.kafka, topic)? {
            from.add_partition_offset(topic, partition.0, Offset::Offset(end.0))?;
        }
        consumer.assign(&from).context("following the outbox")?;
        Ok(Self { consumer })
    }

    /// Waits for the first record, and fails if the validator exits meanwhile.
    fn await_first(&self, service: &mut Service) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            service.expect_running()?;
            if let Some(Ok(_)) = self.consumer.poll(Duration::from_millis(5)) {
                return Ok(());
            }
        }
        anyhow::bail!("no pending call was committed within {LIMIT:?} of the restart")
    }

    /// Reads until it is stopped; returns the longest pause between two records of each partition.
    fn longest_pauses(&self, stop: &AtomicBool) -> Vec<Duration> {
        let mut seen: HashMap<i32, (Instant, Duration)> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            // An error is no record: the pause goes on until the next one.
            let Some(Ok(record)) = self.consumer.poll(Duration::from_millis(5)) else {
                continue;
            };
            let now = Instant::now();
            let (last, longest) = seen.entry(record.partition()).or_insert((now, Duration::ZERO));
            *longest = (*longest).max(now - *last);
            *last = now;
        }
        seen.into_values().map(|(_, longest)| longest).collect()
    }
}
