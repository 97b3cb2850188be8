//! Look-ups: asking the API whether it has processed an order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::delivery::{CallId, LookupResult, Lost, Response};
use reqwest::Method;

use crate::effects::Shell;
use crate::effects::completion::Completion;
use crate::effects::panics::response_of;
use crate::outbox::call_span;
use crate::outbox::pending_call::PendingCall;

impl Shell {
    /// Asks the API for the order, in a task of its own.
    pub(crate) fn look_up(&self, call: CallId, pending: &Arc<PendingCall>) {
        // Built here, not with the call: most calls are never looked up.
        let mut request = pending.look_up_request(&self.api);
        let span = match (&pending.span, &mut request) {
            (Some(span), Ok(request)) => {
                let url = self.config.verify.url.split('?').next().unwrap_or_default();
                Some(span.request(&Method::GET, url, request))
            }
            (None, _) | (_, Err(_)) => None,
        };
        tracing::debug!(key = %pending.key_text(), position = %pending.position, "order is looked up");
        let (api, completions) = (Arc::clone(&self.api), self.completions.clone());
        let (metrics, position) = (self.metrics.clone(), pending.position.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let response = match request {
                Ok(request) => {
                    response_of(api.look_up(request), || {
                        metrics.requests_panicked.inc();
                        tracing::error!(%position, "look-up panicked, outcome stays unknown");
                    })
                    .await
                }
                Err(why) => {
                    tracing::error!(why, "look-up request cannot be built, outcome stays unknown");
                    // Counts as a look-up without result, so the limit on look-ups parks the call.
                    Response::Lost(Lost::Other)
                }
            };
            if let Some(span) = span {
                call_span::end(span, &response);
            }
            completions.send(Completion::LookUp {
                call,
                response,
                took: started.elapsed(),
            });
        });
    }

    /// Logs and counts the result of a look-up.
    pub(crate) fn looked_up(&self, call: CallId, response: &Response, result: LookupResult, took: Duration) {
        self.metrics.lookup_finished(result, took);
        let (position, kind, status) = (self.position(call), response.kind(), response.status());
        match result {
            LookupResult::Found => {
                tracing::info!(%position, status, "look-up found the order, call accepted");
            }
            LookupResult::NotFound => {
                tracing::warn!(%position, status, "look-up did not find the order, call will be repeated");
            }
            LookupResult::Unknown => {
                tracing::warn!(%position, kind, status, "look-up inconclusive, outcome stays unknown");
            }
        }
    }
}
