//! G4, G6: an API that answers as no server should takes down no caller, and decides about no other call.
//!
//! Set-up: one caller under `park`, and an API on a plain socket that has one answer for each call: bodies, headers and
//! interim responses that never end, lengths that lie, answers that are none. Between them are calls with plain
//! answers, and records of somebody who writes into the outbox himself, which are no calls.
//!
//! Must hold: each call has the final state that its answer proves, and no other: a status is a result, even if the rest
//! is lost, and without one the outcome is unknown. Each is sent as often as that allows. The calls with plain
//! answers have their outcome while answers without an end are still being read. The caller's memory stays bounded,
//! whatever the API writes. What is no call becomes a dead letter that says so, and never reaches the API.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::hostile_api::{Answer, HostileApi};
use harness::orders::manual::{InputRecord, send, send_with};
use harness::pipeline::Pipeline;
use harness::process::memory::peak_kib;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use rdkafka::message::{Header, OwnedHeaders};
use records::Partition;
use records::call_dead_letter::Reason;
use records::continuation::CONTINUES;
use records::dead_letter::REASON;

use super::fixture::DRAIN_MAX;
use crate::assertions::LIMIT;
use crate::run;

/// Longer than the plain calls take on a loaded machine: they must be done while others are still in flight.
const API_TIMEOUT: &str = "12s";
/// Number of calls with plain answers.
const PLAIN: usize = 40;
/// Peak memory of the caller: three times what it takes with an API that answers well.
const MEMORY_MAX_KIB: u64 = 120 * 1024;

/// Final state of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Accepted,
    Rejected,
    Parked,
}

/// Name, answer, final state and number of requests.
type Case = (&'static str, Answer, End, usize);

#[test]
fn hostile_api_decides_about_no_other_call() {
    run(|| {
        let cases = cases();
        let mut pipeline = Pipeline::create("hostile-api", 1)?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let answers = cases.iter().map(|(name, answer, _, _)| (*name, answer.clone()));
        let api = HostileApi::start(answers.collect())?;
        let settings = pipeline
            .caller_settings(1, &format!("{}/{{/case}}/{{order_id}}", api.url))
            .with("caller.on_ambiguous", "park")
            .with("api.timeout", API_TIMEOUT)
            // All of them at the same time, and no pause because most of them fail.
            .with("circuit_breaker.failure_threshold", 1_000)
            .with("caller.calls_in_flight_max", 256);
        let mut caller = pipeline.service("caller", 1, settings)?;
        // No validator is needed: what is in the outbox is called.
        let mut calls = Vec::new();
        for number in 0..PLAIN {
            calls.push(call("plain", &format!("plain-{number}")));
            if let Some((name, ..)) = cases.get(number) {
                calls.push(call(name, name));
            }
        }
        ensure!(calls.len() == PLAIN + cases.len(), "more cases than plain calls");
        let outbox = &pipeline.topics.pending;
        let strangers = no_calls();
        send(&pipeline.kafka, outbox, &strangers)?;
        for header in [None, Some("{}"), Some(r#"{"version":9}"#)] {
            let forged = OwnedHeaders::new().insert(Header {
                key: CONTINUES,
                value: header,
            });
            send_with(&pipeline.kafka, outbox, &[call("plain", "forged")], forged)?;
        }
        let no_calls = strangers.len() + 3;
        send(&pipeline.kafka, outbox, &calls)?;
        caller.process.start()?;

        let ends = |pipeline: &Pipeline| -> Result<BTreeMap<String, End>> {
            let topics = &pipeline.topics;
            let mut ends = BTreeMap::new();
            for (topic, end) in [
                (&topics.processed, End::Accepted),
                (&topics.call_dead_letters, End::Rejected),
                (&topics.parked, End::Parked),
            ] {
                for record in read_topic(&pipeline.kafka, topic, Keep::Fingerprints)? {
                    if record.header(REASON) == Some(Reason::NotAPendingCall.as_str()) {
                        continue;
                    }
                    let other = ends.insert(record.key_text(), end);
                    ensure!(other.is_none(), "{} has two final states", record.key_text());
                }
            }
            Ok(ends)
        };
        let endless = await_until("the plain calls have their outcome", LIMIT, || {
            // Before the outcomes: an answer that ends meanwhile was being written while they were made.
            let endless = api.endless_answers();
            let ends = ends(&pipeline)?;
            let done = ends.keys().filter(|key| key.starts_with("plain-")).count();
            Ok(match done {
                PLAIN => ControlFlow::Break(endless),
                _ => ControlFlow::Continue(format!("{done} of {PLAIN} have one")),
            })
        })?;
        ensure!(endless > 0, "no answer without an end was being read any more");
        let found = await_until("each call has its final state", LIMIT, || {
            let ends = ends(&pipeline)?;
            Ok(match ends.len() {
                all if all == calls.len() => ControlFlow::Break(ends),
                some => ControlFlow::Continue(format!("{some} of {} have one: {ends:?}", calls.len())),
            })
        })?;
        let peak = peak_kib(caller.process.id().context("the caller runs")?)?;
        let requests = api.requests();
        println!(
            "{} cases, {} bytes written by the API, peak memory of the caller {peak} KiB",
            cases.len(),
            api.bytes_written()
        );
        let mut wrong = Vec::new();
        for (name, _, end, count) in &cases {
            let seen = (found.get(*name).copied(), requests.get(*name).copied());
            if seen != (Some(*end), Some(*count)) {
                wrong.push(format!(
                    "{name}: {seen:?}, expected {end:?} after {count} requests"
                ));
            }
        }
        for (order, end) in &found {
            let is_once = requests.get(order) == Some(&1);
            if order.starts_with("plain-") && (*end != End::Accepted || !is_once) {
                wrong.push(format!(
                    "{order}: {end:?} after {:?} requests",
                    requests.get(order)
                ));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        let letters = read_topic(
            &pipeline.kafka,
            &pipeline.topics.call_dead_letters,
            Keep::Fingerprints,
        )?;
        let refused = letters
            .iter()
            .filter(|letter| letter.header(REASON) == Some(Reason::NotAPendingCall.as_str()));
        let (refused, called) = (refused.count(), requests.len());
        ensure!(
            refused == no_calls && called == calls.len(),
            "{refused} of {no_calls} records that are no calls are dead letters, and {called} orders were called"
        );
        ensure!(
            peak <= MEMORY_MAX_KIB,
            "the caller took {peak} KiB, more than {MEMORY_MAX_KIB}"
        );
        caller.expect_running()?;
        caller.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

/// A pending call with this answer.
fn call(case: &str, id: &str) -> InputRecord {
    InputRecord {
        partition: Partition(0),
        key: Some(id.into()),
        value: Some(format!(r#"{{"order_id":"{id}","case":"{case}"}}"#).into_bytes()),
    }
}

/// Records that no validator writes.
fn no_calls() -> Vec<InputRecord> {
    let with_key = |key: Option<&[u8]>| InputRecord {
        key: key.map(<[u8]>::to_vec),
        ..call("plain", "stranger")
    };
    let with_value = |value: Option<&[u8]>| InputRecord {
        value: value.map(<[u8]>::to_vec),
        ..call("plain", "stranger")
    };
    vec![
        with_key(None),
        with_key(Some(b"")),
        with_key(Some(b"\xff\xfe")),
        with_key(Some(b"a\r\nx: y")),
        with_key(Some(&[b'k'; 900_000])),
        with_value(None),
        with_value(Some(b"")),
        with_value(Some(br#"{"order_id":"a","order_id":"b","case":"plain"}"#)),
    ]
}

fn cases() -> Vec<Case> {
    use Answer::{Close, KeepOpen};
    use End::{Accepted, Parked, Rejected};
    let text = |text: &str| text.as_bytes().to_vec();
    let plain = || KeepOpen(text("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"));
    let accepted = "HTTP/1.1 201 Created\r\n";
    let endless = |start: &str, piece: &[u8], pause_ms: u64| Answer::Endless {
        start: text(start),
        piece: piece.to_vec(),
        pause: Duration::from_millis(pause_ms),
    };
    let with = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    let megabyte = vec![b'x'; 1024 * 1024];
    let chunk = with(
        "100000\r\n",
        &with(std::str::from_utf8(&megabyte).unwrap_or_default(), b"\r\n"),
    );
    let refused = "HTTP/1.1 422 No\r\ncontent-length: 2\r\n\r\nno";
    vec![
        ("plain", plain(), Accepted, 1),
        // Bodies: the status has arrived, and counts.
        (
            "slow-body",
            endless(&format!("{accepted}content-length: 1000000\r\n\r\n"), b"x", 50),
            Accepted,
            1,
        ),
        (
            "endless-body",
            endless(
                &format!("{accepted}transfer-encoding: chunked\r\n\r\n"),
                &chunk,
                0,
            ),
            Accepted,
            1,
        ),
        (
            "terabyte",
            endless(
                &format!("{accepted}content-length: 1099511627776\r\n\r\n"),
                &megabyte,
                0,
            ),
            Accepted,
            1,
        ),
        (
            "until-closed",
            endless("HTTP/1.0 200 OK\r\n\r\n", &megabyte, 0),
            Accepted,
            1,
        ),
        (
            "slow-refusal",
            endless("HTTP/1.1 422 No\r\ncontent-length: 1000000\r\n\r\n", b"x", 50),
            Rejected,
            1,
        ),
        (
            "endless-error",
            endless("HTTP/1.1 500 No\r\n\r\n", &megabyte, 0),
            Parked,
            1,
        ),
        (
            "chunk-of-everything",
            Close(text(&format!(
                "{accepted}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx"
            ))),
            Accepted,
            1,
        ),
        (
            "endless-chunk-extension",
            endless(
                &format!("{accepted}transfer-encoding: chunked\r\n\r\n1;"),
                &megabyte,
                0,
            ),
            Accepted,
            1,
        ),
        (
            "endless-trailers",
            endless(
                &format!("{accepted}transfer-encoding: chunked\r\n\r\n0\r\n"),
                b"x: y\r\n",
                0,
            ),
            Accepted,
            1,
        ),
        ("gzip", KeepOpen(gzip_bomb()), Accepted, 1),
        // Lengths that lie.
        (
            "too-short",
            Close(text(&format!("{accepted}content-length: 100\r\n\r\nshort"))),
            Accepted,
            1,
        ),
        (
            "too-long",
            KeepOpen(text(&format!("{accepted}content-length: 2\r\n\r\n{{}} and more"))),
            Accepted,
            1,
        ),
        (
            "two-answers",
            KeepOpen(text(&format!("{accepted}content-length: 2\r\n\r\n{{}}{refused}"))),
            Accepted,
            1,
        ),
        (
            "refused-and-accepted",
            KeepOpen(text(&format!("{refused}{accepted}content-length: 2\r\n\r\n{{}}"))),
            Rejected,
            1,
        ),
        (
            "two-lengths",
            Close(text(&format!(
                "{accepted}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"
            ))),
            Parked,
            1,
        ),
        (
            "negative-length",
            Close(text(&format!("{accepted}content-length: -1\r\n\r\n{{}}"))),
            Parked,
            1,
        ),
        (
            "huge-length",
            Close(text(&format!(
                "{accepted}content-length: 99999999999999999999\r\n\r\n{{}}"
            ))),
            Parked,
            1,
        ),
        // Heads: without a whole one there is no status.
        ("slow-head", endless(accepted, b"x", 50), Parked, 1),
        ("endless-head", endless(accepted, b"x: y\r\n", 0), Parked, 1),
        (
            "endless-header",
            endless(&format!("{accepted}x: "), &megabyte, 0),
            Parked,
            1,
        ),
        (
            "many-headers",
            Close(text(&format!("{accepted}{}\r\n", "x: y\r\n".repeat(10_000)))),
            Parked,
            1,
        ),
        (
            "huge-header",
            Close(with(&format!("{accepted}x: "), &megabyte.repeat(10))),
            Parked,
            1,
        ),
        ("half-status", Close(text("HTTP/1.1 20")), Parked, 1),
        ("no-status", Close(text("HTTP/1.1 OK\r\n\r\n")), Parked, 1),
        (
            "status-99",
            Close(text("HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n")),
            Parked,
            1,
        ),
        (
            "status-999",
            Close(text("HTTP/1.1 999 High\r\ncontent-length: 0\r\n\r\n")),
            Parked,
            1,
        ),
        // Interim responses.
        (
            "interim-flood",
            KeepOpen(text(&format!(
                "{}{accepted}content-length: 2\r\n\r\n{{}}",
                "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(10_000)
            ))),
            Accepted,
            1,
        ),
        (
            "endless-interim",
            endless("", b"HTTP/1.1 100 Continue\r\n\r\n", 0),
            Parked,
            1,
        ),
        (
            "upgrade",
            Close(text(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            )),
            Parked,
            1,
        ),
        // No answers.
        ("nothing", Close(Vec::new()), Parked, 1),
        (
            "other-protocol",
            Close(text("SSH-2.0-OpenSSH_9.2\r\n")),
            Parked,
            1,
        ),
        (
            "tls-alert",
            Close(b"\x15\x03\x01\x00\x02\x02\x46".to_vec()),
            Parked,
            1,
        ),
        ("zeros", Close(vec![0; 100_000]), Parked, 1),
        // What a client could follow or repeat.
        (
            "redirect-loop",
            KeepOpen(text(
                "HTTP/1.1 307 Again\r\nlocation: /redirect-loop/redirect-loop\r\ncontent-length: 0\r\n\r\n",
            )),
            Parked,
            1,
        ),
        (
            "unauthorized",
            Answer::First(
                Box::new(KeepOpen(text(
                    "HTTP/1.1 401 Who\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
                ))),
                Box::new(plain()),
            ),
            Accepted,
            2,
        ),
        (
            "busy-since-ever",
            Answer::First(
                Box::new(KeepOpen(text(
                    "HTTP/1.1 429 Busy\r\nretry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 0\r\n\r\n",
                ))),
                Box::new(plain()),
            ),
            Accepted,
            2,
        ),
    ]
}

/// A response of 65 KB whose body would be 10 MB if it were decompressed.
fn gzip_bomb() -> Vec<u8> {
    const REPEATS: usize = 40_000;
    // One deflate block with fixed codes (RFC 1951, section 3.2.6): a zero, matches of 258 bytes at a distance of 1, and
    // the end of the block.
    let bits = format!(
        "110{}{}{}",
        "00110000",
        "1100010100000".repeat(REPEATS),
        "0000000"
    );
    let bytes = bits.as_bytes().chunks(8).map(|bits| {
        let ones = bits.iter().enumerate().filter(|(_, bit)| **bit == b'1');
        ones.fold(0_u8, |byte, (at, _)| byte | 1 << at)
    });
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    body.extend(bytes);
    let inflated = vec![0; 1 + 258 * REPEATS];
    body.extend(crc32fast::hash(&inflated).to_le_bytes());
    body.extend(u32::try_from(inflated.len()).unwrap_or(u32::MAX).to_le_bytes());
    let head = format!(
        "HTTP/1.1 201 Created\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}
