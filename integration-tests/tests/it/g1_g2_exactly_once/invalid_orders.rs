//! G2: what is no valid order is a dead letter with its reason and its own bytes, whatever it is made of, and the
//! partition goes on behind it.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::ensure;
use harness::cluster::Administrator;
use harness::orders::manual::{InputRecord, order, send};
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, high_watermarks, read_topic};
use harness::wait::await_until;
use records::dead_letter::{DETAIL, REASON, Reason, SOURCE};
use records::{Fingerprint, Partition};

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::in_turn;

const DRAIN_MAX: Duration = Duration::from_secs(30);
/// More than the largest poison, with its key.
const ORDER_BYTES_MAX: &str = "12000000";
const TEN_MB: usize = 10_000_000;

fn poison() -> Vec<(InputRecord, Reason)> {
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
        (record(p, Some(b"\xef\xbb\xbf{}".to_vec())), Reason::NotJson),
        (
            record(
                p,
                Some(br#"{"order_id":"p","amount":NaN,"currency":"EUR","customer_id":"c"}"#.to_vec()),
            ),
            Reason::NotJson,
        ),
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
fn poison_becomes_a_dead_letter_with_its_own_bytes() {
    in_turn(|| {
        let mut pipeline = Pipeline::without_topics("poison", 1)?;
        let topics = pipeline.topics.clone();
        let created = &topics.orders;
        Administrator::new(&pipeline.kafka)?.create_topic(
            created,
            1,
            &[("max.message.bytes", ORDER_BYTES_MAX)],
        )?;
        high_watermarks(&pipeline.kafka, created)?;
        pipeline.create_topics()?;
        let poison = poison();
        // A large one that is an order is none.
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
        ensure!(letters.len() == poison.len(), "{} dead letters", letters.len());
        for ((record, reason), offset) in poison.iter().zip(2..) {
            let source = format!("{}/0@{offset}", topics.orders);
            let letter = letters
                .iter()
                .find(|letter| letter.header(SOURCE) == Some(&source))
                .ok_or_else(|| anyhow::anyhow!("no dead letter of {source}"))?;
            ensure!(
                letter.header(REASON) == Some(reason.as_str()),
                "{source} is {reason}, and its dead letter says {:?}: {:?}",
                letter.header(REASON),
                letter.header(DETAIL)
            );
            ensure!(
                letter.key == record.key
                    && letter.fingerprint == record.value.as_deref().map(Fingerprint::of),
                "the dead letter of {source} has not its bytes"
            );
        }
        pipeline.passed();
        Ok(())
    });
}

/// The outbox takes less than the orders topic, and less than the validator was told at its start: it ends, is
/// started again, and then knows.
#[test]
fn an_order_that_the_outbox_does_not_take_becomes_a_dead_letter() {
    in_turn(|| {
        let mut pipeline = Pipeline::without_topics("too-large", 1)?;
        let topics = pipeline.topics.clone();
        let administrator = Administrator::new(&pipeline.kafka)?;
        let created = &topics.pending;
        administrator.create_topic(created, 1, &[("max.message.bytes", "200000")])?;
        high_watermarks(&pipeline.kafka, created)?;
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

        administrator.configure_topic(&topics.pending, "max.message.bytes", "100000")?;
        send(
            &pipeline.kafka,
            &topics.orders,
            &[sized("refused", 150_000), order(0, "behind")],
        )?;
        // As a supervisor does.
        await_until("the partition goes on", LIMIT, || {
            if validator.process.try_wait()?.is_some() {
                validator.process.start()?;
            }
            let lag = harness::cluster::lag(&pipeline.kafka, &pipeline.validator_group, &topics.orders)?;
            Ok(match lag {
                0 => ControlFlow::Break(()),
                lag => ControlFlow::Continue(format!("{lag} orders without a verdict")),
            })
        })?;
        expect_outbox(&pipeline, &[&fits, &[order(0, "behind")]])?;
        let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        let told: Vec<_> = letters
            .iter()
            .map(|letter| (letter.key_text(), letter.header(REASON).unwrap_or_default()))
            .collect();
        ensure!(
            told == [
                ("large".to_owned(), "too-large"),
                ("refused".to_owned(), "too-large")
            ],
            "{told:?}"
        );
        validator.process.terminate(DRAIN_MAX)?;
        pipeline.passed();
        Ok(())
    });
}
