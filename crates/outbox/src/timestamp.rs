//! Timestamps of records, as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::{format_rfc3339_millis, format_rfc3339_seconds};
use records::Timestamp;

/// Returns a time in UTC, in seconds; `-` if there is none, or it is out of range.
pub(crate) fn rfc3339(at: Option<Timestamp>) -> String {
    system_time(at).map_or("-".into(), |at| format_rfc3339_seconds(at).to_string())
}

/// Returns a time in UTC, in milliseconds; `-` if there is none, or it is out of range.
pub(crate) fn rfc3339_millis(at: Option<Timestamp>) -> String {
    system_time(at).map_or("-".into(), |at| format_rfc3339_millis(at).to_string())
}

fn system_time(at: Option<Timestamp>) -> Option<SystemTime> {
    // humantime panics beyond the year 9999, and a producer may set any timestamp.
    const MAX_MS: u64 = 253_402_300_799_000;
    let ms = u64::try_from(at?.0).ok().filter(|ms| *ms <= MAX_MS)?;
    Some(UNIX_EPOCH + Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shown_in_utc() {
        assert_eq!(
            rfc3339(Some(Timestamp(1_772_352_000_500))),
            "2026-03-01T08:00:00Z"
        );
        assert_eq!(
            rfc3339_millis(Some(Timestamp(1_772_352_000_500))),
            "2026-03-01T08:00:00.500Z"
        );
        assert_eq!(rfc3339(Some(Timestamp(i64::MAX))), "-");
    }
}
