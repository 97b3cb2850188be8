//! A plain idempotent producer whose delivery reports arrive by callback.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use records::Offset;

use super::native::Sender;
use super::record::OutgoingRecord;
use super::record_sizes::RecordSizes;
use crate::client::config::KafkaSettings;
use crate::client::error::ClientError;
use crate::client::with_deadline::DroppedWithin;

/// Sends records with `acks=all`, and passes each delivery report to a callback.
///
/// A fatal error ends an idempotent client of librdkafka for good; [`Self::recover`] replaces it.
pub struct Producer {
    client: Client,
    options: ClientOptions,
    /// Time of the latest fatal error, until a new client has proved to work.
    failed: Option<Instant>,
    /// Time before which the client is not replaced again.
    replace_at: Option<Instant>,
    /// Each client that is still closing has a clone.
    closing: Arc<()>,
    /// Time after which the records of a failed client are reported although it has not closed.
    close_within: Duration,
}

/// State of the client, as [`Producer::recover`] found it or left it.
#[derive(Debug)]
pub enum Recovery {
    /// The client works, as far as is known.
    Works,
    /// The client has failed for good, and it is too soon to replace it.
    Failed(ClientError),
    /// The client had failed for good with this error, and is replaced by a new one.
    Replaced(ClientError),
    /// The new client has neither delivered a record yet nor lasted long enough.
    Unproven,
}

/// Refusal of a record before it was queued. No delivery report follows.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full; the record may be sent again once others are delivered.
    #[error("the producer's queue is full")]
    QueueFull,
    /// The record cannot be sent, or the producer no longer works.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Token of a record, and the offset at which it was written or the reason why it was not.
pub type DeliveryReport = (usize, Result<Offset, ClientError>);

impl Producer {
    /// Opens a producer. `on_report` runs on a thread of librdkafka and must not block.
    ///
    /// # Errors
    /// librdkafka refused a setting.
    pub fn open(
        settings: &KafkaSettings,
        client_id: &str,
        delivery_timeout: Duration,
        sizes: RecordSizes,
        on_report: impl Fn(DeliveryReport) + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let options = ClientOptions {
            settings: settings.clone(),
            client_id: client_id.to_owned(),
            delivery_timeout,
            sizes,
            on_report: Arc::new(on_report),
        };
        Ok(Self {
            client: options.open()?,
            options,
            failed: None,
            replace_at: None,
            closing: Arc::default(),
            close_within: CLOSE_WITHIN,
        })
    }

    /// Queues a record. Its delivery report follows exactly once, with the same `token`, which no other record
    /// may have.
    ///
    /// # Errors
    /// The record was refused, and no report follows.
    pub fn send(&self, mut record: OutgoingRecord<'_>, token: usize) -> Result<(), SendError> {
        let reports = self.reports();
        // Before it is sent: the report may arrive before the send returns.
        reports.unreported().insert(token);
        self.client.send(&mut record, token).map_err(|error| {
            reports.unreported().remove(&token);
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => SendError::QueueFull,
                error => ClientError::new(format!("sending a record to {:?}", record.topic), error).into(),
            }
        })
    }

    /// Replaces the client if it has failed for good. Each of its records that is not acknowledged is reported
    /// as such, soon after, and may be sent again; it may be written all the same. Cheap as long as the client works.
    ///
    /// # Errors
    /// Too many failed clients do not close, and this process is better restarted.
    pub fn recover(&mut self, now: Instant) -> Result<Recovery, ClientError> {
        let Some((code, reason)) = self.client.producer().client().fatal_error() else {
            return Ok(self.state_without_error(now));
        };
        let attempted = format!("sending records as {:?} ({reason})", self.options.client_id);
        let error = ClientError::fatal(attempted, KafkaError::MessageProduction(code));
        self.failed = Some(now);
        // What ends a client may end the next one too, at once.
        if self.replace_at.is_some_and(|at| now < at) {
            return Ok(Recovery::Failed(error));
        }
        self.replace_at = Some(now + REPLACE_INTERVAL);
        if Arc::strong_count(&self.closing) > CLOSING_MAX {
            return Err(ClientError::refused(format!(
                "replacing the producer {:?} beside {CLOSING_MAX} failed ones that do not close (each holds \
                 threads and connections; restart this process): {error}",
                self.options.client_id
            )));
        }
        let failed = std::mem::replace(&mut self.client, self.options.open()?);
        self.close(failed);
        Ok(Recovery::Replaced(error))
    }

    fn reports(&self) -> &Reports {
        &self.client.producer().context().0
    }

    fn state_without_error(&mut self, now: Instant) -> Recovery {
        let Some(failed) = self.failed else {
            return Recovery::Works;
        };
        let has_delivered = self.reports().has_delivered.load(Ordering::Acquire);
        // Without records to send, time is the only proof.
        if has_delivered || now >= failed + PROVEN_AFTER {
            self.failed = None;
            return Recovery::Works;
        }
        Recovery::Unproven
    }

    /// Closes a failed client, and reports what it leaves unreported. Closing waits for librdkafka's threads, and may never
    /// end.
    fn close(&self, failed: Client) {
        let reports = Arc::clone(&failed.producer().context().0);
        // The client first: its clone of `closing` is dropped once it has closed, however late.
        let closing = DroppedWithin::new(
            (failed, Arc::clone(&self.closing)),
            self.close_within,
            "failed producer has not closed in time, its records are reported as unacknowledged; it holds threads and \
             connections until the program ends",
        );
        std::thread::spawn(move || {
            // Takes what is queued or in flight out of the queues, and serves its reports.
            drop(closing);
            let unreported: Vec<usize> = reports.unreported().drain().collect();
            for token in unreported {
                let attempted = "delivering a record with a producer that has failed since";
                (reports.on_report)((token, Err(ClientError::unavailable(attempted))));
            }
        });
    }
}

type Client = Sender<Context>;

/// Options of a client, the first one and those that replace it.
struct ClientOptions {
    settings: KafkaSettings,
    client_id: String,
    delivery_timeout: Duration,
    sizes: RecordSizes,
    on_report: Arc<OnReport>,
}

type OnReport = dyn Fn(DeliveryReport) + Send + Sync;

impl ClientOptions {
    fn open(&self) -> Result<Client, ClientError> {
        let mut config = self.settings.client(&self.client_id);
        config
            // Retries inside librdkafka neither duplicate nor reorder records.
            .set("enable.idempotence", "true")
            // An outcome counts as written only if it survives the loss of its leader.
            .set("acks", "all")
            .set(
                "message.timeout.ms",
                self.delivery_timeout.as_millis().to_string(),
            )
            .set("linger.ms", "5")
            // This and `QUEUE_KIB_MAX` bound the memory taken while the brokers are slow; beyond them `send`
            // returns `QueueFull`.
            .set("queue.buffering.max.messages", "20000");
        self.sizes.configure(&mut config, QUEUE_KIB_MAX);
        let reports = Reports {
            on_report: Arc::clone(&self.on_report),
            unreported: Mutex::default(),
            has_delivered: AtomicBool::new(false),
        };
        let client = config
            .create_with_context(Context(Arc::new(reports)))
            .map_err(|error| ClientError::new(format!("opening the producer {:?}", self.client_id), error))?;
        Ok(Sender::new(client))
    }
}

/// Maximum size of records that are not acknowledged yet, in KiB.
const QUEUE_KIB_MAX: u64 = 16 * 1024;

/// Minimum time between two replacements of the client.
const REPLACE_INTERVAL: Duration = Duration::from_secs(5);
/// Time after which a new client without records to send counts as working. Its first request, for a producer
/// id, has succeeded or failed by then.
const PROVEN_AFTER: Duration = Duration::from_secs(10);
/// Time for the close of a failed client, after which its records are reported all the same.
// Closing takes out of the queues what is there, and ends the connections. Until the reports their calls are not final,
// and their partitions commit nothing.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Maximum number of failed clients that are still closing.
const CLOSING_MAX: usize = 3;

/// Context of one client: passes its reports on.
struct Context(Arc<Reports>);

struct Reports {
    on_report: Arc<OnReport>,
    /// Tokens of the records without a report.
    unreported: Mutex<HashSet<usize>>,
    has_delivered: AtomicBool,
}

impl Reports {
    fn unreported(&self) -> MutexGuard<'_, HashSet<usize>> {
        // A panic leaves the set valid: each change is one insertion or removal.
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, token: usize) {
        let result = match report {
            Ok(record) => {
                self.0.has_delivered.store(true, Ordering::Release);
                Ok(Offset(record.offset()))
            }
            Err((error, record)) => Err(ClientError::new(
                format!("delivering a record to {:?}", record.topic()),
                error.clone(),
            )),
        };
        // A client that closes late may report what was reported in its place. The first report stands, also if this one
        // is an acknowledgement: the record may have been sent again since.
        if self.0.unreported().remove(&token) {
            (self.0.on_report)((token, result));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use super::*;
    use crate::client::with_deadline::abandoned;
    use crate::client::with_deadline::tests::COUNTED;
    use crate::error::ErrorClass;

    fn open() -> (Producer, Receiver<DeliveryReport>) {
        open_with(|_| ())
    }

    /// Opens a producer that runs `on_report` for each token before it passes the report on.
    fn open_with(on_report: impl Fn(usize) + Send + Sync + 'static) -> (Producer, Receiver<DeliveryReport>) {
        let settings = KafkaSettings {
            bootstrap_servers: "127.0.0.1:9092".into(),
            group_id: "g".into(),
            // librdkafka's mock broker, one for each client.
            properties: [("test.mock.num.brokers".to_owned(), "1".to_owned())].into(),
        };
        let (reports, received) = mpsc::channel();
        let sizes = RecordSizes::of(&[].into(), []);
        let producer = Producer::open(&settings, "caller-0", LONG, sizes, move |report| {
            on_report(report.0);
            // The receiver is gone when the test has ended.
            let _ = reports.send(report);
        });
        (producer.expect("a producer"), received)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn send(producer: &Producer, token: usize) -> Result<(), SendError> {
        let record = OutgoingRecord {
            topic: "t",
            partition: None,
            key: Some(b"key"),
            value: Some(b"value"),
            headers: None,
            at: None,
        };
        producer.send(record, token)
    }

    fn next(received: &Receiver<DeliveryReport>) -> (usize, bool) {
        let (token, result) = received.recv_timeout(LONG / 2).expect("a report");
        (token, result.is_ok())
    }

    #[test]
    fn client_with_fatal_error_is_replaced() {
        let (mut producer, received) = open();
        let now = Instant::now();
        send(&producer, 1).expect("sent");
        assert_eq!(next(&received), (1, true));
        assert!(matches!(producer.recover(now), Ok(Recovery::Works)));

        let broker = producer.client.producer().client().mock_cluster();
        broker.expect("a mock").broker_down(1).expect("down");
        for token in [2, 3] {
            send(&producer, token).expect("queued");
        }
        // A record whose report librdkafka does not serve in the time that it has for closing.
        producer.reports().unreported().insert(9);
        producer.client.fail();
        assert!(send(&producer, 4).is_err(), "a failed client takes nothing");
        let replaced = producer.recover(now).expect("room for another");
        let Recovery::Replaced(error) = replaced else {
            panic!("{replaced:?}");
        };
        assert_eq!(error.class, ErrorClass::Fatal);
        let mut reported = [next(&received), next(&received), next(&received)];
        reported.sort_unstable();
        assert_eq!(reported, [(2, false), (3, false), (9, false)]);

        // Unready until the new client has delivered a record.
        assert!(matches!(producer.recover(now), Ok(Recovery::Unproven)));
        send(&producer, 5).expect("sent by the new client");
        assert_eq!(next(&received), (5, true));
        assert!(matches!(producer.recover(now), Ok(Recovery::Works)));
        assert!(received.try_recv().is_err(), "one report per record");
    }

    /// While a report is being handled, the thread that serves them does not end, and so the client does not close.
    #[test]
    fn reports_do_not_wait_for_the_close() {
        let _counted = COUNTED.lock();
        let (end, held) = mpsc::channel::<()>();
        let (is_held, holds) = mpsc::channel();
        let held = Mutex::new((held, is_held));
        let (mut producer, received) = open_with(move |token| {
            if token == 1 {
                let (held, is_held) = &*held.lock().expect("one report at a time");
                is_held.send(()).expect("the test waits for it");
                let _ = held.recv();
            }
        });
        producer.close_within = Duration::ZERO;
        // In one batch, so that the second record is acknowledged, too, when the report of the first is handled.
        for token in [1, 2] {
            send(&producer, token).expect("sent");
        }
        holds.recv_timeout(LONG / 2).expect("its report");
        let broker = producer.client.producer().client().mock_cluster();
        broker.expect("a mock").broker_down(1).expect("down");
        send(&producer, 3).expect("queued");
        producer.client.fail();
        assert!(matches!(
            producer.recover(Instant::now()),
            Ok(Recovery::Replaced(_))
        ));
        let mut reported = [next(&received), next(&received)];
        reported.sort_unstable();
        assert_eq!(reported, [(2, false), (3, false)]);
        assert_eq!(Arc::strong_count(&producer.closing), 2, "it counts as closing");

        // It closes after all, and serves the reports of these records once more.
        drop(end);
        assert_eq!(next(&received), (1, true));
        while Arc::strong_count(&producer.closing) > 1 || abandoned() > 0 {
            std::thread::yield_now();
        }
        assert!(received.try_recv().is_err(), "one report per record");
    }

    #[test]
    fn replacements_are_limited_in_rate() {
        let (mut producer, _received) = open();
        let now = Instant::now();
        producer.client.fail();
        assert!(matches!(producer.recover(now), Ok(Recovery::Replaced(_))));
        producer.client.fail();
        assert!(matches!(producer.recover(now), Ok(Recovery::Failed(_))));
        let later = now + REPLACE_INTERVAL;
        assert!(matches!(producer.recover(later), Ok(Recovery::Replaced(_))));
        let recovered = later + PROVEN_AFTER;
        assert!(matches!(producer.recover(later), Ok(Recovery::Unproven)));
        assert!(matches!(producer.recover(recovered), Ok(Recovery::Works)));
    }

    #[test]
    fn too_many_failed_clients_are_an_error() {
        let (mut producer, _received) = open();
        let _unclosed: Vec<Arc<()>> = (0..CLOSING_MAX).map(|_| Arc::clone(&producer.closing)).collect();
        producer.client.fail();
        let refused = producer.recover(Instant::now()).expect_err("refused");
        assert_eq!(refused.class, ErrorClass::Permanent);
    }
}
