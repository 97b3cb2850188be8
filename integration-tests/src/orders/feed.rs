//! Sends generated orders from a background thread, at full speed or at a fixed rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};

use crate::orders::{Orders, SEQUENCE, Sent, partition_of};

/// Timeout for the acknowledgements outstanding at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// Orders to send, their destination and their rate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bootstrap servers, `host:port,…`.
    pub kafka: String,
    /// Name of the orders topic.
    pub topic: String,
    /// Number of partitions of the topic.
    pub partitions: i32,
    /// Source of the records.
    pub orders: Orders,
    /// Maximum number of records.
    pub count: u64,
    /// Records per second; none for full speed.
    pub per_second: Option<u64>,
}

/// A running feed; dropping it stops it.
pub struct Feed {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

struct Deliveries(Arc<Counts>);

impl ClientContext for Deliveries {}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let count = match result {
            Ok(_) => &self.0.acknowledged,
            Err(_) => &self.0.failed,
        };
        // Relaxed: the counters order no other memory; `flush` waits for the last delivery.
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Feed {
    /// Starts to send from a thread of its own.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        Self::resume(plan, 0)
    }

    /// Goes on with the record of this sequence number, after a feed that has sent those before it. The plan's
    /// count, and what [`Feed::stop`] returns, include them.
    #[must_use]
    pub fn resume(plan: Plan, first: u64) -> Self {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            move || send_all(&plan, first, &counts, &stop)
        });
        Self {
            counts,
            stop,
            thread: Some(thread),
        }
    }

    /// Number of records acknowledged by Kafka so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.counts.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns true once the feed has ended, with or without an error: [`Feed::finish`] will not block.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the feed, waits for all acknowledgements, and returns the number of records sent.
    ///
    /// # Errors
    /// Kafka did not acknowledge all. The run is void then; it says nothing about the programs.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all records are sent and acknowledged, and returns their number.
    ///
    /// # Errors
    /// Kafka did not acknowledge all. The run is void then; it says nothing about the programs.
    pub fn finish(mut self) -> Result<u64> {
        let thread = self.thread.take().context("the feed has been finished already")?;
        thread.join().map_err(|_| anyhow!("the feed's thread panicked"))?
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The scenario has failed already, or it would have called `finish`.
            let _ended = thread.join();
        }
    }
}

fn send_all(plan: &Plan, first: u64, counts: &Arc<Counts>, stop: &AtomicBool) -> Result<u64> {
    // Idempotent, so that each record is written once and in order: the expected verdicts depend on it.
    let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", &plan.kafka)
        .set("client.id", "harness-feed")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // With more, librdkafka repeats records under a new epoch, so that brokers do not know them again, when another
        // request is refused for its sequence number during a change of leaders (librdkafka issue 4953; one run of
        // chaos in many). A transactional producer aborts its transaction then.
        .set("max.in.flight.requests.per.connection", "1")
        // Batches for throughput; the rate is kept by the loop.
        .set("linger.ms", "5")
        .set("queue.buffering.max.kbytes", "65536")
        .create_with_context(Deliveries(Arc::clone(counts)))
        .context("creating the producer of orders")?;
    let started = Instant::now();
    let mut count = first;
    // Checked between records: Ctrl-C or `stop` still flushes what was sent.
    while count < plan.count && !stop.load(Ordering::Relaxed) && !crate::wait::interrupted() {
        // By the total since the start, not by sleeping between records: a slow send is caught up with.
        if plan
            .per_second
            .is_some_and(|rate| due(started, rate) <= count - first)
        {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        send(&producer, plan, &plan.orders.record(count))?;
        count += 1;
    }
    flush(&producer)?;
    let failed = counts.failed.load(Ordering::Relaxed);
    ensure!(
        failed == 0,
        "Kafka did not acknowledge {failed} of {count} orders for {}",
        plan.topic
    );
    Ok(count)
}

/// Returns the number of records due since the start.
fn due(started: Instant, per_second: u64) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX) * per_second / 1000
}

fn send(producer: &ThreadedProducer<Deliveries>, plan: &Plan, sent: &Sent) -> Result<()> {
    let sequence = sent.sequence.to_string();
    let mut headers = OwnedHeaders::new_with_capacity(2).insert(Header {
        key: SEQUENCE,
        value: Some(&sequence),
    });
    if sent.sequence.is_multiple_of(7) {
        // Some orders belong to a trace, which the outbox must continue; for the others it starts one.
        let trace = format!("00-{:032x}-{:016x}-01", sent.sequence + 1, sent.sequence + 1);
        headers = headers.insert(Header {
            key: records::pending::TRACEPARENT,
            value: Some(&trace),
        });
    }
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&plan.topic)
        .partition(partition_of(sent, plan.partitions).0)
        .headers(headers);
    record.key = sent.key.as_deref();
    record.payload = sent.value.as_deref();
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                // The queue is bounded by size; wait for acknowledgements.
                record = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => {
                return Err(error).with_context(|| format!("sending order {sequence} to {}", plan.topic));
            }
        }
    }
}

fn flush(producer: &ThreadedProducer<Deliveries>) -> Result<()> {
    let started = Instant::now();
    while producer.in_flight_count() > 0 {
        ensure!(
            started.elapsed() < FLUSH_TIMEOUT,
            "{} orders were not acknowledged within {FLUSH_TIMEOUT:?}",
            producer.in_flight_count()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
