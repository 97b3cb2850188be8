//! G1: a key is admitted once, whatever counts as the same order, and whatever counted when it was admitted.
//!
//! Set-up: one validator after the other, each with an empty store and another `validator.fingerprint`: order,
//! payload, order, a list of pointers, none. Each gets orders again that an earlier one has admitted: with the same
//! bytes, with a new timestamp, and with another amount.
//!
//! Must hold: the outbox has each order once. A record that is equal to the first one in what counted then is dropped
//! as a duplicate; any other is a dead letter that says whether the setting was changed.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::orders::manual::{InputRecord, order, send};
use harness::pipeline::Pipeline;
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use records::dead_letter::{DETAIL, REASON};
use serde::Serialize;

use crate::assertions::{LIMIT, await_verdicts, expect_outbox};
use crate::run;

const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Returns the order with another text in its value.
fn with(order: &InputRecord, from: &str, to: &str) -> Result<InputRecord> {
    let text = String::from_utf8(order.value.clone().unwrap_or_default())?;
    ensure!(text.contains(from), "{text} has no {from}");
    Ok(InputRecord {
        value: Some(text.replace(from, to).into_bytes()),
        ..order.clone()
    })
}

/// One validator's run under a setting of the fingerprint.
struct Run<'a> {
    pipeline: &'a Pipeline,
    number: u32,
    dead_letters: usize,
}

impl Run<'_> {
    /// Has the next validator decide on these records. It must write dead letters with these reasons and words in
    /// their details, in this order, and no others.
    fn decide(
        &mut self,
        fingerprint: impl Serialize,
        records: &[InputRecord],
        letters: &[(&str, &[&str])],
    ) -> Result<()> {
        let (pipeline, topics) = (self.pipeline, &self.pipeline.topics);
        self.number += 1;
        let settings = pipeline
            .validator_settings(self.number)
            .with("validator.fingerprint", fingerprint);
        let mut validator = pipeline.service("validator", self.number, settings)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        send(&pipeline.kafka, &topics.orders, records)?;
        await_verdicts(pipeline)?;
        validator.process.terminate(DRAIN_MAX)?;
        let all = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
        let new = &all[self.dead_letters..];
        self.dead_letters = all.len();
        let texts: Vec<_> = new
            .iter()
            .map(|letter| (letter.header(REASON), letter.header(DETAIL).unwrap_or_default()))
            .collect();
        println!("validator {}: {texts:?}", self.number);
        ensure!(
            texts.len() == letters.len(),
            "validator {} wrote {} dead letters, expected {letters:?}",
            self.number,
            texts.len()
        );
        for ((reason, detail), (expected, words)) in texts.iter().zip(letters) {
            ensure!(
                *reason == Some(expected) && words.iter().all(|word| detail.contains(word)),
                "validator {} wrote a dead letter with the reason {reason:?} and the detail {detail:?}, expected \
                 {expected} and {words:?}",
                self.number
            );
        }
        Ok(())
    }
}

#[test]
fn key_is_admitted_once_under_any_fingerprint() {
    run(|| {
        let mut pipeline = Pipeline::create("changed-fingerprint", 1)?;
        let sent_at =
            |name: &str, time: &str| with(&order(0, name), "}", &format!(r#","created_at":"{time}"}}"#));
        let amount = |order: &InputRecord| with(order, "1250", "1251");
        let (a, b, c) = (
            sent_at("a", "9:00")?,
            sent_at("b", "9:00")?,
            sent_at("c", "9:00")?,
        );
        let (a_again, b_again) = (sent_at("a", "9:05")?, sent_at("b", "9:05")?);
        let changed = "fingerprint-changed";
        let mut run = Run {
            pipeline: &pipeline,
            number: 0,
            dead_letters: 0,
        };
        run.decide(
            "order",
            &[a.clone(), a.clone(), a_again.clone(), amount(&a)?],
            &[("conflict", &["at offset 0", "by order"])],
        )?;
        // `a` is compared as an order, `b` by its bytes.
        run.decide(
            "payload",
            &[
                a.clone(),
                a_again.clone(),
                amount(&a)?,
                b.clone(),
                b.clone(),
                b_again.clone(),
            ],
            &[
                (changed, &["at offset 0", "was order", "is payload"]),
                ("conflict", &["by payload"]),
            ],
        )?;
        run.decide(
            "order",
            &[b.clone(), b_again.clone(), a_again.clone(), c.clone()],
            &[(changed, &["was payload", "is order"])],
        )?;
        // With this setting a timestamp is not compared, and what `b` had is known by its bytes only.
        run.decide(
            ["/created_at", "/amount"],
            &[
                a.clone(),
                amount(&a)?,
                b.clone(),
                b_again.clone(),
                order(0, "d"),
                order(0, "d"),
            ],
            &[
                (changed, &["was order", "is [\"/amount\", \"/created_at\"]"]),
                (changed, &["was payload"]),
            ],
        )?;
        run.decide(
            "none",
            &[amount(&a)?, b_again, amount(&c)?, amount(&order(0, "d"))?],
            &[],
        )?;
        run.decide(
            "order",
            &[order(0, "d"), a_again],
            &[(changed, &["was pointers", "nothing to compare"])],
        )?;
        expect_outbox(&pipeline, &[&[a, b, c, order(0, "d")]])?;
        pipeline.passed();
        Ok(())
    });
}
