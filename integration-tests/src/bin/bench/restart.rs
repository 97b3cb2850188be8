//! Measurement of restarts: how long orders wait after `kill -9`, after SIGTERM, with lost stores, and in a rolling
//! restart of three validators.

use std::collections::{HashMap, HashSet};
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
use serde::Serialize;

use crate::figures::Range;
use crate::resource_usage;

/// Timeout of each wait; filling the store takes longest.
pub(crate) const LIMIT: Duration = Duration::from_secs(900);
/// Time between two restarts: long enough for the store to become durable.
pub(crate) const RUN_TIME: Duration = Duration::from_secs(3);

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
    /// Number of restarts with an empty state directory, each of which restores all keys from the changelog.
    #[arg(long, default_value_t = 3)]
    lost_stores: u32,
    /// Orders sent per second during the measurement.
    #[arg(long, default_value_t = 500)]
    per_second: u64,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Times of several restarts of one kind, from the start to committed pending calls.
#[derive(Clone, Copy, Debug, Serialize)]
struct Waits {
    first_call_ms: Range,
    /// Until each partition has one. No more than `store.restores_max` are restored at the same time.
    each_partition_ms: Range,
}

/// All figures, with what they were measured on.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    keys: u64,
    partitions: i32,
    per_second: u64,
    runs: u32,
    lost_stores_runs: u32,
    seed: u64,
    after_kill: Waits,
    after_sigterm: Waits,
    /// None without such restarts.
    lost_stores: Option<Waits>,
    /// Longest pause of each partition in a rolling restart.
    rolling_pause_ms: Range,
}

/// Measures each kind of restart, and prints a table or JSON.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    let mut pipeline = Pipeline::create("bench-restart", arguments.partitions)?;
    let mut validators = [
        pipeline.validator(1)?,
        pipeline.validator(2)?,
        pipeline.validator(3)?,
    ];
    // One validator fills the stores and is restarted; the other two join for the rolling restart.
    let [first, ..] = &mut validators;
    fill(&pipeline, first, arguments.keys, arguments.seed)?;
    let feeding = feed_on(&pipeline, arguments.seed, arguments.per_second);
    let killed = restarts(&pipeline, first, arguments.runs, |service| service.process.kill())?;
    let drained = restarts(&pipeline, first, arguments.runs, |service| {
        service.process.terminate(Duration::from_secs(60))
    })?;
    let lost = match arguments.lost_stores {
        0 => None,
        runs => Some(restarts(&pipeline, first, runs, |service| {
            service.process.kill()?;
            std::fs::remove_dir_all(pipeline.state_folder(1)).context("deleting the stores")
        })?),
    };
    let pauses = roll(&pipeline, &mut validators)?;
    // Not checked: the last orders may be without a verdict, and nothing depends on them.
    feeding.stop()?;
    let report = Report {
        machine: resource_usage::describe(),
        keys: arguments.keys,
        partitions: arguments.partitions,
        per_second: arguments.per_second,
        runs: arguments.runs,
        lost_stores_runs: arguments.lost_stores,
        seed: arguments.seed,
        after_kill: killed,
        after_sigterm: drained,
        lost_stores: lost,
        rolling_pause_ms: milliseconds(&pauses),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    pipeline.passed();
    Ok(())
}

impl Report {
    fn print(&self) {
        println!("{}", self.machine);
        println!(
            "{} keys on {} partitions, {} orders per second, {} restarts of each kind and {} with lost stores, seed {}",
            self.keys, self.partitions, self.per_second, self.runs, self.lost_stores_runs, self.seed
        );
        let mut table = Table::new();
        table.set_header(vec![
            "minimum / median / maximum ms from the start",
            "to the first pending call",
            "to one of each partition",
        ]);
        for (what, waits) in [
            ("after kill -9", Some(self.after_kill)),
            ("after SIGTERM", Some(self.after_sigterm)),
            ("after kill -9 with lost stores", self.lost_stores),
        ] {
            if let Some(Waits {
                first_call_ms,
                each_partition_ms,
            }) = waits
            {
                table.add_row(vec![
                    what.to_owned(),
                    first_call_ms.show(0),
                    each_partition_ms.show(0),
                ]);
            }
        }
        println!("{table}");
        println!(
            "rolling restart of three validators: longest pauses of the {} partitions {} ms (minimum / median / maximum)",
            self.partitions,
            self.rolling_pause_ms.show(0)
        );
    }
}

/// Starts the validator, and waits until its stores have this many keys.
pub(crate) fn fill(pipeline: &Pipeline, service: &mut Service, keys: u64, seed: u64) -> Result<()> {
    service.process.start()?;
    feed(pipeline, seed, keys, None).finish()?;
    await_until("the store holds all keys", LIMIT, || {
        service.expect_running()?;
        pause(Duration::from_millis(200))?;
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic)? {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have no verdict")),
        })
    })
}

/// Sends further orders, until it is stopped.
pub(crate) fn feed_on(pipeline: &Pipeline, seed: u64, per_second: u64) -> Feed {
    // Another seed, or all of them would be duplicates, of which nothing is written to the outbox.
    feed(pipeline, seed + 1, u64::MAX, Some(per_second))
}

/// Sends new orders, at this rate or at full speed.
fn feed(pipeline: &Pipeline, seed: u64, count: u64, per_second: Option<u64>) -> Feed {
    Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: pipeline.partitions,
        orders: Orders::Generated(Mix::all_new(seed)),
        count,
        per_second,
    })
}

/// Stops and restarts the validator; returns the times from each start.
fn restarts(
    pipeline: &Pipeline,
    service: &mut Service,
    runs: u32,
    stop: impl Fn(&mut Service) -> Result<()>,
) -> Result<Waits> {
    let (mut firsts, mut alls) = (Vec::new(), Vec::new());
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
        let first = outbox.await_call(service)?;
        firsts.push(started.elapsed());
        outbox.await_calls((0..pipeline.partitions).filter(|other| *other != first), service)?;
        alls.push(started.elapsed());
    }
    Ok(Waits {
        first_call_ms: milliseconds(&firsts),
        each_partition_ms: milliseconds(&alls),
    })
}

pub(crate) fn milliseconds(took: &[Duration]) -> Range {
    Range::of(took, |time| time.as_secs_f64() * 1e3)
}

/// Restarts one validator after the other, each when the last one is ready; returns the longest pauses between two
/// pending calls, one for each partition.
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
    let pauses = watching
        .join()
        .ok()
        .context("the thread that reads the outbox panicked")?;
    ensure!(
        i32::try_from(pauses.len())? == pipeline.partitions,
        "only {} of {} partitions had pending calls during the rolling restart",
        pauses.len(),
        pipeline.partitions
    );
    Ok(pauses)
}

/// Reader of the outbox under read_committed, from its current end.
pub(crate) struct Outbox {
    consumer: BaseConsumer,
}

impl Outbox {
    pub(crate) fn from_end(pipeline: &Pipeline) -> Result<Self> {
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

    /// Waits until each of these partitions has a record.
    pub(crate) fn await_calls(
        &self,
        partitions: impl Iterator<Item = i32>,
        service: &mut Service,
    ) -> Result<()> {
        let mut waiting: HashSet<i32> = partitions.collect();
        while !waiting.is_empty() {
            waiting.remove(&self.await_call(service)?);
        }
        Ok(())
    }

    /// Waits for the next record, and returns its partition. Fails if the validator exits meanwhile.
    fn await_call(&self, service: &mut Service) -> Result<i32> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            service.expect_running()?;
            if let Some(Ok(record)) = self.consumer.poll(Duration::from_millis(5)) {
                return Ok(record.partition());
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
