//! A queue of librdkafka's log lines, apart from the client's records and events.
//!
//! rust-rdkafka serves the log in the client's main queue, so that a line is read when the run loop polls. A
//! thread that waits for a request must read the lines about it by itself.

#![expect(unsafe_code, reason = "rust-rdkafka has no queue of its own for the log")]

use std::ffi::{c_char, c_int};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::bindings as rd;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;

use super::c_string;

/// Queue of one client's log lines.
pub(crate) struct LogQueue {
    client: *mut rd::rd_kafka_t,
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// Held while lines are passed on: whoever gets it knows that no line is halfway.
    serving: Mutex<()>,
}

// SAFETY: librdkafka locks its queues itself, and any thread may use and destroy them.
unsafe impl Send for LogQueue {}
// SAFETY: as above; `serving` keeps the lines in their order.
unsafe impl Sync for LogQueue {}

impl LogQueue {
    /// Redirects the client's log to a queue of its own.
    ///
    /// # Safety
    /// The client outlives the queue.
    pub(crate) unsafe fn of<C: ClientContext>(client: &Client<C>) -> Self {
        let client = client.native_ptr();
        // SAFETY: the client is alive. The function never returns null.
        let queue = unsafe { NonNull::new_unchecked(rd::rd_kafka_queue_new(client)) };
        // It fails only for a client without `log.queue`, which rust-rdkafka always sets. SAFETY: client and
        // queue are alive.
        let _set = unsafe { rd::rd_kafka_set_log_queue(client, queue.as_ptr()) };
        Self {
            client,
            queue,
            serving: Mutex::default(),
        }
    }

    /// Passes on the lines logged so far: level, facility and text. Returns after every line that was logged
    /// before the call has been passed on, by this call or by one on another thread.
    pub(crate) fn serve(&self, mut observe: impl FnMut(RDKafkaLogLevel, &str, &str)) {
        let _serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked first, because this is done for each record, and the length costs less than a poll. SAFETY: the
        // queue is alive.
        while unsafe { rd::rd_kafka_queue_length(self.queue.as_ptr()) } > 0 {
            // SAFETY: as above. A timeout of zero does not wait.
            let event = unsafe { rd::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
            if event.is_null() {
                return;
            }
            let (mut facility, mut line): (*const c_char, *const c_char) = (ptr::null(), ptr::null());
            let mut level: c_int = 0;
            // SAFETY: the event is alive until it is destroyed below, and owns the two texts, which are copied
            // before. If it is no log line, the function leaves the arguments as they are.
            let (facility, line) = unsafe {
                rd::rd_kafka_event_log(event, &raw mut facility, &raw mut line, &raw mut level);
                (c_string::copy(facility), c_string::copy(line))
            };
            // SAFETY: the event is ours, and not used afterwards.
            unsafe { rd::rd_kafka_event_destroy(event) };
            observe(level_of(level), facility.trim(), line.trim());
        }
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        // SAFETY: the client outlives this queue, which is not used afterwards. A null queue is the client's
        // main queue, so that nothing is logged to a queue that is gone.
        unsafe {
            rd::rd_kafka_set_log_queue(self.client, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Returns the level of a syslog severity.
fn level_of(severity: c_int) -> RDKafkaLogLevel {
    match severity {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}
