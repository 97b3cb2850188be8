//! Queue of ended spans, and the thread that sends them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver as Inbox, RecvTimeoutError, Sender, TrySendError, bounded};
use opentelemetry_sdk::trace::SpanData;
use reqwest::Url;

use super::receiver::{ExportError, Receiver};
use super::{Dropped, TracesMetrics, TracesSettings};

/// Maximum number of spans in the queue, some 8 MB; further ones are dropped.
pub(super) const QUEUE_MAX: usize = 8_192;
/// Maximum number of spans in one request.
const BATCH_MAX: usize = 512;
/// Maximum time for which a span waits for others of its batch.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// Time after which a batch that is not taken is dropped.
const BATCH_AGE_MAX: Duration = Duration::from_secs(60);
/// Wait before the first retry of a batch; it doubles with each.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Maximum wait before a retry.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Minimum interval between two warnings.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Sending half of the queue.
#[derive(Debug)]
pub(super) struct Exporter {
    queue: Sender<Item>,
    metrics: TracesMetrics,
    /// Dropped to end the retries.
    retries: Mutex<Option<Sender<()>>>,
}

enum Item {
    Span(Box<SpanData>),
    /// Everything before it is to be exported, then this is dropped.
    Flush(Sender<()>),
}

impl Exporter {
    /// Starts the thread.
    pub(super) fn start(
        settings: &TracesSettings,
        url: Url,
        resource: &opentelemetry_sdk::Resource,
        metrics: TracesMetrics,
    ) -> anyhow::Result<Self> {
        let receiver = Receiver::new(settings, url, resource)?;
        let (queue, inbox) = bounded(QUEUE_MAX);
        let (retries, no_retries) = bounded(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the runtime of the traces cannot be started")?;
        let sending = Sending {
            receiver,
            runtime,
            metrics: metrics.clone(),
            no_retries,
            warned_at: None,
            is_failing: false,
        };
        std::thread::Builder::new()
            .name("traces".into())
            .spawn(move || sending.run(&inbox))
            .context("the thread of the traces cannot be started")?;
        Ok(Self {
            queue,
            metrics,
            retries: Mutex::new(Some(retries)),
        })
    }

    pub(super) fn metrics(&self) -> &TracesMetrics {
        &self.metrics
    }

    /// Queues a span, or drops it if there is no room.
    pub(super) fn queue(&self, span: SpanData) {
        match self.queue.try_send(Item::Span(Box::new(span))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.dropped(Dropped::QueueFull, 1);
            }
        }
    }

    /// Waits until what is queued is exported, at most this long. Nothing is retried any more.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        drop(self.retries.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (done, is_done) = bounded(0);
        let is_flushed = self.queue.send_deadline(Item::Flush(done), deadline).is_ok()
            && is_done.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout);
        if !is_flushed {
            tracing::warn!(
                spans = self.queue.len(),
                "traces not exported in time, exiting without them"
            );
        }
    }
}

/// The thread's state.
struct Sending {
    receiver: Receiver,
    runtime: tokio::runtime::Runtime,
    metrics: TracesMetrics,
    /// Disconnected at the shutdown.
    no_retries: Inbox<()>,
    warned_at: Option<Instant>,
    is_failing: bool,
}

impl Sending {
    fn run(mut self, inbox: &Inbox<Item>) {
        // Ends when all senders are gone.
        while let Ok(first) = inbox.recv() {
            let (spans, flush) = batch(first, inbox);
            if !spans.is_empty() {
                self.export(spans);
            }
            drop(flush);
        }
    }

    fn export(&mut self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        let body = self.receiver.encode(spans);
        let drop_at = Instant::now() + BATCH_AGE_MAX;
        let mut wait = RETRY_MIN;
        loop {
            let error = match self.runtime.block_on(self.receiver.send(body.clone())) {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.metrics.exported.inc_by(count - rejected);
                    if rejected > 0 {
                        self.metrics.dropped(Dropped::Rejected, rejected);
                    }
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("traces are exported again");
                    }
                    return;
                }
                Err(error) => error,
            };
            self.warn(&error);
            let is_last = matches!(error, ExportError::Permanent(_))
                || Instant::now() + wait > drop_at
                // Not a sleep: a shutdown ends the wait.
                || self.no_retries.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected);
            if is_last {
                self.metrics.dropped(Dropped::NotExported, count);
                return;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn warn(&mut self, error: &ExportError) {
        self.is_failing = true;
        let now = Instant::now();
        if self.warned_at.is_some_and(|at| now < at + WARNING_INTERVAL) {
            return;
        }
        self.warned_at = Some(now);
        let endpoint = self.receiver.endpoint();
        tracing::warn!(
            endpoint, %error,
            "traces not exported, spans may be dropped; payments are not affected"
        );
    }
}

/// Collects a batch that starts with this item. Returns its spans, and the flush that ended it, if one did.
fn batch(first: Item, inbox: &Inbox<Item>) -> (Vec<SpanData>, Option<Sender<()>>) {
    let deadline = Instant::now() + BATCH_WAIT;
    let mut spans = Vec::new();
    let mut next = Ok(first);
    loop {
        match next {
            Ok(Item::Span(span)) => spans.push(*span),
            Ok(Item::Flush(done)) => return (spans, Some(done)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return (spans, None),
        }
        if spans.len() == BATCH_MAX {
            return (spans, None);
        }
        next = inbox.recv_deadline(deadline);
    }
}
