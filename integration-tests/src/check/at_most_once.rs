//! G6 and G7: under `park` and `verify` no order is charged twice, and none is sent after it was parked.

use legacy_api::{Decision, RequestLine};

use super::{Anomaly, Guarantee, Violation};
use crate::read_back::topics::Record;

/// Ambiguity policy of the callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Send the request again.
    Retry,
    /// Park the call for an operator.
    Park,
    /// Ask the API's look-up endpoint.
    Verify,
}

impl Policy {
    /// Returns the value of the setting `on_ambiguous`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Park => "park",
            Self::Verify => "verify",
        }
    }

    const fn guarantee(self) -> Guarantee {
        match self {
            Self::Retry => Guarantee::G5,
            Self::Park => Guarantee::G6,
            Self::Verify => Guarantee::G7,
        }
    }
}

/// Maximum time in ms between a parked record and the arrival of a request sent before it. An overloaded API
/// accepts requests late.
const IN_TRANSIT_MAX_MS: i64 = 2_000;

/// Checks the requests of one order, given its parked record if there is one.
pub(super) fn check(
    policy: Policy,
    key: &str,
    parked: Option<&Record>,
    requests: &[&RequestLine],
) -> Vec<Violation> {
    let broken = |finding: String| Violation {
        guarantee: policy.guarantee(),
        anomaly: Anomaly::Call,
        finding,
    };
    // At least once: repeated charges are allowed, and `explain` checks their reasons.
    if policy == Policy::Retry {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let is_charge = |request: &&&RequestLine| request.decision == Some(Decision::Charged);
    // By the API's decision and not by requests: one that failed before it was processed charged nothing.
    let charges = requests.iter().filter(is_charge).count();
    if charges > 1 {
        violations.push(broken(format!("{key:?} was charged {charges} times")));
    }
    // Sent after it was parked, the request could charge the order while an operator settles it.
    if let Some(parked) = parked {
        let is_late = |request: &&&RequestLine| {
            i64::try_from(request.arrived_at).is_ok_and(|at| at > parked.timestamp_ms + IN_TRANSIT_MAX_MS)
        };
        if let Some(late) = requests.iter().find(is_late) {
            violations.push(broken(format!(
                "{key:?} was parked at {} ms but sent to the API at {} ms",
                parked.timestamp_ms, late.arrived_at
            )));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use records::{Offset, Partition};

    use super::*;

    fn request(arrived_at: u64, decision: Option<Decision>) -> RequestLine {
        RequestLine {
            sequence: 0,
            order_id: "o-1".into(),
            idempotency_key: Some("o-1".into()),
            nth: 1,
            arrived_at,
            fault: None,
            slow: false,
            processed: decision.is_some(),
            decision,
            processed_at: Some(arrived_at),
            answered: Some(200),
            cut: None,
            finished_at: Some(arrived_at),
        }
    }

    fn parked_at(timestamp_ms: i64) -> Record {
        Record {
            partition: Partition(0),
            offset: Offset(0),
            timestamp_ms,
            key: Some(b"o-1".to_vec()),
            fingerprint: None,
            value: None,
            headers: Vec::new(),
        }
    }

    #[test]
    fn second_charge_and_call_after_parking_are_found() {
        let charged = |at| request(at, Some(Decision::Charged));
        let found = |policy, parked: Option<&Record>, requests: &[RequestLine]| {
            let requests: Vec<&RequestLine> = requests.iter().collect();
            check(policy, "o-1", parked, &requests).len()
        };
        let twice = [charged(10_000), charged(20_000)];
        assert_eq!(found(Policy::Park, None, &twice), 1);
        assert_eq!(found(Policy::Verify, None, &twice), 1);
        assert_eq!(found(Policy::Retry, None, &twice), 0);
        let once = [request(10_000, None), charged(20_000)];
        assert_eq!(found(Policy::Park, None, &once), 0);
        assert_eq!(found(Policy::Park, Some(&parked_at(19_000)), &once), 0);
        assert_eq!(found(Policy::Park, Some(&parked_at(15_000)), &once), 1);
    }
}
