//! Sending by librdkafka itself, past rust-rdkafka.
//!
//! rust-rdkafka looks the topic up by its name for each record, under the one lock that all threads of the
//! client share, and copies the name of each header twice before librdkafka copies it a third time. Together
//! that was a fifth of what an order cost the validator.

#![expect(
    unsafe_code,
    reason = "handles of librdkafka: topics, lists of headers, and a flush that rust-rdkafka does not have"
)]

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_vtype_t as Field;
use rdkafka::error::{IsError, KafkaError};
use rdkafka::producer::{NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};

/// A producer of rust-rdkafka's, with a shorter way for its records. `usize` is what comes back with each
/// record's delivery report.
pub(crate) struct Sender<C: ProducerContext<NoCustomPartitioner, DeliveryOpaque = usize> + 'static> {
    /// Stands before the producer, so that it is dropped before it: librdkafka asks for that.
    topics: Mutex<Vec<Topic>>,
    producer: ThreadedProducer<C>,
}

/// What is sent; librdkafka copies all of it but the headers, which it takes.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    /// `None` leaves it to the key's hash.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) opaque: usize,
}

impl<C: ProducerContext<NoCustomPartitioner, DeliveryOpaque = usize> + 'static> Sender<C> {
    pub(crate) fn new(producer: ThreadedProducer<C>) -> Self {
        Self {
            topics: Mutex::default(),
            producer,
        }
    }

    /// The producer, for all but sending.
    pub(crate) fn producer(&self) -> &ThreadedProducer<C> {
        &self.producer
    }

    /// Queues a record. Takes the headers if it takes the record; otherwise they stay for the next try.
    pub(crate) fn send(
        &self,
        record: Record<'_>,
        headers: &mut Option<OutgoingHeaders>,
    ) -> Result<(), KafkaError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = match topics.iter().find(|topic| topic.name == record.topic) {
            Some(topic) => topic.handle,
            None => {
                let topic = Topic::open(self.client(), record.topic)?;
                let handle = topic.handle;
                topics.push(topic);
                handle
            }
        };
        let (key, key_bytes) = raw(record.key);
        let (value, value_bytes) = raw(record.value);
        // SAFETY: each field is followed by the types that `rdkafka.h` gives for it. The topic belongs to this
        // client, and is not dropped while the list is locked. With F_COPY the key and the value are read
        // before this returns. The headers are a list that nobody else has; whose it is afterwards is decided
        // below, by the same rule as librdkafka's.
        let error = unsafe {
            rd::rd_kafka_producev(
                self.client(),
                Field::RD_KAFKA_VTYPE_RKT,
                topic.as_ptr(),
                Field::RD_KAFKA_VTYPE_PARTITION,
                record.partition.unwrap_or(PARTITION_BY_KEY),
                Field::RD_KAFKA_VTYPE_MSGFLAGS,
                rd::RD_KAFKA_MSG_F_COPY,
                Field::RD_KAFKA_VTYPE_VALUE,
                value,
                value_bytes,
                Field::RD_KAFKA_VTYPE_KEY,
                key,
                key_bytes,
                Field::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<std::ffi::c_void>(record.opaque),
                Field::RD_KAFKA_VTYPE_HEADERS,
                headers
                    .as_ref()
                    .map_or(ptr::null_mut(), |headers| headers.0.as_ptr()),
                Field::RD_KAFKA_VTYPE_END,
            )
        };
        if error.is_error() {
            return Err(KafkaError::MessageProduction(error.into()));
        }
        // They are librdkafka's now.
        std::mem::forget(headers.take());
        Ok(())
    }

    /// Sends what lingers, and waits until all is delivered or the time is over. The reports, which the
    /// producer's own thread takes in, tell what came of it. (rust-rdkafka's flush asks librdkafka not to
    /// wait, and then sleeps for up to 100 ms.)
    pub(crate) fn flush(&self, timeout: Duration) {
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client lives as long as `self`, and librdkafka lets any thread flush it.
        unsafe { rd::rd_kafka_flush(self.client(), milliseconds) };
    }

    fn client(&self) -> *mut rd::rd_kafka_t {
        self.producer.client().native_ptr()
    }
}

/// `RD_KAFKA_PARTITION_UA`, which rust-rdkafka does not name.
const PARTITION_BY_KEY: i32 = -1;

fn raw(bytes: Option<&[u8]>) -> (*const u8, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()))
}

/// A topic, as a client of librdkafka knows it.
struct Topic {
    name: String,
    handle: NonNull<rd::rd_kafka_topic_t>,
}

// SAFETY: librdkafka locks topics itself; any thread may use and destroy them.
unsafe impl Send for Topic {}

impl Topic {
    fn open(client: *mut rd::rd_kafka_t, name: &str) -> Result<Self, KafkaError> {
        let terminated = CString::new(name).map_err(KafkaError::Nul)?;
        // SAFETY: the client lives, and the name is copied. Without settings of its own the topic has the
        // client's, as with rust-rdkafka.
        let handle = unsafe { rd::rd_kafka_topic_new(client, terminated.as_ptr(), ptr::null_mut()) };
        let handle = NonNull::new(handle).ok_or_else(|| {
            // SAFETY: it reads a variable of this thread's.
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
        // SAFETY: the handle is used by nobody else, and its client is dropped after it. Records that are
        // under way hold the topic for themselves.
        unsafe { rd::rd_kafka_topic_destroy(self.handle.as_ptr()) };
    }
}

/// The headers of a record to be sent, in their order.
#[derive(Debug)]
pub struct OutgoingHeaders(NonNull<rd::rd_kafka_headers_t>);

impl OutgoingHeaders {
    /// No headers yet, with room for some.
    ///
    /// # Panics
    /// Never: librdkafka ends the process itself when there is no memory.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        // SAFETY: it has no conditions.
        let list = unsafe { rd::rd_kafka_headers_new(count) };
        Self(NonNull::new(list).expect("librdkafka has no list of headers to give"))
    }

    /// Adds a header behind the others; `None` is a header without a value, which is not an empty one.
    pub fn add(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, value_bytes) = raw(value);
        // SAFETY: the list is this one's own. Name and value are as long as they are said to be, neither
        // is longer than an `isize` (a promise of Rust's), and both are copied.
        unsafe {
            rd::rd_kafka_header_add(
                self.0.as_ptr(),
                name.as_ptr().cast(),
                name.len().cast_signed(),
                value.cast(),
                value_bytes.cast_signed(),
            );
        }
    }
}

impl Drop for OutgoingHeaders {
    fn drop(&mut self) {
        // SAFETY: the list is this one's own; one that librdkafka has taken is never dropped here.
        unsafe { rd::rd_kafka_headers_destroy(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::message::{DeliveryResult, Headers as _, Message};
    use rdkafka::types::RDKafkaErrorCode;
    use rdkafka::{ClientConfig, ClientContext};

    use super::*;

    /// A record as its delivery report shows it.
    #[derive(Debug, PartialEq, Eq)]
    struct Delivered {
        place: (String, i32, i64),
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
                place: (record.topic().into(), record.partition(), record.offset()),
                key: record.key().map(<[u8]>::to_vec),
                value: record.payload().map(<[u8]>::to_vec),
                headers: headers
                    .map(|header| (header.key.into(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
                opaque,
            };
            // The test may have ended.
            let _ = self.0.send(delivered);
        }
    }

    /// A producer of librdkafka's own stand-in for a broker.
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
    fn a_record_arrives_with_all_that_it_was_sent_with() {
        let (sender, received) = sender(("acks", "all"));
        let mut headers = OutgoingHeaders::with_capacity(1);
        headers.add("a", Some(b"1"));
        headers.add("empty", Some(b""));
        headers.add("none", None);
        headers.add("a", Some(b"\0\xff"));
        let record = Record {
            topic: "t",
            partition: Some(2),
            key: Some(b"key"),
            value: Some(b"value"),
            opaque: 7,
        };
        let mut headers = Some(headers);
        sender.send(record, &mut headers).expect("sent");
        assert!(headers.is_none(), "they are librdkafka's now");
        let bare = Record {
            key: None,
            value: None,
            opaque: usize::MAX,
            ..record
        };
        sender.send(bare, &mut None).expect("sent");
        // Without it both would linger for a minute.
        sender.flush(Duration::from_secs(20));
        let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
        let first = Delivered {
            place: ("t".into(), 2, 0),
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
            place: ("t".into(), 2, 1),
            key: None,
            value: None,
            headers: vec![],
            opaque: usize::MAX,
        };
        let next = || received.recv_timeout(Duration::from_secs(20)).expect("a report");
        assert_eq!([next(), next()], [first, second]);
    }

    #[test]
    fn headers_of_a_record_that_was_not_taken_are_there_for_the_next_try() {
        let (sender, _received) = sender(("queue.buffering.max.messages", "1"));
        let record = Record {
            topic: "t",
            partition: Some(0),
            key: None,
            value: Some(b"value"),
            opaque: 0,
        };
        sender.send(record, &mut None).expect("sent");
        let mut headers = Some(OutgoingHeaders::with_capacity(1));
        let full = sender.send(record, &mut headers);
        assert_eq!(
            full,
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
        );
        assert!(headers.is_some());
        let nul = Record {
            topic: "a\0b",
            ..record
        };
        assert!(matches!(sender.send(nul, &mut headers), Err(KafkaError::Nul(_))));
    }
}
