//! Measurement of the operator's commands on a large outbox: time and peak memory of each.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use harness::pipeline::Pipeline;
use harness::process::{folder, memory};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use records::outcome::Outcome;
use records::{Timestamp, call_dead_letter, dead_letter, pending};

use crate::resource_usage;

/// Of so many calls one has a dead letter; the others were accepted.
const REJECTED_EACH: u64 = 20;
/// Of so many calls one is pending; they are the last ones.
const PENDING_EACH: u64 = 100;
/// Interval at which the memory of a command is read.
const INTERVAL: Duration = Duration::from_millis(10);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const FLUSH_MAX: Duration = Duration::from_secs(120);

/// Options of `bench operator`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of calls in the outbox.
    #[arg(long, default_value_t = 2_000_000)]
    calls: u64,
    /// Number of partitions of each topic.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Number of runs of each command.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

/// Fills the topics, and measures the commands.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    println!("{}", resource_usage::describe());
    let mut pipeline = Pipeline::create("bench-operator", arguments.partitions)?;
    let started = Instant::now();
    fill(&pipeline, arguments)?;
    println!(
        "{} calls on {} partitions, one in {REJECTED_EACH} rejected, one in {PENDING_EACH} pending; written in {:?}",
        arguments.calls,
        arguments.partitions,
        started.elapsed()
    );
    let (first, middle) = (key(0), key(arguments.calls / 2));
    let group = pipeline.caller_group.clone();
    let commands: [(&str, Vec<&str>); 5] = [
        ("order, the first", vec!["order", &first]),
        ("order, in the middle", vec!["order", &middle]),
        ("order, not there", vec!["order", "ord-none"]),
        ("replay plan, all rejected", vec!["replay", "plan"]),
        (
            "replay plan, all accepted",
            vec!["replay", "plan", "--state", "accepted", "--state", "rejected"],
        ),
    ];
    let settings = pipeline
        .caller_settings(1, "http://127.0.0.1:9/")
        .write(&pipeline.folder().join("caller.toml"))?;
    let mut table = Table::new();
    table.set_header(vec!["command", "median", "maximum", "peak memory"]);
    for (name, command) in commands {
        let mut times = Vec::new();
        let mut peak = 0;
        for _ in 0..arguments.runs {
            let mut program = Command::new(folder()?.join("outbox"));
            program
                .arg("--config")
                .arg(&settings)
                .args(&command)
                .args(["--group", &group])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let (time, peak_kib) = timed(program)?;
            times.push(time);
            peak = peak.max(peak_kib);
        }
        times.sort();
        table.add_row(vec![
            name.to_owned(),
            format!("{:.2} s", times[times.len() / 2].as_secs_f64()),
            format!("{:.2} s", times[times.len() - 1].as_secs_f64()),
            format!("{} MiB", peak / 1024),
        ]);
    }
    println!("{table}");
    pipeline.passed();
    Ok(())
}

fn timed(mut program: Command) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = program.spawn().context("starting the command")?;
    let mut peak = 0;
    loop {
        // It may have ended meanwhile.
        if let Ok(kib) = memory::peak_kib(child.id()) {
            peak = peak.max(kib);
        }
        if let Some(status) = child.try_wait()? {
            // 1: nothing was found.
            ensure!(
                matches!(status.code(), Some(0 | 1)),
                "the command ended with {status}"
            );
            return Ok((started.elapsed(), peak));
        }
        std::thread::sleep(INTERVAL);
    }
}

fn key(number: u64) -> String {
    // Spread like the hash of a UUID, so that no two neighbours are on one partition.
    format!("ord-{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Writes what validators and callers would have left.
fn fill(pipeline: &Pipeline, arguments: &Arguments) -> Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &pipeline.kafka)
        .set("queue.buffering.max.messages", "500000")
        .set("linger.ms", "50")
        .set("compression.type", "lz4")
        .create()
        .context("creating a producer")?;
    let topics = &pipeline.topics;
    let partitions = u32::try_from(arguments.partitions)?;
    let final_calls = arguments.calls - arguments.calls / PENDING_EACH;
    let mut ends = vec![0_i64; usize::try_from(partitions)?];
    let mut commits = ends.clone();
    let now = Timestamp::now();
    for number in 0..arguments.calls {
        // All calls of a day.
        let at = now.0 - DAY_MS + DAY_MS * i64::try_from(number)? / i64::try_from(arguments.calls)?;
        let key = key(number);
        let hash = murmur2::murmur2(key.as_bytes(), murmur2::KAFKA_SEED) & 0x7fff_ffff;
        let partition = usize::try_from(hash % partitions)?;
        let offset = ends[partition];
        ends[partition] += 1;
        let call = format!("{}/{partition}@{offset}", topics.pending);
        let order = format!(
            r#"{{"order_id":"{key}","amount":1250,"currency":"EUR","customer_id":"customer-{}","note":"{:060}"}}"#,
            number % 1000,
            number
        );
        let source = format!("{}/{partition}@{offset}", topics.orders);
        let admitted = OwnedHeaders::new()
            .insert(text(pending::SOURCE, &source))
            .insert(text(pending::ADMITTED_AT, &at.to_string()));
        send(
            &producer,
            BaseRecord::to(&topics.pending)
                .partition(i32::try_from(partition)?)
                .key(&key)
                .payload(&order)
                .headers(admitted.clone()),
        )?;
        if number >= final_calls {
            continue;
        }
        commits[partition] = ends[partition];
        if number % REJECTED_EACH == 0 {
            let headers = admitted
                .insert(text(dead_letter::REASON, "rejected"))
                .insert(text(dead_letter::DETAIL, "the API rejected it with status 422"))
                // Long ago, so that no earlier request can still be processed.
                .insert(text(dead_letter::AT, "1700000000000"))
                .insert(text(call_dead_letter::CALL, &call))
                .insert(text(call_dead_letter::STATUS, "422"))
                .insert(text(call_dead_letter::ATTEMPTS, "1"))
                .insert(text(call_dead_letter::ATTEMPTS_AMBIGUOUS, "0"));
            let record = BaseRecord::to(&topics.call_dead_letters)
                .key(&key)
                .payload(&order)
                .timestamp(at)
                .headers(headers);
            send(&producer, record)?;
        } else {
            let mut outcome = Outcome::new(key.clone(), key.clone(), call.clone());
            outcome.status = 201;
            outcome.response = format!(r#"{{"transaction_id":"t-{number}","state":"charged"}}"#);
            outcome.attempts = 1;
            outcome.responded_at = Timestamp(at);
            let json = outcome.to_json();
            let headers = OwnedHeaders::new().insert(text(call_dead_letter::CALL, &call));
            let record = BaseRecord::to(&topics.processed)
                .key(&key)
                .payload(&json)
                .timestamp(at)
                .headers(headers);
            send(&producer, record)?;
        }
    }
    producer.flush(FLUSH_MAX).context("writing the records")?;
    commit(pipeline, &commits)
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header {
        key,
        value: Some(value),
    }
}

fn send<P: rdkafka::message::ToBytes + ?Sized>(
    producer: &ThreadedProducer<DefaultProducerContext>,
    mut record: BaseRecord<'_, String, P>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                std::thread::sleep(INTERVAL);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Commits the offsets up to which the calls are final.
fn commit(pipeline: &Pipeline, offsets: &[i64]) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &pipeline.kafka)
        .set("group.id", &pipeline.caller_group)
        .create()
        .context("creating a consumer")?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset(&pipeline.topics.pending, partition, Offset::Offset(*offset))?;
    }
    consumer
        .commit(&list, CommitMode::Sync)
        .context("committing the group's offsets")
}
