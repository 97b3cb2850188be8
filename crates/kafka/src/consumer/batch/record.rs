//! A record of a batch.

#![expect(unsafe_code, reason = "rust-rdkafka makes its records of events only")]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use rdkafka::bindings as rd;
use rdkafka::error::{IsError, KafkaError};
use records::{LeaderEpoch, Offset, Partition, Timestamp};

use crate::consumer::Consumer;
use crate::consumer::headers::Headers;
use crate::consumer::offsets::leader_epoch;

/// A record of a started partition, which a batch has returned.
#[derive(Debug)]
pub struct Record<'c> {
    message: NonNull<rd::rd_kafka_message_t>,
    /// librdkafka requires its messages to be destroyed before their client.
    consumer: PhantomData<&'c Consumer>,
}

impl Record<'_> {
    /// Takes over a message.
    ///
    /// # Safety
    /// The message is valid, nobody else owns it, and its client lives as long as the record.
    pub(super) unsafe fn new(message: NonNull<rd::rd_kafka_message_t>) -> Self {
        Self {
            message,
            consumer: PhantomData,
        }
    }

    /// Returns the error that librdkafka reports in place of a record.
    pub(super) fn error(&self) -> Option<KafkaError> {
        let code = self.message().err;
        code.is_error()
            .then(|| KafkaError::MessageConsumption(code.into()))
    }

    /// Partition that the record was read from.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition(self.message().partition)
    }

    /// Offset within the partition.
    #[must_use]
    pub fn offset(&self) -> Offset {
        Offset(self.message().offset)
    }

    /// Timestamp, by the record's producer or its broker; `None` if it has none.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid.
        let at = unsafe { rd::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        let is_known = kind != rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (is_known && at >= 0).then_some(Timestamp(at))
    }

    /// Key bytes, if the record has a key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: the message owns its key, and `self` the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    /// Value bytes; `None` is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: as above.
        unsafe { bytes(message.payload, message.len) }
    }

    /// Returns the headers. librdkafka parses them once.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        let mut found = Headers::default();
        let mut list = ptr::null_mut();
        // SAFETY: the message is valid. The list stays the message's, and does not change.
        let error = unsafe { rd::rd_kafka_message_headers(self.message.as_ptr(), &raw mut list) };
        if error.is_error() {
            return found;
        }
        let (mut name, mut value, mut length): (*const c_char, *const c_void, _) =
            (ptr::null(), ptr::null(), 0);
        for index in 0.. {
            // SAFETY: the list is the message's.
            let error = unsafe {
                rd::rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut length)
            };
            // It fails behind the last one.
            if error.is_error() {
                break;
            }
            // SAFETY: the name ends with a zero, and the list owns it and the value.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, length)) };
            match name.to_str() {
                Ok(name) => found.readable.push((name, value)),
                // Some clients write raw bytes there.
                Err(_) => found.unreadable = found.unreadable.or(Some(index + 1)),
            }
        }
        found
    }

    pub(super) fn leader_epoch(&self) -> Option<LeaderEpoch> {
        // SAFETY: the message is valid.
        unsafe { leader_epoch::of_message(self.message.as_ptr()) }
    }

    fn message(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: the message is valid until it is destroyed below.
        unsafe { self.message.as_ref() }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        // SAFETY: this object owns the message.
        unsafe { rd::rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// Returns the bytes at a pointer of librdkafka's; a null pointer is an absent value.
///
/// # Safety
/// The pointer is null, or valid for this length and lifetime.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}
