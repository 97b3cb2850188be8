//! Look-ups go to the API, and what they came to comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::delivery::{CallId, LookupResult, Lost, Response};

use crate::effects::Shell;
use crate::effects::completion::Arrived;
use crate::outbox::pending_call::Job;

impl Shell {
    /// Asks the API for the order, in a task of its own.
    pub(crate) fn look_up(&self, call: CallId, job: &Arc<Job>) {
        let request = job.look_up_request(&self.api);
        tracing::debug!(key = %job.key_text(), position = %job.position, "order is looked up");
        let (api, inbox) = (Arc::clone(&self.api), self.inbox.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let report = match request {
                Ok(request) => api.look_up(request).await,
                Err(why) => {
                    tracing::error!(why, "an order cannot be looked up");
                    Response::Lost(Lost::Other)
                }
            };
            let took = began.elapsed();
            // The loop is gone only when the program ends.
            let _ = inbox.send(Arrived::LookedUp { call, report, took });
        });
    }

    /// Tells of a look-up that has come to something.
    pub(crate) fn looked_up(&self, call: CallId, report: &Response, verdict: LookupResult, took: Duration) {
        self.metrics.looked_up(verdict, took);
        let (position, kind, status) = (self.position(call), report.kind(), report.status());
        match verdict {
            LookupResult::Found => tracing::info!(%position, status, "the API has processed the order"),
            LookupResult::NotFound => tracing::warn!(
                %position, status, "the API never saw the order: the call is made again"
            ),
            LookupResult::Unknown => tracing::warn!(%position, kind, status, "the look-up tells nothing"),
        }
    }
}
