//! Repetition of a request until a deadline.

use std::time::{Duration, Instant};

use super::error::{ClientError, ErrorClass};

/// Repeats a request while its error is retriable and time is left, with a wait in between. `request` gets the
/// time left.
pub(crate) fn retry_until<T>(
    deadline: Instant,
    wait: Duration,
    request: impl Fn(Duration) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match request(left) {
            Err(error) if error.class == ErrorClass::Retriable && !left.is_zero() => {
                std::thread::sleep(wait.min(left));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdkafka::error::KafkaError;
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    /// Returns the number of attempts and the result of a request that fails `failures` times.
    fn attempts(code: RDKafkaErrorCode, failures: u32, timeout: Duration) -> (u32, bool) {
        let attempts = Cell::new(0);
        let result = retry_until(Instant::now() + timeout, WAIT, |_| {
            attempts.set(attempts.get() + 1);
            if attempts.get() > failures {
                return Ok(());
            }
            Err(ClientError::new("asking", KafkaError::MetadataFetch(code)))
        });
        (attempts.get(), result.is_ok())
    }

    #[test]
    fn request_without_a_leader_is_repeated() {
        let (code, timeout) = (RDKafkaErrorCode::NotLeaderForPartition, Duration::from_secs(60));
        assert_eq!(attempts(code, 2, timeout), (3, true));
        assert_eq!(attempts(code, 2, Duration::ZERO), (1, false));
        let denied = RDKafkaErrorCode::GroupAuthorizationFailed;
        assert_eq!(attempts(denied, 2, timeout), (1, false));
    }
}
