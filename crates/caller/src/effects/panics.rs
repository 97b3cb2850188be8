//! Panics in the tasks of requests.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use pipeline::delivery::{Lost, Response};

/// Returns the response of a request, or `on_panic`'s and that of a lost response if the request panics.
///
/// A slot in flight is free only once its call has a response. Without one, a partition could be neither
/// committed nor released.
pub(super) async fn response_of(
    request: impl Future<Output = Response>,
    on_panic: impl FnOnce(),
) -> Response {
    let mut request = pin!(request);
    let caught = poll_fn(|context| {
        // Nothing of the request is used again after a panic.
        match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    });
    match caught.await {
        Some(response) => response,
        None => {
            on_panic();
            // It may have been sent before the panic.
            Response::Lost(Lost::Other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panicking_request_has_a_lost_response() {
        let mut panics = 0;
        let request = async {
            tokio::task::yield_now().await;
            panic!("a defect in the HTTP client");
        };
        let response = response_of(request, || panics += 1).await;
        assert_eq!((response, panics), (Response::Lost(Lost::Other), 1));

        let timed_out = async { Response::Lost(Lost::TimedOut) };
        let response = response_of(timed_out, || panics += 1).await;
        assert_eq!((response, panics), (Response::Lost(Lost::TimedOut), 1));
    }
}
