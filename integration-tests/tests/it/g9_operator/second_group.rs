//! G4, G6, G9: a second group of callers, with an API of its own, calls each order of the outbox once, and so does
//! the first.
//!
//! Set-up: orders pass the validator, and the first group's callers call them while their API fails the first requests
//! of some orders, so that they defer these calls. Then the second group is begun at the start of the same outbox,
//! and the API of its callers fails in the same way. More orders come, and both groups defer calls.
//!
//! Must hold: each API has charged each order exactly once, each group has an outcome for each order, and neither makes
//! a call of the other's copies (`guard-copy-group`). The topics of the first group do not recover the second one
//! (`guard-recovered-group`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;
use legacy_api::Decision;
use records::Topics;
use records::outcome::Outcome;

use crate::assertions::{LIMIT, await_outbox, counter};
use crate::{run, seed};

const PARTITIONS: i32 = 2;
/// Batches of orders for each group, and orders of one batch on each partition. They come one after the other, because
/// a call is deferred only while others succeed.
const BATCHES: u32 = 12;
const BATCH: u32 = 15;
const PAUSE: Duration = Duration::from_millis(400);

/// Callers with an API and terminal topics of their own.
// The order of the fields is the order in which they are dropped: the API would otherwise outlive its callers.
struct Group {
    name: String,
    topics: Topics,
    caller: Service,
    api: Api,
}

impl Group {
    fn start(pipeline: &Pipeline, number: u32, name: &str, topics: &Topics, seed: u64) -> Result<Self> {
        let faults: Vec<String> =
            format!("--seed {seed} --latency 2ms --failing-orders 0.06 --failing-requests 25")
                .split(' ')
                .map(str::to_owned)
                .collect();
        let api = Api::start_as(&format!("legacy-api-{number}"), pipeline, &faults)?;
        let settings = pipeline
            .caller_settings(number, &api.url)
            .with("kafka.group_id", name)
            .with("topics", topics)
            // Fast retries, so that a call has failed often enough to be deferred within a second.
            .with("retry.backoff_initial", "50ms")
            .with("retry.backoff_max", "100ms")
            .with("retry.retry_after_max", "50ms")
            .with("deferral.defer_after", "1s");
        let mut caller = pipeline.service("caller", number, settings)?;
        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        Ok(Self {
            name: name.to_owned(),
            topics: topics.clone(),
            caller,
            api,
        })
    }

    fn deferred(&self) -> Result<u64> {
        counter(&self.caller, "outbox_calls_deferred_total")
    }

    fn skipped(&self) -> Result<u64> {
        counter(&self.caller, "outbox_calls_of_other_groups_total")
    }

    /// Returns the keys of the orders that have an outcome, which must name this group.
    fn accepted(&self, kafka: &str) -> Result<BTreeSet<String>> {
        read_topic(kafka, &self.topics.processed, Keep::Values)?
            .iter()
            .map(|record| {
                let outcome = Outcome::parse(record.value.as_deref().context("a value")?)?;
                ensure!(
                    outcome.group.as_ref() == Some(&self.name),
                    "an outcome of another group: {outcome:?}"
                );
                Ok(outcome.idempotency_key)
            })
            .collect()
    }

    /// Fails if the API has charged an order twice, and returns the number of orders that it has charged.
    fn charged(&self) -> Result<usize> {
        let mut charged: BTreeMap<String, u32> = BTreeMap::new();
        for request in self.api.requests()? {
            if request.decision == Some(Decision::Charged) {
                *charged.entry(request.order_id).or_default() += 1;
            }
        }
        let twice: Vec<_> = charged.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(
            twice.is_empty(),
            "the API of {} has charged {} orders more than once: {twice:?}",
            self.name,
            twice.len()
        );
        Ok(charged.len())
    }

    /// Waits until this number of orders have an outcome and are charged, and the copies of the other group are
    /// skipped. Fails at once if an order is charged twice.
    fn await_charged_once(&self, kafka: &str, count: usize, other: Option<&Self>) -> Result<()> {
        await_until(&format!("the calls of {} are final", self.name), LIMIT, || {
            let (accepted, charged) = (self.accepted(kafka)?.len(), self.charged()?);
            let copies = other.map_or(Ok(0), Self::deferred)?;
            let open = counter(&self.caller, "outbox_calls_open")?;
            let found = (accepted, charged, self.skipped()?, open);
            Ok(match found == (count, count, copies, 0) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!(
                    "(accepted, charged, skipped, open) are {found:?} of {count} orders and {copies} copies"
                )),
            })
        })
    }
}

/// Sends batches of orders, whose keys begin with this prefix.
fn feed(pipeline: &Pipeline, prefix: &str) -> Result<()> {
    for batch in 0..BATCHES {
        for partition in 0..PARTITIONS {
            let sent = orders(partition, &format!("{prefix}-{batch}-p{partition}"), BATCH);
            send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[test]
fn second_group_calls_each_order_once() {
    run(|| {
        let mut pipeline = Pipeline::create("second-group", PARTITIONS)?;
        let each = usize::try_from(BATCHES * BATCH)? * usize::try_from(PARTITIONS)?;
        let mut validator = pipeline.validator(1)?;
        validator.process.start()?;
        await_ready(&mut validator, LIMIT)?;
        let (one, topics) = (pipeline.caller_group.clone(), pipeline.topics.clone());
        pipeline.begin_caller_group(&one, "beginning")?;
        let mut first = Group::start(&pipeline, 1, &one, &topics, seed())?;
        feed(&pipeline, "a")?;
        await_outbox(&pipeline, each)?;
        first.await_charged_once(&pipeline.kafka, each, None)?;
        ensure!(first.deferred()? > 0, "the first group has deferred no call");

        let two = format!("{one}-2");
        let own = |topic: &str| format!("{topic}.2");
        let topics = Topics {
            processed: own(&topics.processed),
            call_dead_letters: own(&topics.call_dead_letters),
            parked: own(&topics.parked),
            ..topics
        };
        let refused = pipeline.recover_caller_group(&two);
        let refused = refused.err().context("it was recovered")?.to_string();
        ensure!(
            refused.contains("kafka.group_id was changed") && refused.contains(&one),
            "the second group was recovered from the outcomes of the first, or not for that reason: {refused}"
        );
        pipeline.create_topics_of_group(&topics)?;
        pipeline.begin_caller_group(&two, "beginning")?;
        // Other orders fail there.
        let mut second = Group::start(&pipeline, 2, &two, &topics, seed() + 1)?;
        feed(&pipeline, "b")?;
        await_outbox(&pipeline, 2 * each)?;
        // Twice the first: the copies of the second come while the first is being checked.
        for (group, other) in [(&first, &second), (&second, &first), (&first, &second)] {
            group.await_charged_once(&pipeline.kafka, 2 * each, Some(other))?;
        }
        for group in [&first, &second] {
            let (deferred, skipped) = (group.deferred()?, group.skipped()?);
            println!("{}: {deferred} deferred, {skipped} skipped", group.name);
            ensure!(
                deferred > 0 && skipped > 0,
                "{} has deferred or skipped no copy",
                group.name
            );
        }
        for service in [&mut validator, &mut first.caller, &mut second.caller] {
            service.process.terminate(LIMIT)?;
        }
        pipeline.passed();
        Ok(())
    });
}
