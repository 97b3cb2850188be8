//! A record to be sent, and its headers in librdkafka's own representation.

#![expect(
    unsafe_code,
    reason = "lists of headers belong to librdkafka until they are sent"
)]

use std::ptr::{self, NonNull};

use rdkafka::bindings as rd;
use rdkafka::message::{Headers as _, OwnedHeaders};
use records::{Partition, Timestamp};

/// A record to be sent. Key and value are copied by librdkafka; the headers are handed over.
#[derive(Debug)]
pub struct OutgoingRecord<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Partition to write to; `None` leaves the choice to the key's hash.
    pub partition: Option<Partition>,
    /// Key bytes, if the record has a key.
    pub key: Option<&'a [u8]>,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in their order, if there are any.
    pub headers: Option<OutgoingHeaders>,
    /// Timestamp of the record; `None` is the time at which it is sent.
    pub at: Option<Timestamp>,
}

/// Headers of a record to be sent, in their order.
#[derive(Debug)]
pub struct OutgoingHeaders(NonNull<rd::rd_kafka_headers_t>);

impl OutgoingHeaders {
    /// Creates an empty list with room for `count` headers.
    ///
    /// # Panics
    /// Never: librdkafka ends the process itself when there is no memory.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        // SAFETY: the function has no preconditions, and hands the new list over to us.
        let list = unsafe { rd::rd_kafka_headers_new(count) };
        Self(NonNull::new(list).expect("librdkafka returns a list or ends the process"))
    }

    /// Appends a header. `None` is a header without a value, which differs from an empty value.
    pub fn add(&mut self, name: &str, value: Option<&[u8]>) {
        let (value, value_bytes) = raw(value);
        // SAFETY: this object owns the list, and `&mut self` excludes other uses. Both pointers are valid for
        // the given lengths, which fit an `isize` because no Rust allocation is larger. librdkafka copies
        // both before it returns.
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

    /// Returns the list for a call that may take it over. The list stays owned by this object until
    /// [`Self::release`].
    pub(super) fn as_ptr(&self) -> *mut rd::rd_kafka_headers_t {
        self.0.as_ptr()
    }

    /// Ends the ownership of a list that librdkafka has taken over.
    pub(super) fn release(self) {
        // librdkafka destroys the list with its record; dropping it here too would free it twice.
        std::mem::forget(self);
    }
}

impl From<&OwnedHeaders> for OutgoingHeaders {
    fn from(headers: &OwnedHeaders) -> Self {
        let mut copy = Self::with_capacity(headers.count());
        for header in headers.iter() {
            copy.add(header.key, header.value);
        }
        copy
    }
}

impl Drop for OutgoingHeaders {
    fn drop(&mut self) {
        // SAFETY: this object owns the list: one that librdkafka has taken over went through `release`, which
        // does not drop.
        unsafe { rd::rd_kafka_headers_destroy(self.0.as_ptr()) };
    }
}

/// Returns pointer and length as librdkafka expects them; a null pointer is an absent value.
pub(super) fn raw(bytes: Option<&[u8]>) -> (*const u8, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()))
}
