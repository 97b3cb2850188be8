//! The API: requests that have left their callers, and what it has processed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use pipeline::delivery::{HttpResponse, Lost, Response};

use crate::delivery::checks::Place;

/// The API's longest processing time.
pub(crate) const PROCESSING_MAX: Duration = Duration::from_millis(PROCESSING_MAX_MS);
const PROCESSING_MAX_MS: u64 = 300;
/// How long a caller waits for an answer; shorter, so that orders are processed after their callers gave up.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(120);

#[derive(Default)]
pub(crate) struct Api {
    /// Requests on their way, with the time at which they are processed.
    on_their_way: Vec<(Instant, Place)>,
    /// How often each order was processed.
    pub(crate) processed: HashMap<Place, u32>,
    /// How often each order was asked for.
    asked: HashMap<Place, u32>,
}

/// What a request that has left comes to.
pub(crate) struct Fate {
    /// When it is processed, if it is.
    pub(crate) lands_at: Option<Instant>,
    /// What its caller is told, and when.
    pub(crate) report: Response,
    pub(crate) report_at: Instant,
}

pub(crate) fn status(status: u16, retry_after_ms: Option<u64>) -> Response {
    Response::Status(HttpResponse {
        status,
        retry_after: retry_after_ms.map(Duration::from_millis),
        ..HttpResponse::default()
    })
}

/// Draws what becomes of a request that leaves now. Some orders are rejected, each time.
pub(crate) fn fate(random: &mut ChaCha8Rng, place: Place, now: Instant, faults: bool) -> Fate {
    let mut soon = |max: u64| now + Duration::from_millis(random.random_range(0..max));
    let (landing, answering, late) = (soon(30), soon(30), soon(PROCESSING_MAX_MS - 1));
    let answer_at = landing.max(answering);
    let is_rejected = (place.1.0 + i64::from(place.0.0)) % 9 == 4;
    let kind = if faults { random.random_range(0..100) } else { 99 };
    let (lands_at, report, report_at) = match kind {
        // Processed long after its caller gave up, or lost the connection.
        0..5 => (Some(late), Response::Lost(Lost::TimedOut), now + TIMEOUT),
        5..9 => (Some(late), Response::Lost(Lost::Closed), answer_at),
        9..12 => (None, Response::Lost(Lost::Closed), answer_at),
        12..14 => (None, Response::Lost(Lost::TimedOut), now + TIMEOUT),
        14..16 => (Some(landing), status(500, None), answer_at),
        16..18 => (None, status(500, None), answer_at),
        18..24 => (None, status(429, Some(20)), answer_at),
        24..27 => (Some(late), status(200, None), late.max(answer_at)),
        _ => (Some(landing), status(200, None), answer_at),
    };
    match (is_rejected, lands_at) {
        (true, Some(_)) => Fate {
            lands_at: None,
            report: match report {
                Response::Status(reply) if reply.status == 200 => status(422, None),
                report => report,
            },
            report_at,
        },
        (_, lands_at) => Fate {
            lands_at,
            report,
            report_at,
        },
    }
}

/// What becomes of a request for a deferral order.
fn refused(random: &mut ChaCha8Rng, now: Instant) -> Fate {
    let report = match random.random_range(0..6) {
        0 => status(500, None),
        _ => status(429, Some(5)),
    };
    Fate {
        lands_at: None,
        report,
        report_at: now + Duration::from_millis(random.random_range(0..20)),
    }
}

impl Api {
    /// Draws what becomes of a request that leaves now, and whether it is for a deferral order: some fail a few
    /// times, others, where they are given up, for ever.
    pub(crate) fn fate(
        &mut self,
        random: &mut ChaCha8Rng,
        place: Place,
        now: Instant,
        (faults, seed, gives_up): (bool, u64, bool),
    ) -> Fate {
        let asked = self.asked.entry(place).or_default();
        *asked += 1;
        let order = seed + place.1.0.unsigned_abs() + 3 * u64::from(place.0.0.unsigned_abs());
        let fails = match order % 10 {
            2 | 5 => 3 + u32::try_from(seed % 9).unwrap_or_default(),
            7 if gives_up => u32::MAX,
            _ => 0,
        };
        match *asked <= fails {
            true => refused(random, now),
            false => fate(random, place, now, faults),
        }
    }

    pub(crate) fn takes(&mut self, place: Place, lands_at: Instant) {
        self.on_their_way.push((lands_at, place));
    }

    /// Processes what has arrived. Returns each order, with how often it was processed by now.
    pub(crate) fn turn(&mut self, now: Instant) -> Vec<(Place, u32)> {
        let (arrived, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.on_their_way)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.on_their_way = left;
        let mut processed = Vec::new();
        for (_, place) in arrived {
            let count = self.processed.entry(place).or_default();
            *count += 1;
            processed.push((place, *count));
        }
        processed
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.on_their_way.iter().map(|(at, _)| *at).min()
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.on_their_way.is_empty()
    }

    pub(crate) fn look_up(&self, place: Place) -> Response {
        match self.processed.get(&place) {
            Some(_) => status(200, None),
            None => status(404, None),
        }
    }
}
