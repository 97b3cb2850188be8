//! G3: a validator with standby stores takes over the partitions of a lost one without a long restore.
//!
//! Set-up: two partitions with 3,000 orders, and a validator that has admitted them. A second one with
//! `store.standby = "all"` joins and takes one partition; its standby store of the other has caught up. Then the first one
//! is killed and does not come back.
//!
//! Must hold: the second one processes both partitions after a restore that reads none of the orders before, and admits
//! no order twice. The stores, standby stores included, are equal to the changelog at the end.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::check::findings::expect_no_violations;
use harness::check::stores;
use harness::orders::manual::{orders, send};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::await_until;

use crate::assertions::{LIMIT, await_verdicts, counter, expect_outbox};
use crate::run;

const ORDERS: u32 = 1_500;
const RESTORED: &str = "outbox_restore_records_total";
const FOLLOWED: &str = "outbox_standby_records_total";
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Waits until the gauges of a validator have these values.
fn await_gauges(validator: &Service, what: &str, expected: &[(&str, u64)]) -> Result<()> {
    await_until(what, LIMIT, || {
        let values = expected
            .iter()
            .map(|(name, _)| counter(validator, name))
            .collect::<Result<Vec<_>>>()?;
        let is_reached = values
            .iter()
            .zip(expected)
            .all(|(value, (_, wanted))| value == wanted);
        Ok(if is_reached {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{values:?} of {expected:?}"))
        })
    })
}

#[test]
fn standby_takes_over_without_a_long_restore() {
    run(|| {
        let mut pipeline = Pipeline::create("standby", 2)?;
        let topic = pipeline.topics.orders.clone();
        let sent = [orders(0, "zero", ORDERS), orders(1, "one", ORDERS)].concat();
        send(&pipeline.kafka, &topic, &sent)?;
        let mut first = pipeline.validator(1)?;
        first.process.start()?;
        await_verdicts(&pipeline)?;
        let settings = pipeline.validator_settings(2).with("store.standby", "all");
        let mut second = pipeline.service("validator", 2, settings)?;
        second.process.start()?;
        await_ready(&mut second, LIMIT)?;
        await_gauges(
            &second,
            "the second validator to own one partition, and to follow the other",
            &[
                (r#"outbox_partitions{state="running"}"#, 1),
                ("outbox_standby_stores", 1),
                ("outbox_standby_lag_records", 0),
            ],
        )?;
        // Of both partitions if it was told of none at first; some twice if it was given one while it followed that.
        let (followed, restored) = (counter(&second, FOLLOWED)?, counter(&second, RESTORED)?);
        ensure!(
            followed >= ORDERS.into() && followed + restored >= 2 * u64::from(ORDERS),
            "{followed} records followed and {restored} restored of {ORDERS} of each partition"
        );

        first.process.kill()?;
        await_gauges(
            &second,
            "the second validator to own both partitions",
            &[
                (r#"outbox_partitions{state="running"}"#, 2),
                ("outbox_standby_stores", 0),
            ],
        )?;
        await_ready(&mut second, LIMIT)?;
        let restored = counter(&second, RESTORED)? - restored;
        ensure!(
            restored == 0,
            "{restored} records were read for a partition with a standby store"
        );
        let new = [orders(0, "new-zero", 20), orders(1, "new-one", 20)].concat();
        send(&pipeline.kafka, &topic, &[&sent[..], &new].concat())?;
        await_verdicts(&pipeline)?;
        expect_outbox(&pipeline, &[&sent, &new])?;

        // The first one comes back and takes a partition: the second one closes its store, and follows again.
        first.process.start()?;
        await_gauges(
            &second,
            "the second validator to follow a partition again",
            &[
                (r#"outbox_partitions{state="running"}"#, 1),
                ("outbox_standby_stores", 1),
                ("outbox_standby_lag_records", 0),
            ],
        )?;
        await_ready(&mut first, LIMIT)?;
        for validator in [&mut first, &mut second] {
            validator.process.terminate(DRAIN_MAX)?;
        }
        let changelog = read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Values)?;
        expect_no_violations(&stores::check(&changelog, &read_stores(&pipeline, &[1, 2])?))?;
        pipeline.passed();
        Ok(())
    });
}
