//! Measurement of one validator next to the same stage one as a Kafka Streams application, with the same orders.
//!
//! The application is `integration-tests/kafka-streams/OrderValidator.java`; `scripts/bench` compiles it.

use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::cluster::Administrator;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Keys, Mix, Orders};
use harness::pipeline::Pipeline;
use harness::wait::{await_until, pause};
use serde::Serialize;

use crate::figures::{LIMIT, Measured, Range, between, outbox_times};
use crate::{resource_usage, validator};

/// Options of `bench kafka-streams`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of orders on the topic, with random keys and without duplicates.
    #[arg(long, default_value_t = 500_000)]
    orders: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Commit interval of both, in milliseconds.
    #[arg(long, default_value_t = 100)]
    commit_interval_ms: u32,
    /// Threads of the application; the validator has one, and one that writes its stores.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Heap of the application's JVM, as in `-Xmx`.
    #[arg(long, default_value = "512m")]
    heap: String,
    /// Cache of both stores, in MiB.
    #[arg(long, default_value_t = 32)]
    cache_mib: u32,
    /// Without transactional state stores: after a crash the application restores its stores from nothing.
    #[arg(long)]
    plain_state_stores: bool,
    /// Number of measured runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Number of runs before the measurement: a broker that has just started compiles its own code.
    #[arg(long, default_value_t = 1)]
    warm_ups: u32,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Both with the same orders, one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    validator: Measured,
    streams: Measured,
}

/// All figures, with what they were measured on.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    java: String,
    orders: u64,
    partitions: i32,
    commit_interval_ms: u32,
    threads: u32,
    heap: String,
    cache_mib: u32,
    transactional_state_stores: bool,
    runs: u32,
    seed: u64,
    orders_per_second: Range,
    cpu_us_per_order: Range,
    peak_memory_mib: Range,
    streams_orders_per_second: Range,
    streams_cpu_us_per_order: Range,
    streams_peak_memory_mib: Range,
    /// The validator's rate as a multiple of the application's in the same run.
    speed_ratio: Range,
    /// The validator's CPU time as a share of the application's.
    cpu_ratio: Range,
    /// The validator's memory as a share of the application's.
    memory_ratio: Range,
}

/// Measures both, and prints a table or JSON.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    let java = Java::find()?;
    for _ in 0..arguments.warm_ups {
        let _unmeasured = run(arguments, &java)?;
    }
    let runs: Vec<Run> = (0..arguments.runs)
        .map(|_| run(arguments, &java))
        .collect::<Result<_>>()?;
    let range = |figure: fn(&Run) -> f64| Range::of(&runs, figure);
    let report = Report {
        machine: resource_usage::describe(),
        java: java.describe()?,
        orders: arguments.orders,
        partitions: arguments.partitions,
        commit_interval_ms: arguments.commit_interval_ms,
        threads: arguments.threads,
        heap: arguments.heap.clone(),
        cache_mib: arguments.cache_mib,
        transactional_state_stores: !arguments.plain_state_stores,
        runs: arguments.runs,
        seed: arguments.seed,
        orders_per_second: range(|run| run.validator.per_second),
        cpu_us_per_order: range(|run| run.validator.cpu_us),
        peak_memory_mib: range(|run| run.validator.memory_mib),
        streams_orders_per_second: range(|run| run.streams.per_second),
        streams_cpu_us_per_order: range(|run| run.streams.cpu_us),
        streams_peak_memory_mib: range(|run| run.streams.memory_mib),
        speed_ratio: range(|run| run.validator.per_second / run.streams.per_second),
        cpu_ratio: range(|run| run.validator.cpu_us / run.streams.cpu_us),
        memory_ratio: range(|run| run.validator.memory_mib / run.streams.memory_mib),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

impl Report {
    fn print(&self) {
        println!("{}; {}", self.machine, self.java);
        println!(
            "{} orders with random keys on {} partitions, seed {}, commit interval {} ms, minimum / median / maximum of {} \
             runs; Kafka Streams with {} threads, a heap of {}, a block cache of {} MiB and {} state stores; CPU time \
             with the start of the process, which compiles Java code",
            self.orders,
            self.partitions,
            self.seed,
            self.commit_interval_ms,
            self.runs,
            self.threads,
            self.heap,
            self.cache_mib,
            if self.transactional_state_stores {
                "transactional"
            } else {
                "plain"
            }
        );
        let mut table = Table::new();
        table.set_header(vec![
            "",
            "orders/s, first to last order",
            "CPU µs/order",
            "peak memory MiB",
        ]);
        table.add_row(vec![
            "validator".to_owned(),
            self.orders_per_second.show(0),
            self.cpu_us_per_order.show(1),
            self.peak_memory_mib.show(0),
        ]);
        table.add_row(vec![
            "Kafka Streams, same runs".to_owned(),
            self.streams_orders_per_second.show(0),
            self.streams_cpu_us_per_order.show(1),
            self.streams_peak_memory_mib.show(0),
        ]);
        table.add_row(vec![
            "validator : Kafka Streams".to_owned(),
            self.speed_ratio.show(1),
            self.cpu_ratio.show(2),
            self.memory_ratio.show(2),
        ]);
        println!("{table}");
    }
}

fn run(arguments: &Arguments, java: &Java) -> Result<Run> {
    let mut pipeline = Pipeline::create("bench-kafka-streams", arguments.partitions)?;
    let sent = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(Mix {
            keys: Keys::Random,
            ..Mix::all_new(arguments.seed)
        }),
        count: arguments.orders,
        per_second: None,
    })
    .finish()?;
    let settings = pipeline
        .validator_settings(1)
        .with(
            "validator.commit_interval",
            format!("{}ms", arguments.commit_interval_ms),
        )
        .with("store.cache", format!("{}MiB", arguments.cache_mib));
    let (validator, _) = validator::drain(&pipeline, settings, sent)?;
    // Its outbox; it makes its changelog itself.
    let mut outputs = Pipeline::create("bench-kafka-streams-outputs", arguments.partitions)?;
    let streams = java.drain(arguments, &pipeline, &outputs, sent)?;
    outputs.passed();
    pipeline.passed();
    Ok(Run { validator, streams })
}

/// A Java, and the compiled application.
struct Java {
    program: String,
    classpath: String,
}

impl Java {
    fn find() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!(
                    "{name} is not set: run `scripts/bench kafka-streams`, which compiles the application"
                )
            })
        };
        Ok(Self {
            program: variable("OUTBOX_STREAMS_JAVA")?,
            classpath: variable("OUTBOX_STREAMS_CLASSPATH")?,
        })
    }

    /// Returns the versions of Java and of Kafka Streams.
    fn describe(&self) -> Result<String> {
        let output = Command::new(&self.program)
            .args(["-cp", &self.classpath, "OrderValidator", "--version"])
            .output()
            .context("asking for the version of Kafka Streams")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs the application until it has processed all orders.
    fn drain(
        &self,
        arguments: &Arguments,
        orders: &Pipeline,
        outputs: &Pipeline,
        sent: u64,
    ) -> Result<Measured> {
        let application_id = format!("{}-streams", outputs.validator_group);
        let state = tempfile::tempdir().context("creating a state directory")?;
        let mut application = Running(
            Command::new(&self.program)
                .args([
                    &format!("-Xms{}", arguments.heap),
                    &format!("-Xmx{}", arguments.heap),
                ])
                .args([
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                    "-cp",
                    &self.classpath,
                    "OrderValidator",
                ])
                .args([
                    &orders.kafka,
                    &application_id,
                    &orders.topics.orders,
                    &outputs.topics.pending,
                ])
                .arg(state.path())
                .arg(arguments.commit_interval_ms.to_string())
                .arg(arguments.threads.to_string())
                .arg(arguments.cache_mib.to_string())
                .arg((!arguments.plain_state_stores).to_string())
                .stdin(Stdio::null())
                .spawn()
                .context("starting the Kafka Streams application")?,
        );
        await_until("Kafka Streams has processed each order", LIMIT, || {
            let exited = application.0.try_wait().context("waiting for the application")?;
            ensure!(
                exited.is_none(),
                "the Kafka Streams application exited: {exited:?}"
            );
            let lag = harness::cluster::lag(&orders.kafka, &application_id, &orders.topics.orders)?;
            // Rarely, as for the validator.
            pause(Duration::from_millis(200))?;
            Ok(match lag {
                0 => ControlFlow::Break(()),
                lag => ControlFlow::Continue(format!("{lag} orders are left")),
            })
        })?;
        let used = resource_usage::used(application.0.id())?;
        drop(application);
        // The scenario's own topics are deleted by their owner.
        let changelog = format!("{application_id}-idempotency-key-store-changelog");
        Administrator::new(&orders.kafka)?.delete_topics(&[&changelog])?;
        let (first_ms, last_ms) = outbox_times(&outputs.kafka, &outputs.topics.pending, sent)?;
        Ok(Measured::of(sent, between(first_ms, last_ms), used))
    }
}

/// The application's process, killed when it is dropped: it has nothing to tell any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited, which is no failure here.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
