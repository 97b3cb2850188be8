//! Orders that nobody may see: valid ones, sent in transactions that are aborted, as the producers of a bank send
//! them when something goes wrong on their side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use harness::wait::interrupted;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const LIMIT: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_millis(400);
/// In each transaction.
const ORDERS: u64 = 5;

/// Sends until it is told to end.
pub(crate) struct Aborting {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Aborting {
    pub(crate) fn start(kafka: String, topic: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || abort_all(&kafka, &topic, &stop)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it; nothing of it is open afterwards.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was ended before")?;
        thread
            .join()
            .map_err(|_| anyhow!("sending orders to be aborted panicked"))?
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn abort_all(kafka: &str, topic: &str, stop: &AtomicBool) -> Result<()> {
    let mut number = 0;
    let mut producer = None;
    while !stop.load(Ordering::Relaxed) && !interrupted() {
        let open = match producer.take() {
            Some(open) => Ok(open),
            None => open(kafka, topic),
        };
        // After an error a new producer ends what is left open.
        producer = open
            .and_then(|producer| abort_one(&producer, topic, number).map(|()| producer))
            .ok();
        number += ORDERS;
        std::thread::sleep(EVERY);
    }
    drop(producer);
    open(kafka, topic)
        .map(drop)
        .context("ending the last transaction that is to be aborted")
}

fn open(kafka: &str, topic: &str) -> KafkaResult<ThreadedProducer<DefaultProducerContext>> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-aborting")
        .set("transactional.id", format!("{topic}-aborting"))
        .set("transaction.timeout.ms", "5000")
        .set("message.timeout.ms", "5000")
        .create()?;
    producer.init_transactions(LIMIT)?;
    Ok(producer)
}

fn abort_one(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    first: u64,
) -> KafkaResult<()> {
    producer.begin_transaction()?;
    for number in first..first + ORDERS {
        let key = format!("never-{number}");
        let value =
            format!(r#"{{"order_id":"{key}","amount":1,"currency":"EUR","customer_id":"customer-1"}}"#);
        let record = BaseRecord::to(topic).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    producer.abort_transaction(LIMIT)
}
