//! Measurement of one validator while its stores grow to many millions of random keys, and of its restarts.
//!
//! The orders come in slices: each is sent while the validator is down, and drained at full speed after a restart. Every
//! few slices the bare loop copies the same orders, so that the machine's own changes are seen, and look-ups of new keys
//! are measured in the stores.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::cluster::Administrator;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Keys, Mix, Orders};
use harness::pipeline::{Pipeline, Service};
use harness::read_back::topics::high_watermarks;
use records::{IdempotencyKey, Partition, Timestamp};
use serde::Serialize;
use store::{Identity, Options, Store, StoreWriter};

use crate::figures::{Measured, as_float, between, outbox_times};
use crate::validator::{await_drained, setting, with_settings};
use crate::{bare_loop, growth_plot, resource_usage};

/// Options of `bench growth`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of keys to grow to.
    #[arg(long, default_value_t = 20_000_000)]
    keys: u64,
    /// Number of orders in a slice.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    slice: u64,
    /// Number of slices after which the bare loop and the look-ups are measured.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    compare_every: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Further setting of the validator, such as store.cache=32MiB; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    setting: Vec<(String, String)>,
    /// Seed of the orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a plot of speed and look-up time over the number of keys to this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Number of look-ups of new keys.
const LOOK_UPS: usize = 200_000;
/// Orders with which the last restart is measured.
const LAST_ORDERS: u64 = 10_000;

/// Figures of one slice.
#[derive(Debug, Serialize)]
pub(crate) struct Slice {
    /// Keys in the stores at its end.
    pub(crate) keys: u64,
    pub(crate) orders_per_second: f64,
    pub(crate) cpu_us_per_order: f64,
    pub(crate) peak_memory_mib: f64,
    /// Disk space of the stores, by the blocks of the files.
    pub(crate) disk_bytes_per_key: f64,
    /// Time from the start of the validator to its first order; its last run was ended by kill -9 unless the slice before
    /// has a comparison.
    pub(crate) first_order_ms: i64,
    pub(crate) comparison: Option<Comparison>,
}

/// What is measured every few slices.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) bare_orders_per_second: f64,
    pub(crate) bare_cpu_us_per_order: f64,
    /// Time of a look-up of a new key in a store, in microseconds.
    pub(crate) look_up_p50_us: f64,
    pub(crate) look_up_p99_us: f64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: String,
    partitions: i32,
    settings: &'a [(String, String)],
    seed: u64,
    slices: Vec<Slice>,
    /// Time from the start to the first order with an empty state directory, all keys being restored.
    restored_first_order_ms: i64,
}

/// Grows the stores, and prints a table or JSON.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    let mut growing = Growing::create(arguments)?;
    let mut slices = Vec::new();
    for number in 1..=arguments.keys.div_ceil(arguments.slice) {
        let compares = number == 1 || number.is_multiple_of(arguments.compare_every);
        let slice = growing.slice(number, compares)?;
        // On standard error, as it takes minutes until the table is printed.
        eprintln!("{} keys: {:.0} orders/s", slice.keys, slice.orders_per_second);
        slices.push(slice);
    }
    let report = Report {
        machine: resource_usage::describe(),
        partitions: arguments.partitions,
        settings: &arguments.setting,
        seed: arguments.seed,
        slices,
        restored_first_order_ms: growing.restore()?,
    };
    growing.pipeline.passed();
    growing.bare.passed();
    if let Some(path) = &arguments.plot {
        growth_plot::write(&report.slices, &report.machine, path)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

impl Report<'_> {
    fn print(&self) {
        println!("{}", self.machine);
        println!(
            "one validator, random keys on {} partitions, seed {}; each slice is drained after a restart",
            self.partitions, self.seed
        );
        for (name, value) in self.settings {
            println!("with {name} = {value}");
        }
        let mut table = Table::new();
        table.set_header(vec![
            "keys",
            "orders/s",
            "CPU µs/order",
            "memory MiB",
            "disk bytes/key",
            "start to first order ms",
            "bare loop orders/s, CPU µs",
            "look-up of a new key p50, p99 µs",
        ]);
        for slice in &self.slices {
            let (bare, look_up) = slice.comparison.as_ref().map_or_else(Default::default, |of| {
                (
                    format!(
                        "{:.0}, {:.1}",
                        of.bare_orders_per_second, of.bare_cpu_us_per_order
                    ),
                    format!("{:.2}, {:.2}", of.look_up_p50_us, of.look_up_p99_us),
                )
            });
            table.add_row(vec![
                slice.keys.to_string(),
                format!("{:.0}", slice.orders_per_second),
                format!("{:.1}", slice.cpu_us_per_order),
                format!("{:.0}", slice.peak_memory_mib),
                format!("{:.0}", slice.disk_bytes_per_key),
                slice.first_order_ms.to_string(),
                bare,
                look_up,
            ]);
        }
        println!("{table}");
        println!(
            "empty state directory: {} ms from the start to the first order",
            self.restored_first_order_ms
        );
    }
}

/// The validator, its topics, and those that the bare loop writes to.
struct Growing<'a> {
    arguments: &'a Arguments,
    pipeline: Pipeline,
    bare: Pipeline,
    validator: Service,
    administrator: Administrator,
    keys: u64,
}

impl<'a> Growing<'a> {
    fn create(arguments: &'a Arguments) -> Result<Self> {
        let pipeline = Pipeline::create("bench-growth", arguments.partitions)?;
        let settings = with_settings(pipeline.validator_settings(1), &arguments.setting);
        Ok(Self {
            validator: pipeline.service("validator", 1, settings)?,
            bare: Pipeline::create("bench-growth-bare", arguments.partitions)?,
            administrator: Administrator::new(&pipeline.kafka)?,
            pipeline,
            arguments,
            keys: 0,
        })
    }

    fn slice(&mut self, number: u64, compares: bool) -> Result<Slice> {
        let (measured, first_order_ms) = self.drain(number, self.arguments.slice, compares)?;
        let disk: u64 = (self.stores()?.iter())
            .map(|path| blocks_of(path))
            .sum::<Result<u64>>()?;
        let comparison = if compares { Some(self.compare()?) } else { None };
        self.delete_processed()?;
        Ok(Slice {
            keys: self.keys,
            orders_per_second: measured.per_second,
            cpu_us_per_order: measured.cpu_us,
            peak_memory_mib: measured.memory_mib,
            disk_bytes_per_key: as_float(disk) / as_float(self.keys),
            first_order_ms,
            comparison,
        })
    }

    /// Sends orders, and has the validator decide on them after its start. Returns its figures, and the time from its start
    /// to the first order. It is then down, after SIGTERM or `kill -9`.
    fn drain(&mut self, number: u64, count: u64, terminates: bool) -> Result<(Measured, i64)> {
        let sent = Feed::start(Plan {
            kafka: self.pipeline.kafka.clone(),
            topic: self.pipeline.topics.orders.clone(),
            partitions: self.arguments.partitions,
            // Another seed for each slice, or all but the first would be duplicates.
            orders: Orders::Generated(Mix {
                keys: Keys::Random,
                ..Mix::all_new(self.arguments.seed.wrapping_mul(1_000_003) + number)
            }),
            count,
            per_second: None,
        })
        .finish()?;
        let started = Timestamp::now();
        self.validator.process.start()?;
        let used = await_drained(&self.pipeline, &mut self.validator)?;
        if terminates {
            self.validator.process.terminate(Duration::from_secs(60))?;
        } else {
            self.validator.process.kill()?;
        }
        self.keys += sent;
        let (first_ms, last_ms) = outbox_times(&self.pipeline.kafka, &self.pipeline.topics.pending, sent)?;
        let measured = Measured::of(sent, between(first_ms, last_ms), used);
        Ok((measured, first_ms - started.0))
    }

    fn compare(&self) -> Result<Comparison> {
        let (took, used) = bare_loop::measure(&bare_loop::Arguments {
            kafka: self.pipeline.kafka.clone(),
            orders_topic: self.pipeline.topics.orders.clone(),
            pending_topic: self.bare.topics.pending.clone(),
            changelog_topic: self.bare.topics.changelog.clone(),
            group: format!("{}-bare", self.pipeline.validator_group),
            orders: self.arguments.slice,
        })?;
        let bare = Measured::of(self.arguments.slice, took, used);
        let (p50, p99) = self.look_ups()?;
        Ok(Comparison {
            bare_orders_per_second: bare.per_second,
            bare_cpu_us_per_order: bare.cpu_us,
            look_up_p50_us: p50,
            look_up_p99_us: p99,
        })
    }

    /// Returns the median and the 99th percentile of look-ups of new keys in all stores, in microseconds.
    fn look_ups(&self) -> Result<(f64, f64)> {
        let writer = StoreWriter::start().context("starting a writer")?;
        let partitions = usize::try_from(self.arguments.partitions)?;
        let options = Options {
            cache_bytes: (32 << 20) / partitions,
            recent_max: 1_000,
            period: None,
        };
        let mut stores = Vec::new();
        for (number, path) in self.stores()?.iter().enumerate() {
            let identity = Identity {
                changelog: self.pipeline.topics.changelog.clone(),
                partition: Partition(i32::try_from(number)?),
                partitions,
            };
            let opened = Store::open(path, &identity, options, &writer)?;
            ensure!(
                opened.rebuild_reason.is_none(),
                "{}: {:?}",
                path.display(),
                opened.rebuild_reason
            );
            stores.push(opened.store);
        }
        let mut times: Vec<Duration> = Vec::with_capacity(LOOK_UPS);
        for (number, store) in (0..LOOK_UPS).zip(stores.iter().cycle()) {
            let key = IdempotencyKey::new(&format!("new-{number}"))?;
            let began = Instant::now();
            let found = store.get(&key)?;
            times.push(began.elapsed());
            ensure!(found.is_none(), "{key} is known");
        }
        times.sort_unstable();
        let us = |index: usize| times.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6);
        Ok((us(LOOK_UPS / 2), us(LOOK_UPS * 99 / 100)))
    }

    /// Files of the stores, by partition.
    fn stores(&self) -> Result<Vec<PathBuf>> {
        let folder = self.pipeline.state_folder(1);
        let inspected = store::InspectedDirectory::open(&folder)?;
        Ok(inspected.stores.into_iter().map(|store| store.path).collect())
    }

    /// Deletes the orders and pending calls that are final, which would fill the disk.
    fn delete_processed(&self) -> Result<()> {
        let topics = [&self.pipeline.topics.orders, &self.pipeline.topics.pending];
        for topic in topics {
            for (partition, end) in high_watermarks(&self.pipeline.kafka, topic)? {
                self.administrator.delete_records(topic, partition, end)?;
            }
        }
        Ok(())
    }

    /// Returns the time from a start with an empty state directory to the first order, in milliseconds.
    fn restore(&mut self) -> Result<i64> {
        let folder = self.pipeline.state_folder(1);
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        let (_, first_order_ms) = self.drain(u64::MAX >> 32, LAST_ORDERS, true)?;
        Ok(first_order_ms)
    }
}

/// Returns the disk space of a file, in bytes.
fn blocks_of(path: &Path) -> Result<u64> {
    let file = fs::metadata(path).with_context(|| format!("reading the size of {}", path.display()))?;
    Ok(file.blocks() * 512)
}
