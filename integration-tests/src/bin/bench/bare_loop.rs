//! Bare loop: the least that a validator has to do with each order, and so the ceiling that a real one is measured
//! against.
//!
//! It reads the orders, writes two records for each, and commits both with the offsets in transactions. It decides
//! nothing, keeps nothing and survives nothing. It runs in a process of its own, so that it is measured in the same way
//! as the validator.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use records::pending;

use crate::resource_usage::{self, Used};

/// Topics and number of orders that the loop works on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Bootstrap servers.
    #[arg(long)]
    pub(crate) kafka: String,
    /// Topic with the orders.
    #[arg(long)]
    pub(crate) orders_topic: String,
    /// Topic for the first record of each order.
    #[arg(long)]
    pub(crate) pending_topic: String,
    /// Topic for the second record of each order.
    #[arg(long)]
    pub(crate) changelog_topic: String,
    /// Consumer group, and transactional id.
    #[arg(long)]
    pub(crate) group: String,
    /// Number of orders to read.
    #[arg(long)]
    pub(crate) orders: u64,
}

/// Time from the first order of a transaction to its end.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout of each request.
const LIMIT: Duration = Duration::from_secs(30);
/// Value of the second record: as many bytes as an entry of the store.
const ENTRY: [u8; 43] = [0; 43];

/// Runs the loop in a process of its own; returns the time from the first order to the last, and the CPU time and
/// memory of that process.
pub(crate) fn measure(arguments: &Arguments) -> Result<(Duration, Used)> {
    let mut child = Command::new(std::env::current_exe().context("finding this program")?)
        .arg("bare-loop")
        .args(["--kafka", &arguments.kafka])
        .args(["--orders-topic", &arguments.orders_topic])
        .args(["--pending-topic", &arguments.pending_topic])
        .args(["--changelog-topic", &arguments.changelog_topic])
        .args(["--group", &arguments.group])
        .args(["--orders", &arguments.orders.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the bare loop")?;
    let mut line = String::new();
    let stdout = child
        .stdout
        .take()
        .context("the bare loop has no standard output")?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("waiting for the bare loop")?;
    // The loop exits only at the end of its input: until then its figures are in /proc.
    let used = resource_usage::used(child.id())?;
    drop(child.stdin.take());
    let status = child.wait().context("waiting for the exit of the bare loop")?;
    ensure!(status.success(), "the bare loop exited with {status}");
    let ms = line
        .trim()
        .parse()
        .with_context(|| format!("the bare loop reported {line:?}"))?;
    Ok((Duration::from_millis(ms), used))
}

/// Processes all orders, prints the milliseconds from the first to the last, and waits for the end of its input.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let producer = producer(arguments)?;
    let consumer = consumer(arguments)?;
    let mut open: Option<Open> = None;
    let mut first = None;
    let mut count = 0;
    while count < arguments.orders {
        if let Some(record) = consumer.poll(Duration::from_millis(1)) {
            let record = record.context("reading the orders")?;
            first.get_or_insert_with(Instant::now);
            let open = match &mut open {
                Some(open) => open,
                None => open.insert(Open::begin(&producer)?),
            };
            write(&producer, arguments, &record)?;
            open.next.insert(record.partition(), record.offset() + 1);
            count += 1;
            // Rarely: a look at the clock costs about as much as a poll.
            if !count.is_multiple_of(64) {
                continue;
            }
        }
        if let Some(due) = open.take_if(|open| open.since.elapsed() >= COMMIT_INTERVAL) {
            due.end(&producer, &consumer, &arguments.orders_topic)?;
        }
    }
    let took = first.map_or(Duration::ZERO, |first| first.elapsed());
    if let Some(last) = open {
        last.end(&producer, &consumer, &arguments.orders_topic)?;
    }
    println!("{}", took.as_millis());
    std::io::stdout()
        .flush()
        .context("reporting the end of the orders")?;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("waiting for the end of the input")?;
    Ok(())
}

/// An open transaction.
struct Open {
    since: Instant,
    /// Next offset of each partition.
    next: HashMap<i32, i64>,
}

impl Open {
    fn begin(producer: &ThreadedProducer<DefaultProducerContext>) -> Result<Self> {
        producer.begin_transaction().context("beginning a transaction")?;
        Ok(Self {
            since: Instant::now(),
            next: HashMap::new(),
        })
    }

    fn end(
        self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        consumer: &BaseConsumer,
        topic: &str,
    ) -> Result<()> {
        kafka::producer::flush(producer, LIMIT);
        // While a record is in flight rust-rdkafka's commit sleeps for up to 100 ms.
        while producer.in_flight_count() > 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in self.next {
            offsets.add_partition_offset(topic, partition, Offset::Offset(next))?;
        }
        let metadata = consumer
            .group_metadata()
            .context("the bare loop's consumer has no group")?;
        producer
            .send_offsets_to_transaction(&offsets, &metadata, LIMIT)
            .context("adding the offsets")?;
        producer
            .commit_transaction(LIMIT)
            .context("committing a transaction")
    }
}

fn write(
    producer: &ThreadedProducer<DefaultProducerContext>,
    arguments: &Arguments,
    order: &BorrowedMessage<'_>,
) -> Result<()> {
    let key = order.key().unwrap_or_default();
    // As many bytes as the position of an order.
    let headers = OwnedHeaders::new_with_capacity(1).insert(Header {
        key: pending::SOURCE,
        value: Some(&arguments.orders_topic),
    });
    send(
        producer,
        BaseRecord::to(&arguments.pending_topic)
            .partition(order.partition())
            .key(key)
            .payload(order.payload().unwrap_or_default())
            .headers(headers),
    )?;
    send(
        producer,
        BaseRecord::to(&arguments.changelog_topic)
            .partition(order.partition())
            .key(key)
            .payload(&ENTRY[..]),
    )
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    mut record: BaseRecord<'_, [u8], [u8]>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_micros(200));
            }
            Err((error, _)) => return Err(error).context("sending a record"),
        }
    }
}

// Its settings are the validator's where a guarantee depends on them, and the fastest otherwise.
fn producer(arguments: &Arguments) -> Result<ThreadedProducer<DefaultProducerContext>> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &arguments.kafka)
        .set("transactional.id", &arguments.group)
        .set("linger.ms", "20")
        .set("retry.backoff.ms", "10")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "400000")
        .set("queue.buffering.max.kbytes", "262144")
        .create()
        .context("creating the bare loop's producer")?;
    producer
        .init_transactions(LIMIT)
        .context("opening the bare loop's producer")?;
    Ok(producer)
}

fn consumer(arguments: &Arguments) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.kafka)
        .set("group.id", &arguments.group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("queued.min.messages", "100000")
        // With the default a consumer whose queue was full does not fetch for a second.
        .set("fetch.queue.backoff.ms", "20")
        .create()
        .context("creating the bare loop's consumer")?;
    consumer
        .subscribe(&[&arguments.orders_topic])
        .context("joining the bare loop's group")?;
    Ok(consumer)
}
