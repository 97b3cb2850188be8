//! Simulated API: requests in flight, and the orders it has processed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use pipeline::delivery::{HttpResponse, Lost, Response};

use crate::delivery::checks::CallPosition;

/// Maximum processing time of the API.
pub(crate) const PROCESSING_MAX: Duration = Duration::from_millis(PROCESSING_MAX_MS);
const PROCESSING_MAX_MS: u64 = 300;
/// Maximum time of a request on its way to the API, when packets are lost.
pub(crate) const TRANSPORT_MAX: Duration = Duration::from_millis(TRANSPORT_MAX_MS);
const TRANSPORT_MAX_MS: u64 = 200;
/// Response timeout of a caller. Shorter than the processing, so that orders are processed after the timeout.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(120);

#[derive(Default)]
pub(crate) struct Api {
    /// Requests in flight, with the time of their processing.
    in_flight: Vec<(Instant, CallPosition)>,
    /// Requests that hang in the API, by order.
    hangs: HashMap<CallPosition, Hang>,
    /// Number of times that each order was processed.
    pub(crate) processed: HashMap<CallPosition, u32>,
    /// Number of requests for each order.
    requests: HashMap<CallPosition, u32>,
}

/// Request that hangs in the API, with the callers whose look-ups it has made hang too.
// Each caller detects the hang by a look-up. One that no look-up detects counts as processing time.
#[derive(Default)]
struct Hang {
    /// End of the hang, once a look-up was lost.
    until: Option<Instant>,
    detected_by: BTreeSet<u64>,
}

/// Plan for a request: its processing and its response.
pub(crate) struct RequestPlan {
    /// Time of the processing; `None` if the order is not processed.
    pub(crate) processed_at: Option<Instant>,
    /// Response that the caller gets, at `response_at`.
    pub(crate) response: Response,
    pub(crate) response_at: Instant,
}

pub(crate) fn status(status: u16, retry_after_ms: Option<u64>) -> Response {
    Response::Status(HttpResponse {
        status,
        retry_after: retry_after_ms.map(Duration::from_millis),
        ..HttpResponse::default()
    })
}

/// Draws the plan for a request that is sent now. Some orders are always rejected, if `rejects`.
pub(crate) fn plan_request(
    random: &mut ChaCha8Rng,
    position: CallPosition,
    now: Instant,
    (faults, rejects): (bool, bool),
) -> RequestPlan {
    let mut soon = |max: u64| now + Duration::from_millis(random.random_range(0..max));
    let (processed, responded, late) = (soon(30), soon(30), soon(PROCESSING_MAX_MS - 1));
    // Lost packets delay a request, whether its sender still waits or not.
    let delayed = soon(TRANSPORT_MAX_MS) + late.duration_since(now);
    let response_at = processed.max(responded);
    let is_rejected = rejects && (position.1.0 + i64::from(position.0.0)) % 9 == 4;
    let kind = if faults { random.random_range(0..100) } else { 99 };
    let (processed_at, response, response_at) = match kind {
        // Processed long after the timeout, or after the connection was lost.
        0..5 => (Some(delayed), Response::Lost(Lost::TimedOut), now + TIMEOUT),
        5..9 => (Some(delayed), Response::Lost(Lost::Closed), response_at),
        9..12 => (None, Response::Lost(Lost::Closed), response_at),
        12..14 => (None, Response::Lost(Lost::TimedOut), now + TIMEOUT),
        14..16 => (Some(processed), status(500, None), response_at),
        16..18 => (None, status(500, None), response_at),
        18..24 => (None, status(429, Some(20)), response_at),
        24..27 => (Some(late), status(200, None), late.max(response_at)),
        _ => (Some(processed), status(200, None), response_at),
    };
    match (is_rejected, processed_at) {
        (true, Some(_)) => RequestPlan {
            processed_at: None,
            response: match response {
                Response::Status(http) if http.status == 200 => status(422, None),
                response => response,
            },
            response_at,
        },
        (_, processed_at) => RequestPlan {
            processed_at,
            response,
            response_at,
        },
    }
}

/// Draws the plan for a request that fails without being processed.
fn plan_failure(random: &mut ChaCha8Rng, now: Instant) -> RequestPlan {
    let response = match random.random_range(0..6) {
        0 => status(500, None),
        _ => status(429, Some(5)),
    };
    RequestPlan {
        processed_at: None,
        response,
        response_at: now + Duration::from_millis(random.random_range(0..20)),
    }
}

impl Api {
    /// Draws the plan for a request that is sent now. Some orders fail a few times; others always fail, where
    /// calls are abandoned.
    pub(crate) fn plan_request(
        &mut self,
        random: &mut ChaCha8Rng,
        position: CallPosition,
        now: Instant,
        (faults, rejects): (bool, bool),
        (seed, abandons): (u64, bool),
    ) -> RequestPlan {
        let requests = self.requests.entry(position).or_default();
        *requests += 1;
        let order = seed + position.1.0.unsigned_abs() + 3 * u64::from(position.0.0.unsigned_abs());
        let fails = match order % 10 {
            2 | 5 => 3 + u32::try_from(seed % 9).unwrap_or_default(),
            7 if abandons => u32::MAX,
            _ => 0,
        };
        match *requests <= fails {
            true => plan_failure(random, now),
            false => plan_request(random, position, now, (faults, rejects)),
        }
    }

    pub(crate) fn accept(&mut self, position: CallPosition, processed_at: Instant) {
        self.in_flight.push((processed_at, position));
    }

    /// Processes the requests that have arrived. Returns each order with the number of times it was
    /// processed.
    pub(crate) fn turn(&mut self, now: Instant) -> Vec<(CallPosition, u32)> {
        let (arrived, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.in_flight = left;
        let mut processed = Vec::new();
        for (_, position) in arrived {
            let count = self.processed.entry(position).or_default();
            *count += 1;
            processed.push((position, *count));
        }
        processed
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.in_flight.iter().map(|(at, _)| *at).min()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes a request that hangs in the API.
    pub(crate) fn hang(&mut self, position: CallPosition) {
        self.hangs.entry(position).or_default();
    }

    /// Returns `true` if a look-up by this caller hangs too. With the first of them the hang ends, and its
    /// request is processed.
    pub(crate) fn hangs(
        &mut self,
        random: &mut ChaCha8Rng,
        (position, process): (CallPosition, u64),
        now: Instant,
    ) -> bool {
        let Some(hang) = self.hangs.get_mut(&position) else {
            return false;
        };
        if hang.until.is_none() {
            let until = now + TIMEOUT;
            hang.until = Some(until);
            let took = Duration::from_millis(random.random_range(0..PROCESSING_MAX_MS - 1));
            self.in_flight.push((until + took, position));
        }
        let is_over = hang.until.is_some_and(|until| until + PROCESSING_MAX <= now);
        !is_over && hang.detected_by.insert(process)
    }

    pub(crate) fn look_up(&self, position: CallPosition) -> Response {
        match self.processed.get(&position) {
            Some(_) => status(200, None),
            None => status(404, None),
        }
    }
}
