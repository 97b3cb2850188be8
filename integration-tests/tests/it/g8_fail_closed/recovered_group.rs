//! G6, G8: a callers' group that has lost its offsets is recovered from the topics, and no order is charged
//! twice.
//!
//! Set-up: a caller under `park`, and an API that often loses responses. After some 260 calls the caller is
//! killed with requests in flight and more calls waiting in the outbox. The group is deleted. The caller is
//! started again and halts; then `outbox group recover --yes` is run, and the caller goes on.
//!
//! Must hold: the command refuses while the caller is in the group, and once nothing is missing. After it,
//! each call gets its final state, and the API's own record has each order at most once.

use anyhow::{Result, ensure};
use harness::api;
use harness::check::at_most_once::Policy;
use harness::cluster::Administrator;
use harness::process::instance_lifecycle::await_ready;

use crate::assertions::{LIMIT, await_unready};
use crate::g4_g7_calls::fixture::{API_LATENCY, DRAIN_MAX, Fixture};
use crate::g8_fail_closed::halted_partitions::retry_until_accepted;
use crate::{run, seed};

const PARTITIONS: i32 = 2;
const ORDERS: u64 = 500;
/// Number of calls with an outcome before the caller is killed.
const CALLED: u64 = 260;

fn recover(fixture: &Fixture) -> Result<String> {
    fixture
        .pipeline
        .recover_caller_group(&fixture.pipeline.caller_group)
}

#[test]
fn recovered_group_charges_no_order_twice() {
    run(|| {
        let seed = seed();
        let fixture = Fixture::start(
            "group-recovered",
            PARTITIONS,
            seed,
            &api::many_faults(seed, API_LATENCY),
        )?;
        let settings = fixture
            .pipeline
            .caller_settings(1, &fixture.api.url)
            .with("caller.on_ambiguous", Policy::Park.as_str())
            // More calls wait in the outbox than are in flight.
            .with("caller.calls_in_flight_max", 16);
        let mut caller = fixture.caller(1, settings)?;
        let sent = fixture.feed(ORDERS, None).finish()?;
        fixture.await_verdicts()?;
        caller.process.start()?;
        fixture.await_outcomes(|| Ok(CALLED))?;
        caller.process.kill()?;
        let group = fixture.pipeline.caller_group.clone();
        let administrator = Administrator::new(&fixture.pipeline.kafka)?;
        // Kafka deletes it only when the killed caller's session has expired.
        retry_until_accepted("the group is deleted", || administrator.delete_group(&group))?;

        caller.process.start()?;
        await_unready(
            &mut caller,
            &[&group, "no committed offset", "outbox group recover --group"],
        )?;
        ensure!(
            recover(&fixture).is_err(),
            "`outbox group recover` did not refuse a group with a member"
        );
        caller.process.terminate(DRAIN_MAX)?;
        // Refused until the group has noticed that the caller left.
        let output = retry_until_accepted("the group is recovered", || recover(&fixture))?;
        println!("{output}");
        ensure!(
            output.contains("calls are ambiguous"),
            "the command does not say that calls are ambiguous:\n{output}"
        );
        ensure!(
            recover(&fixture).is_err(),
            "`outbox group recover` did not refuse a group that has all its offsets"
        );

        caller.process.start()?;
        await_ready(&mut caller, LIMIT)?;
        let (counts, _) = fixture.finish(Policy::Park, &mut [caller], sent)?;
        ensure!(
            counts.parked > 0,
            "no call was parked, so none was ambiguous when the group was recovered"
        );
        Ok(())
    });
}
