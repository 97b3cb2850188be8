//! Measurement of one validator with a full orders topic, next to a bare loop on the same topics.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::Table;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Keys, Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::process::settings::Settings;
use harness::wait::await_until;
use serde::Serialize;

use crate::figures::{LIMIT, Measured, Range, as_float, between, outbox_times};
use crate::resource_usage::Used;
use crate::{bare_loop, resource_usage};

/// Options of `bench validator`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of orders on the topic, without duplicates.
    #[arg(long, default_value_t = 500_000)]
    orders: u64,
    /// Keys of the orders: UUIDs, or numbers that rise, which cost a store less.
    #[arg(long, value_enum, default_value_t = KeyForm::Random)]
    keys: KeyForm,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Commit interval of the validator, whose default is 10ms; repeat the option to measure several. The bare loop's
    /// is 100ms.
    #[arg(long, default_values = ["10ms", "100ms"], value_name = "DURATION")]
    commit_interval: Vec<String>,
    /// Further setting of the validator, such as store.cache=32MiB; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    setting: Vec<(String, String)>,
    /// Number of measured runs of each commit interval, each with a bare loop.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Number of runs before the measurement: a broker that has just started compiles its own code, and would
    /// be measured with the validator.
    #[arg(long, default_value_t = 2)]
    warm_ups: u32,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Form of the keys, as an option.
#[derive(Clone, Copy, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum KeyForm {
    Random,
    Rising,
}

/// Parses NAME=VALUE.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected NAME=VALUE".to_owned())
}

/// Sets the settings of the command line.
pub(crate) fn with_settings(mut settings: Settings, further: &[(String, String)]) -> Settings {
    for (name, value) in further {
        settings = match (name.strip_prefix("kafka.properties."), value.parse::<i64>()) {
            (Some(property), _) => settings.with_property(property, value),
            (None, Ok(number)) => settings.with(name, number),
            (None, Err(_)) => settings.with(name, value),
        };
    }
    settings
}

/// Measures one validator with each commit interval, and prints a table or JSON.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    if let Some(interval) = arguments.commit_interval.first() {
        for _ in 0..arguments.warm_ups {
            let _unmeasured = run(arguments, interval)?;
        }
    }
    let mut figures = Vec::new();
    for interval in &arguments.commit_interval {
        let runs: Result<Vec<Run>> = (0..arguments.runs).map(|_| run(arguments, interval)).collect();
        figures.push(Figures::of(interval, &runs?));
    }
    let report = Report {
        machine: resource_usage::describe(),
        orders: arguments.orders,
        keys: arguments.keys,
        partitions: arguments.partitions,
        settings: &arguments.setting,
        runs: arguments.runs,
        seed: arguments.seed,
        figures,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

/// One run: a validator and a bare loop with the same orders, one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    validator: Measured,
    /// Orders per second from the start of the validator to its last order.
    from_start: f64,
    bare: Measured,
}

/// Figures of one commit interval.
#[derive(Debug, Serialize)]
struct Figures {
    commit_interval: String,
    orders_per_second: Range,
    orders_per_second_from_start: Range,
    cpu_us_per_order: Range,
    peak_memory_mib: Range,
    bare_orders_per_second: Range,
    bare_cpu_us_per_order: Range,
    bare_peak_memory_mib: Range,
    /// The validator's rate as a share of the bare loop's of the same run.
    // Within a run, as the speed of a shared machine changes between runs.
    speed_ratio: Range,
    /// The validator's CPU time as a multiple of the bare loop's of the same run.
    cpu_ratio: Range,
}

impl Figures {
    fn of(interval: &str, runs: &[Run]) -> Self {
        let range = |figure: fn(&Run) -> f64| Range::of(runs, figure);
        Self {
            commit_interval: interval.to_owned(),
            orders_per_second: range(|run| run.validator.per_second),
            orders_per_second_from_start: range(|run| run.from_start),
            cpu_us_per_order: range(|run| run.validator.cpu_us),
            peak_memory_mib: range(|run| run.validator.memory_mib),
            bare_orders_per_second: range(|run| run.bare.per_second),
            bare_cpu_us_per_order: range(|run| run.bare.cpu_us),
            bare_peak_memory_mib: range(|run| run.bare.memory_mib),
            speed_ratio: range(|run| run.validator.per_second / run.bare.per_second),
            cpu_ratio: range(|run| run.validator.cpu_us / run.bare.cpu_us),
        }
    }
}

/// All figures, with what they were measured on.
#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: String,
    orders: u64,
    keys: KeyForm,
    partitions: i32,
    settings: &'a [(String, String)],
    runs: u32,
    seed: u64,
    figures: Vec<Figures>,
}

impl Report<'_> {
    fn print(&self) {
        println!("{}", self.machine);
        println!(
            "one validator, {} orders with {} keys on {} partitions, seed {}, minimum / median / maximum of {} runs; \
             the bare loop only copies the orders, in transactions of 100 ms",
            self.orders,
            match self.keys {
                KeyForm::Random => "random",
                KeyForm::Rising => "rising",
            },
            self.partitions,
            self.seed,
            self.runs
        );
        for (name, value) in self.settings {
            println!("with {name} = {value}");
        }
        let mut table = Table::new();
        table.set_header(vec![
            "",
            "orders/s, first to last order",
            "orders/s, from the start",
            "CPU µs/order",
            "peak memory MiB",
        ]);
        for of in &self.figures {
            let interval = &of.commit_interval;
            table.add_row(vec![
                format!("validator, commit interval {interval}"),
                of.orders_per_second.show(0),
                of.orders_per_second_from_start.show(0),
                of.cpu_us_per_order.show(1),
                of.peak_memory_mib.show(0),
            ]);
            table.add_row(vec![
                "bare loop, same runs".to_owned(),
                of.bare_orders_per_second.show(0),
                String::new(),
                of.bare_cpu_us_per_order.show(1),
                of.bare_peak_memory_mib.show(0),
            ]);
            table.add_row(vec![
                "validator : bare loop".to_owned(),
                of.speed_ratio.show(2),
                String::new(),
                of.cpu_ratio.show(2),
                String::new(),
            ]);
        }
        println!("{table}");
    }
}

fn run(arguments: &Arguments, interval: &str) -> Result<Run> {
    // Topics and stores of its own, so that no run finds the keys of another.
    let mut pipeline = Pipeline::create("bench-validator", arguments.partitions)?;
    let mix = Mix {
        keys: match arguments.keys {
            KeyForm::Random => Keys::Random,
            KeyForm::Rising => Keys::Rising,
        },
        ..Mix::all_new(arguments.seed)
    };
    let sent = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: Orders::Generated(mix),
        count: arguments.orders,
        per_second: None,
    })
    .finish()?;
    let settings = pipeline
        .validator_settings(1)
        .with("validator.commit_interval", interval);
    let settings = with_settings(settings, &arguments.setting);
    let (validator, from_start) = drain(&pipeline, settings, sent)?;
    let bare = bare_loop::Arguments {
        kafka: pipeline.kafka.clone(),
        orders_topic: pipeline.topics.orders.clone(),
        pending_topic: pipeline.topics.pending.clone(),
        changelog_topic: pipeline.topics.changelog.clone(),
        group: format!("{}-bare", pipeline.validator_group),
        orders: sent,
    };
    // Last, so that the validator finds empty topics.
    let (bare_took, bare_used) = bare_loop::measure(&bare)?;
    pipeline.passed();
    Ok(Run {
        validator,
        from_start,
        bare: Measured::of(sent, bare_took, bare_used),
    })
}

/// Has a validator decide on all orders of a full topic. Returns its figures, and the orders per second from its start.
pub(crate) fn drain(pipeline: &Pipeline, settings: Settings, sent: u64) -> Result<(Measured, f64)> {
    let mut validator = pipeline.service("validator", 1, settings)?;
    // By the wall clock, as the timestamps of the records.
    let started_ms = records::Timestamp::now().0;
    validator.process.start()?;
    let used = await_drained(pipeline, &mut validator)?;
    validator.process.terminate(Duration::from_secs(60))?;
    let (first_ms, last_ms) = outbox_times(&pipeline.kafka, &pipeline.topics.pending, sent)?;
    let from_start = as_float(sent) / between(started_ms, last_ms).as_secs_f64().max(0.001);
    Ok((Measured::of(sent, between(first_ms, last_ms), used), from_start))
}

/// Waits until a running validator has decided on all orders. Returns what it has used until then.
pub(crate) fn await_drained(pipeline: &Pipeline, validator: &mut Service) -> Result<Used> {
    let id = validator.process.id().context("the validator does not run")?;
    // The lag is polled, and the outbox not read meanwhile: on few cores a reader would be measured too.
    await_until("each order has its verdict", LIMIT, || {
        validator.expect_running()?;
        let lag = harness::cluster::lag(
            &pipeline.kafka,
            &pipeline.validator_group,
            &pipeline.topics.orders,
        )?;
        // Rarely, because each question takes CPU time from the validator.
        harness::wait::pause(Duration::from_millis(200))?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have none")),
        })
    })?;
    // Before the shutdown: `/proc` has nothing of a process that has exited.
    resource_usage::used(id)
}
