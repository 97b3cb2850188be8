//! Position at which the operator begins a group.

use std::time::UNIX_EPOCH;

use humantime::parse_rfc3339_weak;
use records::Timestamp;

/// Position in the outbox at which a group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartPosition {
    /// First record that the outbox still has.
    Beginning,
    /// Behind the last record.
    End,
    /// First record with this timestamp or a later one.
    Time(Timestamp),
}

impl StartPosition {
    /// Parses `beginning`, `end`, or a time.
    ///
    /// # Errors
    /// The text is neither.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            time => parse_rfc3339_weak(time)
                .ok()
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .and_then(|since| i64::try_from(since.as_millis()).ok())
                .map(|ms| Self::Time(Timestamp(ms)))
                .ok_or_else(|| "expected `beginning`, `end`, or a time in UTC: 2026-03-01T08:00:00Z".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_is_a_word_or_a_time() {
        assert_eq!(StartPosition::parse("beginning"), Ok(StartPosition::Beginning));
        assert_eq!(StartPosition::parse("end"), Ok(StartPosition::End));
        let at = StartPosition::Time(Timestamp(1_772_352_000_500));
        assert_eq!(StartPosition::parse("2026-03-01T08:00:00.500Z"), Ok(at));
        for wrong in ["", "latest", "7", "2026-03-01", "1969-01-01T00:00:00Z"] {
            assert!(StartPosition::parse(wrong).is_err(), "{wrong}");
        }
    }
}
