//! G2: a record that is no valid order becomes a dead letter with its reason and its own bytes, and the
//! partition goes on behind it.
//!
//! Set-up: one validator, and records that break parsers: tombstones, empty and binary values, 10 MB of
//! spaces or brackets, deep nesting, duplicate fields, numbers out of range, keys that do not match. A second
//! scenario lowers the outbox's `max.message.bytes` below the size of an order, before and after the
//! validator has read that setting; two records that their producer has compressed are larger than any topic takes. A third sets those of the outbox and the changelog far below
//! librdkafka's batches of 1 MB, with a backlog of small orders. A fourth runs the validator with a wrong pointer
//! to the idempotency key, which refuses everything.
//!
//! Must hold: the valid orders are in the outbox exactly once, and each other record is in the dead-letter
//! topic with the reason, the source and the bytes that it had, as far as that topic has room for them. With the wrong pointer few records become dead
//! letters, the validator says so, and with the right one it admits all others.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::cluster::{self, Administrator};
use harness::orders::manual::{InputRecord, order, orders, send, send_compressed};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, high_watermarks, read_topic};
use harness::wait::{await_until, pause};
use kafka::topics::CHANGELOG_CONFIGS;
use rdkafka::message::{Header, OwnedHeaders};
use records::dead_letter::{DETAIL, OMITTED, REASON, Reason, SOURCE};
use records::{Fingerprint, Partition};

use crate::assertions::{LIMIT, await_unready, await_verdicts, counter, expect_outbox};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);
/// `max.message.bytes` of the orders topic: more than the largest of the records, with its key.
const ORDER_BYTES_MAX: &str = "12000000";
const TEN_MB: usize = 10_000_000;
/// Number of orders in the backlog of small ones.
const SMALL_ORDERS: u32 = 30_000;

/// Returns records that are no valid orders, each with the reason for which it is refused.
fn poison_pills() -> Vec<(InputRecord, Reason)> {
    let record = |key: Option<&[u8]>, value: Option<Vec<u8>>| InputRecord {
        partition: Partition(0),
        key: key.map(<[u8]>::to_vec),
        value,
    };
    let order_with = |more: &str| {
        format!(r#"{{"order_id":"p","amount":1,"currency":"EUR","customer_id":"c"{more}}}"#).into_bytes()
    };
    let p = Some(&b"p"[..]);
    vec![
        (record(p, None), Reason::NotJson),
        (record(None, None), Reason::NotJson),
        (record(p, Some(Vec::new())), Reason::NotJson),
        (record(p, Some(vec![b' '; TEN_MB])), Reason::NotJson),
        // A parser that recurses for each bracket overflows its stack.
        (record(p, Some(vec![b'['; TEN_MB])), Reason::NotJson),
        (
            record(p, Some("{\"a\":".repeat(100_000).into_bytes())),
            Reason::NotJson,
        ),
        (
            record(p, Some(order_with(&format!(",\"deep\":{}", "[".repeat(200))))),
            Reason::NotJson,
        ),
        (
            record(p, Some(b"{\"order_id\":\"\xff\xfe\"}".to_vec())),
            Reason::NotJson,
        ),
        // A byte order mark.
        (record(p, Some(b"\xef\xbb\xbf{}".to_vec())), Reason::NotJson),
        (
            record(
                p,
                Some(br#"{"order_id":"p","amount":NaN,"currency":"EUR","customer_id":"c"}"#.to_vec()),
            ),
            Reason::NotJson,
        ),
        // Duplicate fields: the API might read the other one.
        (record(p, Some(order_with(r#","amount":2"#))), Reason::NotAnOrder),
        (
            record(p, Some(order_with(r#","order_id":"q""#))),
            Reason::NotAnOrder,
        ),
        (
            record(
                p,
                Some(br#"{"order_id":"p","amount":1e400,"currency":"EUR","customer_id":"c"}"#.to_vec()),
            ),
            Reason::NotAnOrder,
        ),
        (record(None, Some(order_with(""))), Reason::KeyMismatch),
        (
            record(Some(b"\xff\x00\xfe"), Some(order_with(""))),
            Reason::KeyMismatch,
        ),
        (
            record(Some(&[b'k'; 1_000_000]), Some(order_with(""))),
            Reason::KeyMismatch,
        ),
        (
            record(
                p,
                Some(br#"{"order_id":"a\u0000b","amount":1,"currency":"EUR","customer_id":"c"}"#.to_vec()),
            ),
            Reason::KeyInvalid,
        ),
    ]
}

#[test]
fn invalid_order_becomes_a_dead_letter() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("poison", 1)?;
        let topics = pipeline.topics.clone();
        let orders_topic = &topics.orders;
        Administrator::new(&pipeline.kafka)?.create_topic(
            orders_topic,
            1,
            &[("max.message.bytes", ORDER_BYTES_MAX)],
        )?;
        // Returns only when the brokers know the topic; `topics create` then leaves it as it is.
        high_watermarks(&pipeline.kafka, orders_topic)?;
        pipeline.create_topics()?;
        let poison = poison_pills();
        // Size alone makes no order invalid.
        let mut large = order(0, "large");
        let text = String::from_utf8(large.value.take().unwrap_or_default())?;
        large.value = Some(
            text.replace('}', &format!(r#","note":"{}"}}"#, "x".repeat(TEN_MB)))
                .into_bytes(),
        );
        let good = [order(0, "before"), large, order(0, "behind")];
        send(&pipeline.kafka, &topics.orders, &good[..2])?;
        let records: Vec<InputRecord> = poison.iter().map(|(record, _)| record.clone()).collect();
        send(&pipeline.kafka, &topics.orders, &records)?;
        send(&pipeline.kafka, &topics.orders, &good[2..])?;

        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&good])?;
        let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        ensure!(
            letters.len() == poison.len(),
            "{} dead letters for {} invalid records",
            letters.len(),
            poison.len()
        );
        // The first two records on the topic are valid orders.
        for ((record, reason), offset) in poison.iter().zip(2..) {
            let source = format!("{}/0@{offset}", topics.orders);
            let letter = letters
                .iter()
                .find(|letter| letter.header(SOURCE) == Some(&source))
                .ok_or_else(|| anyhow::anyhow!("no dead letter of {source}"))?;
            ensure!(
                letter.header(REASON) == Some(reason.as_str()),
                "the dead letter of {source} has the reason {:?}, expected {reason}; its detail: {:?}",
                letter.header(REASON),
                letter.header(DETAIL)
            );
            ensure!(
                letter.key == record.key
                    && letter.fingerprint == record.value.as_deref().map(Fingerprint::of),
                "the dead letter of {source} differs from it in key or value"
            );
        }
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn order_too_large_for_outbox_becomes_dead_letter() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("too-large", 1)?;
        let topics = pipeline.topics.clone();
        let administrator = Administrator::new(&pipeline.kafka)?;
        let outbox = &topics.pending;
        administrator.create_topic(outbox, 1, &[("max.message.bytes", "200000")])?;
        high_watermarks(&pipeline.kafka, outbox)?;
        pipeline.create_topics()?;
        let sized = |id: &str, bytes: usize| {
            let mut record = order(0, id);
            let text = String::from_utf8(record.value.take().unwrap_or_default()).unwrap_or_default();
            record.value = Some(
                text.replace('}', &format!(r#","note":"{}"}}"#, "x".repeat(bytes)))
                    .into_bytes(),
            );
            record
        };
        // Larger, once they are read, than any of the topics takes.
        let vast = [sized("vast", 3_000_000)];
        send_compressed(&pipeline.kafka, &topics.orders, &vast, OwnedHeaders::new())?;
        let headers = OwnedHeaders::new().insert(Header {
            key: "note",
            value: Some(&"x".repeat(3_000_000)),
        });
        send_compressed(
            &pipeline.kafka,
            &topics.orders,
            &[order(0, "vast-header")],
            headers,
        )?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        let fits = [sized("fits", 150_000), order(0, "small")];
        send(
            &pipeline.kafka,
            &topics.orders,
            &[fits[0].clone(), sized("large", 250_000), fits[1].clone()],
        )?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&fits])?;

        // The validator read the limit at its start. It learns the lower one from the broker's refusal: it
        // exits, and reads the limit again when it is restarted.
        administrator.configure_topic(&topics.pending, "max.message.bytes", "100000")?;
        send(
            &pipeline.kafka,
            &topics.orders,
            &[sized("refused", 150_000), order(0, "behind")],
        )?;
        await_until("each order has its verdict", LIMIT, || {
            // The part of the supervisor.
            if validator.process.try_wait()?.is_some() {
                validator.process.start()?;
            }
            let lag = cluster::lag(&pipeline.kafka, &pipeline.validator_group, &topics.orders)?;
            Ok(match lag {
                0 => ControlFlow::Break(()),
                lag => ControlFlow::Continue(format!("{lag} orders have none")),
            })
        })?;
        expect_outbox(&pipeline, &[&fits, &[order(0, "behind")]])?;
        let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        let found: Vec<_> = letters
            .iter()
            .map(|letter| {
                let key = letter.key.as_deref().map(String::from_utf8_lossy);
                let has_value = letter.fingerprint.is_some();
                (key, has_value, letter.header(REASON), letter.header(OMITTED))
            })
            .collect();
        let (large, reason) = (vast[0].value.as_deref().map_or(0, <[u8]>::len), Some("too-large"));
        let value = format!("value ({large} bytes)");
        let all = format!(
            "key, value and headers ({} bytes)",
            3_000_000
                + "note".len()
                + 10
                + "vast-header".len()
                + order(0, "vast-header").value.map_or(0, |value| value.len())
        );
        let expected = [
            (Some("vast".into()), false, reason, Some(&*value)),
            (None, false, reason, Some(&*all)),
            (Some("large".into()), true, reason, None),
            (Some("refused".into()), true, reason, None),
        ];
        ensure!(found == expected, "the dead letters are {found:?}");
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn backlog_passes_topics_that_take_small_batches() {
    run(|| {
        let mut pipeline = Pipeline::without_topics("small-batches", 1)?;
        let topics = pipeline.topics.clone();
        let administrator = Administrator::new(&pipeline.kafka)?;
        administrator.create_topic(&topics.pending, 1, &[("max.message.bytes", "100000")])?;
        let configs = [&CHANGELOG_CONFIGS[..], &[("max.message.bytes", "50000")]].concat();
        administrator.create_topic(&topics.changelog, 1, &configs)?;
        for topic in [&topics.pending, &topics.changelog] {
            high_watermarks(&pipeline.kafka, topic)?;
        }
        pipeline.create_topics()?;
        // Some 3 MB: each transaction has many times what the topics take in one batch.
        let orders = orders(0, "small", SMALL_ORDERS);
        send(&pipeline.kafka, &topics.orders, &orders)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&orders])?;
        ensure!(
            validator.process.try_wait()?.is_none(),
            "the validator has exited: a topic refused a batch"
        );
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn mass_refusal_pauses_the_partition() {
    /// Default of the validator's setting: refusals among the last records after which each one is a pause.
    const THRESHOLD: usize = 60;
    const PAUSE: Duration = Duration::from_secs(2);
    const PAUSED_FOR: Duration = Duration::from_secs(9);
    run(|| {
        let mut pipeline = Pipeline::create("mass-refusal", 1)?;
        let topics = pipeline.topics.clone();
        let all = orders(0, "o", 3_000);
        send(&pipeline.kafka, &topics.orders, &all)?;
        let wrong = pipeline
            .validator_settings(1)
            .with("validator.idempotency_key", "/payment_id")
            .with("refusals.pause", "2s");
        let mut validator = pipeline.service("validator", 1, wrong)?;
        validator.process.start()?;
        let reason = await_unready(
            &mut validator,
            &[
                "\"refusals\"",
                "partition 0 is paused",
                "key-missing",
                &topics.order_dead_letters,
            ],
        )?;
        println!("{reason}");
        let paused = Instant::now();
        pause(PAUSED_FOR)?;
        let still = await_unready(&mut validator, &["\"refusals\""])?;
        ensure!(still != reason, "no record was taken for {PAUSED_FOR:?}: {still}");
        let mass_refusals = counter(&validator, "outbox_mass_refusals_total")?;
        ensure!(mass_refusals == 1, "{mass_refusals} mass refusals are counted");
        validator.process.terminate(DRAIN_MAX)?;
        let pauses = usize::try_from(paused.elapsed().as_secs() / PAUSE.as_secs())?;
        let log = validator.process.log_since_start()?;
        ensure!(
            log.contains("most records are refused") && log.contains("operator action required"),
            "the log does not name the refusals"
        );
        let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        println!("{} dead letters after {pauses} pauses", letters.len());
        ensure!(
            (THRESHOLD + 1..=THRESHOLD + pauses + 1).contains(&letters.len()),
            "{} records became dead letters, expected {THRESHOLD} and one in each of {pauses} pauses",
            letters.len()
        );
        // With the right setting the others are admitted, and nothing is skipped or taken twice.
        let mut validator = pipeline.validator(2)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        await_verdicts(&pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        expect_outbox(&pipeline, &[&all[letters.len()..]])?;
        let after = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        ensure!(
            after.len() == letters.len(),
            "{} dead letters at the end",
            after.len()
        );
        pipeline.passed();
        Ok(())
    });
}
