//! The path of every record into librdkafka, past rust-rdkafka.
//!
//! rust-rdkafka looks the topic up by its name for each record, under one lock that all threads of the client
//! share, and copies the name of each header twice before librdkafka copies it a third time. Together that
//! was a fifth of the validator's cost per order.

#![expect(
    unsafe_code,
    reason = "topic handles of librdkafka, and a flush and a wait that rust-rdkafka does not have"
)]

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_vtype_t as Field;
use rdkafka::error::{IsError, KafkaError};
use rdkafka::producer::{NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};

use super::record::{OutgoingHeaders, OutgoingRecord, raw};

/// A producer of rust-rdkafka with a shorter send path. The `usize` given with a record comes back with its
/// delivery report.
pub(crate) struct Sender<C: ProducerContext<NoCustomPartitioner, DeliveryOpaque = usize> + 'static> {
    // Declared before the producer, so that it is dropped first: librdkafka requires topic handles to be
    // destroyed before their client.
    topics: Mutex<Vec<Topic>>,
    producer: ThreadedProducer<C>,
}

impl<C: ProducerContext<NoCustomPartitioner, DeliveryOpaque = usize> + 'static> Sender<C> {
    pub(crate) fn new(producer: ThreadedProducer<C>) -> Self {
        Self {
            topics: Mutex::default(),
            producer,
        }
    }

    /// Returns the producer, for everything but sending.
    pub(crate) fn producer(&self) -> &ThreadedProducer<C> {
        &self.producer
    }

    /// Waits until the client has heard from a broker.
    pub(crate) fn await_connection(&self, timeout: Duration) {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // The id comes with the first metadata; librdkafka has no other wait for them. SAFETY: the client is
        // alive.
        let _controller = unsafe { rd::rd_kafka_controllerid(self.client(), timeout) };
    }

    /// Queues a record. On success its headers are handed over to librdkafka; on an error they stay in
    /// `record` for the next attempt.
    ///
    /// # Errors
    /// librdkafka refused the record, or its queue is full; no delivery report follows.
    pub(crate) fn send(&self, record: &mut OutgoingRecord<'_>, opaque: usize) -> Result<(), KafkaError> {
        // The lock is kept until the record is queued: it is what keeps the handle alive.
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = self.topic(&mut topics, record.topic)?;
        let (key, key_bytes) = raw(record.key);
        let (value, value_bytes) = raw(record.value);
        let headers = record
            .headers
            .as_ref()
            .map_or(ptr::null_mut(), OutgoingHeaders::as_ptr);
        // SAFETY: each tag is followed by arguments of the types that `rdkafka.h` gives for it, and the list
        // ends with END. The topic belongs to this client and lives while `topics` is locked. Key and value
        // are valid for their lengths, and F_COPY makes librdkafka copy them before it returns. The headers
        // are owned by `record`, which is borrowed mutably; librdkafka takes them over on success only, which
        // `release` below mirrors.
        let error = unsafe {
            rd::rd_kafka_producev(
                self.client(),
                Field::RD_KAFKA_VTYPE_RKT,
                topic.as_ptr(),
                Field::RD_KAFKA_VTYPE_PARTITION,
                record.partition.map_or(PARTITION_BY_KEY, |partition| partition.0),
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                rd::RD_KAFKA_MSG_F_COPY,
                Field::RD_KAFKA_VTYPE_VALUE,
                value,
                value_bytes,
                Field::RD_KAFKA_VTYPE_KEY,
                key,
                key_bytes,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(opaque),
                Field::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Field::RD_KAFKA_VTYPE_TIMESTAMP,
                record.at.map_or(NOW, |at| at.0),
                Field::RD_KAFKA_VTYPE_END,
            )
        };
        if error.is_error() {
            return Err(KafkaError::MessageProduction(error.into()));
        }
        if let Some(headers) = record.headers.take() {
            headers.release();
        }
        Ok(())
    }

    /// Returns the handle of a topic, which lives as long as `topics` are locked.
    fn topic(
        &self,
        topics: &mut Vec<Topic>,
        name: &str,
    ) -> Result<NonNull<rd::rd_kafka_topic_t>, KafkaError> {
        // A program writes to a handful of topics, so that a scan is cheaper than a hash.
        if let Some(topic) = topics.iter().find(|topic| topic.name == name) {
            return Ok(topic.handle);
        }
        let topic = Topic::open(self.client(), name)?;
        let handle = topic.handle;
        topics.push(topic);
        Ok(handle)
    }

    /// Sends lingering records, and waits until the delivery report of each record was served or `timeout` has
    /// passed. The reports show which records were acknowledged.
    pub(crate) fn flush(&self, timeout: Duration) {
        flush(&self.producer, timeout);
    }

    /// Raises a fatal error in the client, by librdkafka's function for tests.
    #[cfg(test)]
    pub(crate) fn fail(&self) {
        let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        // SAFETY: `self` keeps the client alive, and the reason ends with a zero and is copied.
        unsafe { rd::rd_kafka_test_fatal_error(self.client(), code, c"a test".as_ptr()) };
    }

    fn client(&self) -> *mut rd::rd_kafka_t {
        self.producer.client().native_ptr()
    }
}

/// Sends lingering records of a producer, and waits until the delivery report of each record was served or `timeout`
/// has passed.
pub fn flush<C: ProducerContext<NoCustomPartitioner> + 'static>(
    producer: &ThreadedProducer<C>,
    timeout: Duration,
) {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // rust-rdkafka's flush asks librdkafka not to wait, and then sleeps for up to 100 ms.
    // SAFETY: the producer keeps the client alive, and librdkafka allows a flush from any thread.
    unsafe { rd::rd_kafka_flush(producer.client().native_ptr(), milliseconds) };
}

/// `RD_KAFKA_PARTITION_UA`, which the bindings do not export.
const PARTITION_BY_KEY: i32 = -1;

/// Timestamp for which librdkafka reads the clock.
const NOW: i64 = 0;

/// Handle of a topic, bound to one client.
struct Topic {
    name: String,
    handle: NonNull<rd::rd_kafka_topic_t>,
}

// SAFETY: librdkafka counts references to topics and locks them itself; any thread may use and destroy a
// handle.
unsafe impl Send for Topic {}

impl Topic {
    fn open(client: *mut rd::rd_kafka_t, name: &str) -> Result<Self, KafkaError> {
        let terminated = CString::new(name).map_err(KafkaError::Nul)?;
        // Without a configuration of its own the topic has the client's, as with rust-rdkafka. SAFETY: the
        // caller's client is alive, the name ends with a zero and is copied, and a null configuration is
        // allowed.
        let handle = unsafe { rd::rd_kafka_topic_new(client, terminated.as_ptr(), ptr::null_mut()) };
        let handle = NonNull::new(handle).ok_or_else(|| {
            // SAFETY: the function has no preconditions; it reads a thread-local variable.
            KafkaError::MessageProduction(unsafe { rd::rd_kafka_last_error() }.into())
        })?;
        Ok(Self {
            name: name.to_owned(),
            handle,
        })
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: this object owns its reference, and `Sender` drops topics before their client. Queued
        // records hold references of their own.
        unsafe { rd::rd_kafka_topic_destroy(self.handle.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::message::{DeliveryResult, Headers as _, Message};
    use rdkafka::types::RDKafkaErrorCode;
    use rdkafka::{ClientConfig, ClientContext};
    use records::{Partition, Timestamp};

    use super::*;

    /// A record as its delivery report shows it: topic, partition and offset, then its content.
    #[derive(Debug, PartialEq, Eq)]
    struct Delivered {
        position: (String, i32, i64),
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
        opaque: usize,
    }

    struct Reports(mpsc::Sender<Delivered>);

    impl ClientContext for Reports {}

    impl ProducerContext<NoCustomPartitioner> for Reports {
        type DeliveryOpaque = usize;

        fn delivery(&self, report: &DeliveryResult<'_>, opaque: usize) {
            let record = match report {
                Ok(record) | Err((_, record)) => record,
            };
            let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
            let delivered = Delivered {
                position: (record.topic().into(), record.partition(), record.offset()),
                key: record.key().map(<[u8]>::to_vec),
                value: record.payload().map(<[u8]>::to_vec),
                headers: headers
                    .map(|header| (header.key.into(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
                opaque,
            };
            // The receiver is gone when the test has ended.
            let _ = self.0.send(delivered);
        }
    }

    /// Opens a producer on librdkafka's mock broker.
    fn sender(property: (&str, &str)) -> (Sender<Reports>, mpsc::Receiver<Delivered>) {
        let (reports, received) = mpsc::channel();
        let producer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set("linger.ms", "60000")
            .set(property.0, property.1)
            .create_with_context(Reports(reports))
            .expect("a producer");
        (Sender::new(producer), received)
    }

    #[test]
    fn record_arrives_as_it_was_sent() {
        let (sender, received) = sender(("acks", "all"));
        let mut headers = OutgoingHeaders::with_capacity(1);
        headers.add("a", Some(b"1"));
        headers.add("empty", Some(b""));
        headers.add("none", None);
        headers.add("a", Some(b"\0\xff"));
        let mut full = OutgoingRecord {
            topic: "t",
            partition: Some(Partition(2)),
            key: Some(b"key"),
            value: Some(b"value"),
            headers: Some(headers),
            at: Some(Timestamp(1_700_000_000_000)),
        };
        sender.send(&mut full, 7).expect("sent");
        assert!(full.headers.is_none(), "librdkafka has taken them over");
        let mut bare = OutgoingRecord {
            key: None,
            value: None,
            ..full
        };
        sender.send(&mut bare, usize::MAX).expect("sent");
        // Without a flush both would linger for a minute.
        sender.flush(Duration::from_secs(20));
        let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
        let first = Delivered {
            position: ("t".into(), 2, 0),
            key: Some(b"key".into()),
            value: Some(b"value".into()),
            headers: vec![
                header("a", Some(b"1")),
                header("empty", Some(b"")),
                header("none", None),
                header("a", Some(b"\0\xff")),
            ],
            opaque: 7,
        };
        let second = Delivered {
            position: ("t".into(), 2, 1),
            key: None,
            value: None,
            headers: vec![],
            opaque: usize::MAX,
        };
        let next = || received.recv_timeout(Duration::from_secs(20)).expect("a report");
        assert_eq!([next(), next()], [first, second]);
    }

    #[test]
    fn refused_record_keeps_its_headers() {
        let (sender, _received) = sender(("queue.buffering.max.messages", "1"));
        let mut record = OutgoingRecord {
            topic: "t",
            partition: Some(Partition(0)),
            key: None,
            value: Some(b"value"),
            headers: None,
            at: None,
        };
        sender.send(&mut record, 0).expect("sent");
        record.headers = Some(OutgoingHeaders::with_capacity(1));
        assert_eq!(
            sender.send(&mut record, 0),
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
        );
        assert!(record.headers.is_some());
        let mut nul = OutgoingRecord {
            topic: "a\0b",
            ..record
        };
        assert!(matches!(sender.send(&mut nul, 0), Err(KafkaError::Nul(_))));
        assert!(nul.headers.is_some());
    }
}
