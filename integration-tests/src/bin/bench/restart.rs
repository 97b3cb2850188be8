//! How long a restart keeps orders waiting: after `kill -9`, after SIGTERM, and in a rolling restart of three.

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

const LIMIT: Duration = Duration::from_secs(900);
/// How long it works between two restarts: long enough that its store was made durable in between.
const AT_WORK: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many keys the stores hold.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Over how many partitions.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// How many restarts of each kind.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// How many orders come in each second meanwhile.
    #[arg(long, default_value_t = 500)]
    per_second: u64,
    /// The seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures and prints.
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
    let [first, ..] = &mut validators;
    first.process.start()?;
    feed(&pipeline, arguments, arguments.keys, None).finish()?;
    await_until("the store has its keys", LIMIT, || {
        first.expect_running()?;
        pause(Duration::from_millis(200))?;
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders are not there")),
        })
    })?;

    // Fresh orders, of another seed.
    let more = Arguments {
        seed: arguments.seed + 1,
        ..*arguments
    };
    let feeding = feed(&pipeline, &more, u64::MAX, Some(arguments.per_second));
    let mut table = Table::new();
    table.set_header(vec![
        "from its start to its first pending call",
        "median",
        "longest",
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
        "rolling restart of three: the longest pause of a partition {} ms, the median of the {} partitions' longest {} ms",
        pauses.last().map_or(0, Duration::as_millis),
        pauses.len(),
        pauses[pauses.len() / 2].as_millis()
    );
    feeding.stop()?;
    pipeline.passed();
    Ok(())
}

fn feed(pipeline: &Pipeline, arguments: &Arguments, count: u64, per_second: Option<u64>) -> Feed {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix::all_fresh(arguments.seed)),
        count,
        per_second,
    })
}

/// Ends the validator so many times, and says how long each next life took to its first committed pending call.
fn restarts(
    pipeline: &Pipeline,
    service: &mut Service,
    runs: u32,
    end: impl Fn(&mut Service) -> Result<()>,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..runs {
        await_ready(service, LIMIT)?;
        pause(AT_WORK)?;
        end(service)?;
        // What lies behind its end is of the next life; what it left open is aborted and never read.
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

/// Restarts one after the other, each when the last one is ready, and says for each partition how long it had no
/// new pending call, at most; sorted.
fn roll(pipeline: &Pipeline, validators: &mut [Service; 3]) -> Result<Vec<Duration>> {
    for service in &mut validators[1..] {
        service.process.start()?;
    }
    for service in &mut *validators {
        await_ready(service, LIMIT)?;
    }
    // The group takes its time to share the partitions out.
    pause(Duration::from_secs(15))?;
    let stop = Arc::new(AtomicBool::new(false));
    let outbox = Outbox::from_end(pipeline)?;
    let watching = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || outbox.longest_pauses(&stop)
    });
    for service in validators {
        pause(AT_WORK)?;
        service.process.terminate(Duration::from_secs(60))?;
        service.process.start()?;
        await_ready(service, LIMIT)?;
    }
    pause(AT_WORK)?;
    stop.store(true, Ordering::Relaxed);
    let mut pauses = watching.join().ok().context("watching the outbox panicked")?;
    ensure!(
        i32::try_from(pauses.len())? == pipeline.partitions,
        "only {} of {} partitions had pending calls",
        pauses.len(),
        pipeline.partitions
    );
    pauses.sort();
    Ok(pauses)
}

/// A read_committed reader of the outbox, from its end on.
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

    fn await_first(&self, service: &mut Service) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            service.expect_running()?;
            if let Some(Ok(_)) = self.consumer.poll(Duration::from_millis(5)) {
                return Ok(());
            }
        }
        anyhow::bail!("no pending call within {LIMIT:?}")
    }

    fn longest_pauses(&self, stop: &AtomicBool) -> Vec<Duration> {
        let mut seen: HashMap<i32, (Instant, Duration)> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
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
