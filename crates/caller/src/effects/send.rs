//! Requests to the API, and the ownership lease that lets them leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::delivery::{Ambiguity, CallId, NotSent, Response};
use records::Partition;

use crate::effects::Shell;
use crate::effects::completion::Completion;
use crate::effects::panics::response_of;
use crate::outbox::call_span;
use crate::outbox::pending_call::PendingCall;

impl Shell {
    /// Extends the ownership lease: requests may leave until then.
    pub(super) fn extend_lease(&mut self, until: Instant) {
        // Kept for partitions that are assigned later.
        self.lease_until = Some(until);
        self.send_permits.values().for_each(|permit| permit.extend(until));
    }

    /// Stops all requests of these partitions that have not left yet, queued ones included.
    pub(super) fn withhold(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(permit) = self.send_permits.remove(partition) {
                permit.withhold();
            }
        }
    }

    /// Sends an attempt's request in a task of its own.
    pub(super) fn send(
        &self,
        call: CallId,
        attempt: u32,
        repeats: Option<Ambiguity>,
        pending: &Arc<PendingCall>,
    ) {
        let position = &pending.position;
        let (Ok(callable), Some(permit)) = (&pending.call, self.send_permits.get(&call.partition)) else {
            debug_assert!(false, "call without request or lease is sent: {position}");
            // The delivery counts on one response per attempt. This one says that nothing has left.
            self.completions.send(Completion::Response {
                call,
                response: Response::NotSent(NotSent::Withheld),
                repeats: None,
                took: Duration::ZERO,
            });
            return;
        };
        let key = &callable.key;
        match repeats {
            Some(ambiguity) => tracing::warn!(
                %key, %position, attempt, reason = ambiguity.as_str(),
                "call is repeated, an earlier attempt has an unknown outcome"
            ),
            None => tracing::debug!(%key, %position, attempt, "call is sent"),
        }
        let (api, completions) = (Arc::clone(&self.api), self.completions.clone());
        let (mut request, permit) = (callable.request.clone(), permit.clone());
        let span = pending.span.as_ref().map(|span| {
            let url = self.config.api.url_without_query();
            let mut span = span.request(self.api.method(), url, &mut request);
            call_span::attempt(&mut span, attempt, repeats);
            span
        });
        let (metrics, position) = (self.metrics.clone(), position.clone());
        // The task outlives the partition: its response counts if the partition comes back, and the permit
        // keeps a late request from leaving.
        tokio::spawn(async move {
            let started = Instant::now();
            let response = response_of(api.call(request, permit), || {
                metrics.requests_panicked.inc();
                tracing::error!(%position, attempt, "request panicked, its outcome is unknown");
            })
            .await;
            if let Some(span) = span {
                call_span::end(span, &response);
            }
            completions.send(Completion::Response {
                call,
                response,
                repeats,
                took: started.elapsed(),
            });
        });
    }
}
