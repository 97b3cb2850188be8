//! Aborted orders: valid ones, sent in transactions that are always aborted. No validator may process them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use harness::wait::interrupted;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// Timeout of each transactional request.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause between two transactions.
const INTERVAL: Duration = Duration::from_millis(400);
/// Number of orders in each transaction.
const ORDERS: u64 = 5;

/// Running producer of aborted orders; it stops when this is dropped.
pub(crate) struct AbortedOrders {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl AbortedOrders {
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

    /// Stops the producer; it leaves no transaction open.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .take()
            .context("the producer of aborted orders was stopped before")?;
        thread
            .join()
            .map_err(|_| anyhow!("the producer of aborted orders panicked"))?
    }
}

impl Drop for AbortedOrders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic is reported by `stop`; here the run has failed already.
            let _stopped = thread.join();
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
        // After an error a new producer with the same transactional id aborts what is left open.
        producer = open
            .and_then(|producer| abort_one(&producer, topic, number).map(|()| producer))
            .ok();
        number += ORDERS;
        std::thread::sleep(INTERVAL);
    }
    drop(producer);
    // The last transaction may still be open: `init_transactions` of this producer aborts it.
    open(kafka, topic)
        .map(drop)
        .context("aborting the last transaction")
}

fn open(kafka: &str, topic: &str) -> KafkaResult<ThreadedProducer<DefaultProducerContext>> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("client.id", "harness-aborting")
        .set("transactional.id", format!("{topic}-aborting"))
        // Short, so that an abort that a broker fault prevents holds the readers up only briefly.
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
    // Flushed, so that the orders lie on the topic before they are aborted.
    producer.flush(LIMIT)?;
    producer.abort_transaction(LIMIT)
}
