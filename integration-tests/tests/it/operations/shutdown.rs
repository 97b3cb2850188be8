//! A program that is told to end ends, whatever it is about.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};

use crate::in_turn;

const START_MAX: Duration = Duration::from_secs(60);
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// From its first snapshots to the first assignment: SIGTERM comes a little later each time. Its last life
/// ended by `kill -9`, so that it has to come to terms with what is left of that.
fn check_ends_while_it_starts(mut service: Service) -> Result<()> {
    for after_ms in (0..1_200).step_by(150) {
        service.process.start()?;
        await_ready(&mut service, START_MAX)?;
        service.process.kill()?;
        service.process.start()?;
        await_until("signal handlers installed", START_MAX, || {
            let life = service.process.log_since_start()?;
            Ok(match life.contains("signal handlers installed") {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{} bytes of log", life.len())),
            })
        })?;
        pause(Duration::from_millis(after_ms))?;
        service
            .process
            .terminate(DRAIN_MAX)
            .with_context(|| format!("told to end {after_ms} ms after its start"))?;
    }
    Ok(())
}

#[test]
fn a_validator_that_is_told_to_end_while_it_starts_ends() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("short-validator", 4)?;
        check_ends_while_it_starts(pipeline.validator(1)?)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn a_caller_that_is_told_to_end_while_it_starts_ends() {
    in_turn(|| {
        let mut pipeline = Pipeline::create("short-caller", 4)?;
        check_ends_while_it_starts(pipeline.caller(1, "http://127.0.0.1:9/payments")?)?;
        pipeline.passed();
        Ok(())
    });
}
