use crate::control::Switch;
use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::pending::{self, Admission};
use crate::resubmission::Resubmission;
use crate::settlement::Settlement;
use crate::{CallNote, Continuation, Entry, IdempotencyKey, Offset, Position, TopicsNote};

/// A value of the changelog is read as what was written, or not at all.
#[test]
fn changelog_entry() {
    fuzzing::check!("changelog_entry", &[], |bytes| {
        if let Ok(entry) = Entry::decode(bytes) {
            assert_eq!(&*entry.encode(), bytes, "two encodings of one entry");
        }
    });
}

/// A call note names no offset that its text does not have, below none that was committed.
#[test]
fn call_note() {
    fuzzing::check!(
        "call_note",
        &[
            "1:",
            "2:",
            ":",
            "r",
            "b",
            "AA",
            "_____w",
            "AAAAAAAAAAAAAAAAAAAAAA"
        ],
        |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            for base in [Offset(0), Offset(1_042), Offset(i64::MAX - 20), Offset(i64::MAX)] {
                let Ok(note) = CallNote::decode(base, text) else {
                    continue;
                };
                for set in [&note.finals, &note.intents] {
                    let runs: Vec<_> = set.runs().collect();
                    assert!(runs.len() <= text.len() * 8, "more runs than bits");
                    assert!(
                        runs.iter().all(|(from, until)| *from >= base && from < until),
                        "{runs:?}"
                    );
                    assert!(
                        runs.windows(2).all(|pair| pair[0].1 < pair[1].0),
                        "runs overlap: {runs:?}"
                    );
                }
                let again = note.encode(base).expect("not longer than it was");
                assert!(again.len() <= text.len(), "{again} is longer than {text}");
                assert_eq!(CallNote::decode(base, &again), Ok(note), "{again}");
            }
        }
    );
}

/// A note of the validators is read as what was written.
#[test]
fn topics_note() {
    fuzzing::check!(
        "topics_note",
        &["1:", "2:", ":", "-1", "9223372036854775808", "+"],
        |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            if let Ok(Some(note)) = TopicsNote::decode(text) {
                let again = note.encode();
                assert!(again.len() <= 133, "{} bytes", again.len());
                assert_eq!(TopicsNote::decode(&again), Ok(Some(note)), "{again}");
            }
        }
    );
}

/// A value in JSON is read as what was written, of its own version only.
#[test]
fn json_records() {
    const TOKENS: &[&str] = &[
        "null",
        "0",
        "-1",
        "\"version\":1",
        "\"version\":2",
        "1e3",
        "65536",
        "4294967296",
        "9223372036854775808",
        "\"attempts\":",
        "\"group\":",
        "\"at\":",
    ];
    macro_rules! round_trip {
        ($record:ty, $bytes:expr) => {
            if let Ok(record) = <$record>::parse($bytes) {
                let again = record.to_json();
                assert_eq!(
                    <$record>::parse(&again).ok(),
                    Some(record),
                    "{}",
                    String::from_utf8_lossy(&again)
                );
                // Fields of later versions that an outcome's readers ignore are not even checked to be UTF-8.
                if let Ok(json) = serde_json::from_slice::<serde_json::Value>($bytes) {
                    assert_eq!(json["version"], 1, "another version");
                }
            }
        };
    }
    fuzzing::check!("json_records", &[fuzzing::JSON, TOKENS].concat(), |bytes| {
        round_trip!(Continuation, bytes);
        round_trip!(Outcome, bytes);
        round_trip!(Settlement, bytes);
        round_trip!(Resubmission, bytes);
        round_trip!(Switch, bytes);
        round_trip!(Operation, bytes);
    });
}

/// The headers of an outbox record: a name and a value on each line.
#[test]
fn headers() {
    const TOKENS: &[&str] = &[
        "outbox-source",
        "outbox-admitted-at",
        "traceparent",
        "=",
        "\n",
        "/0@",
        "-1",
        "@",
    ];
    fuzzing::check!("headers", TOKENS, |bytes| {
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'=');
            let (name, value) = line.split_at(at.unwrap_or(line.len()));
            Some((std::str::from_utf8(name).ok()?, value.get(1..)))
        });
        let headers: Vec<_> = lines.collect();
        let trace = pending::trace_context(b"key", &headers);
        let is_own = headers.iter().any(|(name, _)| *name == pending::TRACEPARENT);
        if let (Some(trace), false) = (&trace, is_own) {
            let parts: Vec<&[u8]> = trace.split(|byte| *byte == b'-').collect();
            let is_hex = |part: &&[u8]| part.iter().all(|byte| b"0123456789abcdef".contains(byte));
            assert_eq!(
                parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
                [2, 32, 16, 2]
            );
            assert!(parts.iter().all(is_hex), "{}", String::from_utf8_lossy(trace));
            assert!(
                parts[2].iter().any(|digit| *digit != b'0'),
                "a parent id of zeros"
            );
        }
        if let Ok(admission) = Admission::read(&headers) {
            let (source, at) = (admission.source.to_string(), admission.at.to_string());
            let written = [
                (pending::SOURCE, Some(source.as_bytes())),
                (pending::ADMITTED_AT, Some(at.as_bytes())),
            ];
            assert_eq!(Admission::read(&written).ok(), Some(admission));
        }
    });
}

/// Keys and positions: what is written into headers, logs and command lines.
#[test]
fn key_and_position() {
    fuzzing::check!(
        "key_and_position",
        &["/", "@", "-", "+", "\u{85}", "\r\n", "é"],
        |bytes| {
            if let Ok(key) = IdempotencyKey::from_bytes(bytes) {
                assert_eq!(key.as_bytes(), bytes);
                assert!(
                    !bytes.is_empty() && !key.as_str().chars().any(char::is_control),
                    "{key}"
                );
            }
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            if let Ok(position) = text.parse::<Position>() {
                assert!(position.partition.0 >= 0 && position.offset.0 >= 0, "{position}");
                assert_eq!(position.to_string().parse::<Position>().ok(), Some(position));
            }
        }
    );
}
