//! Times on the command line, as people write them.

use jiff::civil;
use jiff::tz::{AmbiguousOffset, TimeZone};
use records::Timestamp;

/// Accepted forms, for error messages.
const FORMS: &str = "expected `now`, a time ago (`30m ago`, `2h 15m ago`, `1day ago`), a time with its offset from \
                     UTC (`2026-11-23T02:00:00Z`, `2026-11-23 02:00+01:00`), or one in the local zone of this \
                     machine (`2026-11-23 02:00`, `2026-11-23T02:00:30`, `2026-11-23` for the beginning of that day, \
                     `02:00` for today)";

/// Parses a time. One without an offset from UTC is in the local zone of this machine: that of the environment
/// variable `TZ`, else of /etc/localtime, else UTC.
///
/// # Errors
/// The text is no time, or the local zone has no such time, or has it twice.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    parse(text, jiff::Timestamp::now(), &local_zone()?)
}

fn local_zone() -> Result<TimeZone, String> {
    match TimeZone::try_system() {
        Ok(zone) => Ok(zone),
        // As the C library does, in a container without /etc/localtime.
        Err(_) if std::env::var_os("TZ").is_none() => Ok(TimeZone::UTC),
        Err(error) => Err(format!(
            "the local zone is not known: {error}. Correct the environment variable TZ, or unset it"
        )),
    }
}

fn parse(text: &str, now: jiff::Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let at = parse_any(text.trim(), now, zone)?;
    // No record is that old: the year was mistyped.
    if at < jiff::Timestamp::UNIX_EPOCH {
        return Err(format!("this is before 1970: {FORMS}"));
    }
    Ok(Timestamp(at.as_millisecond()))
}

fn parse_any(text: &str, now: jiff::Timestamp, zone: &TimeZone) -> Result<jiff::Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(span) = text.strip_suffix("ago") {
        let span = humantime::parse_duration(span.trim()).map_err(|error| format!("{error}: {FORMS}"))?;
        return now
            .checked_sub(span)
            .map_err(|_| format!("this is too long ago: {FORMS}"));
    }
    // It has the form of a date: jiff also reads `20261123`, which is more likely something else.
    let has_date = text.as_bytes().get(4) == Some(&b'-');
    if has_date && let Ok(at) = text.parse() {
        return Ok(at);
    }
    // jiff ignores a zone in brackets behind a local time.
    if text.contains('[') {
        return Err(FORMS.into());
    }
    let has_time = text.contains(':');
    let local: Option<civil::DateTime> = match (has_date, has_time) {
        (true, _) => text.parse().ok(),
        (false, true) => {
            let time: Option<civil::Time> = text.parse().ok();
            time.map(|time| zone.to_datetime(now).date().to_datetime(time))
        }
        (false, false) => None,
    };
    let local = local.ok_or(FORMS)?;
    let ambiguous = zone.to_ambiguous_timestamp(local);
    // The first moment of a day is clear, also of one whose midnight the clocks skip or have twice.
    let is_day = !has_time && local.time() == civil::Time::midnight();
    let repair = match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } if !is_day => "the local clocks skip this time",
        AmbiguousOffset::Fold { .. } if !is_day => "the local clocks show this time twice",
        _ => {
            let at = ambiguous.compatible();
            return at.map_err(|_| format!("this is no time that a record can have: {FORMS}"));
        }
    };
    Err(format!(
        "{repair}: write it with its offset from UTC, as `{local}+01:00`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2026-11-28T10:30:00Z.
    const NOW: i64 = 1_795_861_800;

    fn parse_in(zone: &str, text: &str) -> Result<String, String> {
        let now = jiff::Timestamp::from_second(NOW).expect("a time");
        let zone = TimeZone::posix(zone).expect("a zone");
        parse(text, now, &zone).map(|at| crate::timestamp::rfc3339(Some(at)))
    }

    fn in_berlin(text: &str) -> Result<String, String> {
        parse_in("CET-1CEST,M3.5.0,M10.5.0/3", text)
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("now", "2026-11-28T10:30:00Z"),
            ("30m ago", "2026-11-28T10:00:00Z"),
            ("2h 15m ago", "2026-11-28T08:15:00Z"),
            ("1day ago", "2026-11-27T10:30:00Z"),
            ("2026-11-23T02:00:00Z", "2026-11-23T02:00:00Z"),
            ("2026-11-23 02:00+05:30", "2026-11-22T20:30:00Z"),
            ("2026-11-23T02:00", "2026-11-23T01:00:00Z"),
            (" 2026-11-23 02:00:30 ", "2026-11-23T01:00:30Z"),
            ("2026-07-01 02:00", "2026-07-01T00:00:00Z"),
            ("2026-11-23", "2026-11-22T23:00:00Z"),
            ("02:00", "2026-11-28T01:00:00Z"),
            ("23:59:59", "2026-11-28T22:59:59Z"),
        ] {
            assert_eq!(in_berlin(text).as_deref(), Ok(expected), "{text}");
        }
        // Today is tomorrow already.
        let in_auckland = parse_in("NZST-12NZDT,M9.5.0,M4.1.0/3", "02:00");
        assert_eq!(in_auckland.as_deref(), Ok("2026-11-27T13:00:00Z"));
        let at = parse_time("2026-03-01T08:00:00.500Z");
        assert_eq!(at, Ok(Timestamp(1_772_352_000_500)));
    }

    #[test]
    fn time_that_the_clocks_skip_is_refused() {
        let error = in_berlin("2026-03-29 02:30").expect_err("skipped");
        assert!(
            error.contains("skip") && error.contains("2026-03-29T02:30"),
            "{error}"
        );
        assert_eq!(
            in_berlin("2026-03-29 03:00").as_deref(),
            Ok("2026-03-29T01:00:00Z")
        );
        // Midnight is skipped: the day begins at 01:00.
        let zone = "XST3XDT,M3.5.0/0,M10.5.0/0";
        assert_eq!(
            parse_in(zone, "2026-03-29").as_deref(),
            Ok("2026-03-29T03:00:00Z")
        );
        assert!(parse_in(zone, "2026-03-29 00:00").is_err());
    }

    #[test]
    fn time_that_the_clocks_show_twice_is_refused() {
        let error = in_berlin("2026-10-25T02:30").expect_err("twice");
        assert!(error.contains("twice"), "{error}");
        let with_offset = in_berlin("2026-10-25T02:30+01:00");
        assert_eq!(with_offset.as_deref(), Ok("2026-10-25T01:30:00Z"));
        assert_eq!(in_berlin("2026-10-25").as_deref(), Ok("2026-10-24T22:00:00Z"));
    }

    #[test]
    fn error_lists_the_accepted_forms() {
        for text in [
            "",
            "ago",
            "soon",
            "5",
            "30m",
            "5 parsecs ago",
            "9999999y ago",
            "20261123",
            "0200",
            "2026-13-01",
            "2026-11-23 25:00",
            "2026-11-23T02:00[America/New_York]",
            "23.11.2026 02:00",
            "1969-12-31T23:59:59Z",
            "-1-01-01",
            "２０２６-11-23",
        ] {
            let error = in_berlin(text).expect_err(text);
            assert!(error.contains("30m ago"), "{text}: {error}");
        }
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    const TOKENS: &[&str] = &[
        "now",
        "ago",
        " ",
        "-",
        ":",
        "T",
        "Z",
        "+01:00",
        "[Europe/Berlin]",
        "2026-03-29",
        "02:30",
        "9999",
        "h",
        "y",
        "18446744073709551615",
        ".",
        "24:00",
        "-009999",
        "\u{2212}",
    ];

    /// A time is read as one that a record can have, and means the same once it is written with its offset from UTC.
    #[test]
    fn time() {
        fuzzing::check!("time", TOKENS, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            let now = jiff::Timestamp::from_second(1_795_861_800).expect("a time");
            for zone in [
                "CET-1CEST,M3.5.0,M10.5.0/3",
                "NZST-12NZDT,M9.5.0,M4.1.0/3",
                "UTC0",
            ] {
                let zone = TimeZone::posix(zone).expect("a zone");
                let Ok(at) = parse(text, now, &zone) else { continue };
                assert!(at.0 >= 0, "{text} is before 1970");
                let written = jiff::Timestamp::from_millisecond(at.0).expect("a time");
                let again = parse(&written.to_string(), now, &TimeZone::UTC);
                assert_eq!(again, Ok(at), "{text} as {written}");
                let is_ago = text.trim().ends_with("ago");
                assert!(!is_ago || at.0 <= now.as_millisecond(), "{text} is {written}");
            }
        });
    }
}
