//! Why a request was sent again: what its caller knew, or could not know, of the one before it.

use std::fmt;
use std::time::Duration;

use legacy_api::{Cut, RequestLine};

use crate::process::Interruption;

/// A good reason to send a request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Explanation {
    /// The API said that it did not process: 429, or 503 with `Retry-After`.
    NotProcessed(u16),
    /// The API answered with a status that says nothing: 500, 502, 504.
    Ambiguous(u16),
    /// The connection was reset before an answer.
    Reset,
    /// The connection was closed before an answer.
    Closed,
    /// The API went down before an answer.
    Down,
    /// No answer came in time.
    TimedOut,
    /// The caller was killed or frozen before it had noted the answer.
    Interrupted,
}

/// How long after its answer a call may still be unnoted: the outcome's way to Kafka and one commit of the
/// call notes, on a loaded machine.
const NOTED_WITHIN_MS: i64 = 2_000;

impl Explanation {
    /// Whether the first request may have been processed: then nobody could know.
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
            Self::NotProcessed(status) => write!(f, "answered {status}, surely not processed"),
            Self::Ambiguous(status) => write!(f, "answered {status}, perhaps processed"),
            Self::Reset => f.write_str("connection reset before the answer"),
            Self::Closed => f.write_str("connection closed before the answer"),
            Self::Down => f.write_str("API went down before the answer"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Interrupted => f.write_str("caller killed before the answer was noted"),
        }
    }
}

/// What explains `later`, given what happened to `earlier`; none: it should not have been sent.
#[must_use]
pub fn repeat(
    earlier: &RequestLine,
    later: &RequestLine,
    interruptions: &[Interruption],
    api_timeout: Duration,
) -> Option<Explanation> {
    let interrupted = || was_interrupted(earlier, later, interruptions).then_some(Explanation::Interrupted);
    let timed_out = || {
        // The caller's clock starts earlier than the API's: a loaded API takes a request up late.
        let waited = Duration::from_millis(end(earlier, later).saturating_sub(earlier.arrived_at));
        (waited >= api_timeout / 2).then_some(Explanation::TimedOut)
    };
    if let Some(status) = earlier.answered {
        // One who sends again while the answer is still to come did not act on the answer.
        let acted_on_it = later.arrived_at >= end(earlier, later);
        return match status {
            429 | 503 if acted_on_it => Some(Explanation::NotProcessed(status)),
            500 | 502 | 504 if acted_on_it => Some(Explanation::Ambiguous(status)),
            _ => interrupted().or_else(timed_out),
        };
    }
    match earlier.cut {
        Some(Cut::Reset) => Some(Explanation::Reset),
        Some(Cut::Closed) => Some(Explanation::Closed),
        Some(Cut::Down) => Some(Explanation::Down),
        // The client left by itself: its patience was over, or it was.
        Some(Cut::ClientLeft) | None => timed_out().or_else(interrupted),
    }
}

/// Whether a caller was interrupted with the first request in flight or not yet noted, before the second.
fn was_interrupted(earlier: &RequestLine, later: &RequestLine, interruptions: &[Interruption]) -> bool {
    let (arrived, ended) = (ms(earlier.arrived_at), ms(end(earlier, later)));
    interruptions.iter().any(|interruption| {
        interruption.until.0 >= arrived
            && interruption.from.0 <= ended + NOTED_WITHIN_MS
            && interruption.from.0 <= ms(later.arrived_at)
    })
}

/// When the exchange was over; one that never ended was under way when the next came.
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
    fn what_explains_a_repeat() {
        let answered = |status| request(10_000, Some(status), None, 10_003);
        let cut = |cut, finished_at| request(10_000, None, Some(cut), finished_at);
        check(&answered(429), &[], Some(Explanation::NotProcessed(429)));
        check(&answered(503), &[], Some(Explanation::NotProcessed(503)));
        check(&answered(500), &[], Some(Explanation::Ambiguous(500)));
        check(&answered(504), &[], Some(Explanation::Ambiguous(504)));
        check(&cut(Cut::Reset, 10_001), &[], Some(Explanation::Reset));
        check(&cut(Cut::Closed, 10_001), &[], Some(Explanation::Closed));
        check(&cut(Cut::Down, 10_001), &[], Some(Explanation::Down));
        check(&cut(Cut::ClientLeft, 11_000), &[], Some(Explanation::TimedOut));
        // Killed in flight, and killed before the answer was noted.
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
    fn what_does_not_explain_a_repeat() {
        let accepted = request(10_000, Some(200), None, 10_003);
        check(&accepted, &[], None);
        check(&request(10_000, Some(422), None, 10_003), &[], None);
        // A kill before the call, long after its answer, and after the repeat.
        check(&accepted, &[(9_000, 9_100)], None);
        check(&accepted, &[(13_000, 13_100)], None);
        check(&accepted, &[(20_500, 20_600)], None);
        // A caller that left early without being killed.
        check(&request(10_000, None, Some(Cut::ClientLeft), 10_100), &[], None);
        // Two requests at once: the second did not wait for the 500 of the first.
        check(&request(19_900, Some(500), None, 20_200), &[], None);
    }
}
