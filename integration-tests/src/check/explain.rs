//! Explains each repeated request by what its caller knew about the request before it.

use std::fmt;
use std::time::Duration;

use legacy_api::{Cut, RequestLine};

use crate::process::Interruption;

/// Valid reason to send a request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Explanation {
    /// Response that says the request was not processed: 429.
    NotProcessed(u16),
    /// Response that leaves the outcome unknown: 500, 502, 503, 504.
    Ambiguous(u16),
    /// Connection reset before a response.
    Reset,
    /// Connection closed before a response.
    Closed,
    /// API down before a response.
    Down,
    /// Timeout without a response.
    TimedOut,
    /// Caller killed or frozen before the response was recorded in the call notes.
    Interrupted,
}

/// Maximum time in ms from a response until the call notes record it: the produce of the outcome and one
/// commit, on a loaded machine.
const RECORDED_WITHIN_MS: i64 = 2_000;

impl Explanation {
    /// Returns true if the earlier request may have been processed.
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        match self {
            Self::NotProcessed(_) => false,
            Self::Ambiguous(_)
            | Self::Reset
            | Self::Closed
            | Self::Down
            | Self::TimedOut
            | Self::Interrupted => true,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProcessed(status) => write!(f, "response {status}, surely not processed"),
            Self::Ambiguous(status) => write!(f, "response {status}, perhaps processed"),
            Self::Reset => f.write_str("connection reset before the response"),
            Self::Closed => f.write_str("connection closed before the response"),
            Self::Down => f.write_str("API down before the response"),
            Self::TimedOut => f.write_str("no response before the timeout"),
            Self::Interrupted => f.write_str("caller killed or frozen before the response was recorded"),
        }
    }
}

/// Returns what explains `later` after `earlier`; none if it should not have been sent.
#[must_use]
pub fn repeat(
    earlier: &RequestLine,
    later: &RequestLine,
    interruptions: &[Interruption],
    api_timeout: Duration,
) -> Option<Explanation> {
    // Evaluated last: the other explanations are more precise.
    let interrupted = || was_interrupted(earlier, later, interruptions).then_some(Explanation::Interrupted);
    let timed_out = || {
        // Half of the timeout is enough: the caller's timeout starts before a loaded API accepts the request.
        let waited = Duration::from_millis(end(earlier, later).saturating_sub(earlier.arrived_at));
        (waited >= api_timeout / 2).then_some(Explanation::TimedOut)
    };
    if let Some(status) = earlier.answered {
        // A request sent before the response is not a reaction to it.
        let reacted = later.arrived_at >= end(earlier, later);
        return match status {
            429 if reacted => Some(Explanation::NotProcessed(status)),
            // By the callers' default settings, a `Retry-After` header changes nothing.
            500 | 502 | 503 | 504 if reacted => Some(Explanation::Ambiguous(status)),
            // A final response: it must have been lost on its way, or with its caller.
            _ => interrupted().or_else(timed_out),
        };
    }
    match earlier.cut {
        Some(Cut::Reset) => Some(Explanation::Reset),
        Some(Cut::Closed) => Some(Explanation::Closed),
        Some(Cut::Down) => Some(Explanation::Down),
        // The client closed the connection: on its timeout, or because it was killed.
        Some(Cut::ClientLeft) | None => timed_out().or_else(interrupted),
    }
}

/// Returns true if a caller was interrupted while `earlier` was in flight or not yet recorded, and before
/// `later`.
fn was_interrupted(earlier: &RequestLine, later: &RequestLine, interruptions: &[Interruption]) -> bool {
    let (arrived, ended) = (ms(earlier.arrived_at), ms(end(earlier, later)));
    // Any caller's interruption counts, because the request line does not name the caller.
    interruptions.iter().any(|interruption| {
        interruption.until.0 >= arrived
            && interruption.from.0 <= ended + RECORDED_WITHIN_MS
            && interruption.from.0 <= ms(later.arrived_at)
    })
}

/// Returns the end of the exchange in ms; one without an end lasted at least until `later`.
fn end(earlier: &RequestLine, later: &RequestLine) -> u64 {
    earlier.finished_at.unwrap_or(later.arrived_at)
}

fn ms(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use legacy_api::Decision;
    use records::Timestamp;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn request(arrived_at: u64, answered: Option<u16>, cut: Option<Cut>, finished_at: u64) -> RequestLine {
        RequestLine {
            sequence: 0,
            order_id: "o-1".into(),
            idempotency_key: Some("o-1".into()),
            nth: 1,
            arrived_at,
            fault: None,
            slow: false,
            processed: true,
            decision: Some(Decision::Charged),
            processed_at: Some(finished_at),
            answered,
            cut,
            finished_at: Some(finished_at),
        }
    }

    fn check(earlier: &RequestLine, interruptions: &[(i64, i64)], expected: Option<Explanation>) {
        let later = request(20_000, Some(200), None, 20_001);
        let interruptions: Vec<_> = interruptions
            .iter()
            .map(|(from, until)| Interruption {
                from: Timestamp(*from),
                until: Timestamp(*until),
            })
            .collect();
        assert_eq!(
            repeat(earlier, &later, &interruptions, TIMEOUT),
            expected,
            "{earlier:?}, {interruptions:?}"
        );
    }

    #[test]
    fn ambiguous_and_refused_requests_may_repeat() {
        let answered = |status| request(10_000, Some(status), None, 10_003);
        let cut = |cut, finished_at| request(10_000, None, Some(cut), finished_at);
        check(&answered(429), &[], Some(Explanation::NotProcessed(429)));
        check(&answered(503), &[], Some(Explanation::Ambiguous(503)));
        check(&answered(500), &[], Some(Explanation::Ambiguous(500)));
        check(&answered(504), &[], Some(Explanation::Ambiguous(504)));
        check(&cut(Cut::Reset, 10_001), &[], Some(Explanation::Reset));
        check(&cut(Cut::Closed, 10_001), &[], Some(Explanation::Closed));
        check(&cut(Cut::Down, 10_001), &[], Some(Explanation::Down));
        check(&cut(Cut::ClientLeft, 11_000), &[], Some(Explanation::TimedOut));
        // Killed in flight, and killed before the response was recorded.
        check(
            &cut(Cut::ClientLeft, 10_100),
            &[(10_090, 10_101)],
            Some(Explanation::Interrupted),
        );
        check(
            &answered(200),
            &[(10_900, 10_950)],
            Some(Explanation::Interrupted),
        );
    }

    #[test]
    fn final_response_explains_no_repeat() {
        let accepted = request(10_000, Some(200), None, 10_003);
        check(&accepted, &[], None);
        check(&request(10_000, Some(422), None, 10_003), &[], None);
        // A kill before the call, long after its response, and after the repeat.
        check(&accepted, &[(9_000, 9_100)], None);
        check(&accepted, &[(13_000, 13_100)], None);
        check(&accepted, &[(20_500, 20_600)], None);
        // A caller that closed the connection early without being killed.
        check(&request(10_000, None, Some(Cut::ClientLeft), 10_100), &[], None);
        // Concurrent requests: the second did not wait for the 500 of the first.
        check(&request(19_900, Some(500), None, 20_200), &[], None);
    }
}
