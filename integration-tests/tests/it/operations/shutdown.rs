//! Shutdown: a program that gets SIGTERM while it starts exits with status 0, whatever step it has reached.
//!
//! Set-up: a validator, then a caller. Each is killed, started again and sent SIGTERM, each time 150 ms later
//! in its start.
//!
//! Must hold: it exits with status 0 within 20 seconds each time.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::pipeline::{Pipeline, Service};
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, pause};

use crate::run;

const START_MAX: Duration = Duration::from_secs(60);
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Sends SIGTERM to a starting program, a little later each time, from the first signal handler to the first
/// assignment.
fn expect_shutdown_while_starting(mut service: Service) -> Result<()> {
    for after_ms in (0..1_200).step_by(150) {
        // After a kill the group and the coordinator still know the dead instance, which makes the start
        // slower.
        service.process.start()?;
        await_ready(&mut service, START_MAX)?;
        service.process.kill()?;
        service.process.start()?;
        await_until("signal handlers installed", START_MAX, || {
            let log = service.process.log_since_start()?;
            Ok(match log.contains("signal handlers installed") {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(format!("{} bytes of log", log.len())),
            })
        })?;
        pause(Duration::from_millis(after_ms))?;
        service
            .process
            .terminate(DRAIN_MAX)
            .with_context(|| format!("SIGTERM {after_ms} ms after the signal handler was installed"))?;
    }
    Ok(())
}

#[test]
fn validator_shuts_down_while_starting() {
    run(|| {
        let mut pipeline = Pipeline::create("short-validator", 4)?;
        expect_shutdown_while_starting(pipeline.validator(1)?)?;
        pipeline.passed();
        Ok(())
    });
}

#[test]
fn caller_shuts_down_while_starting() {
    run(|| {
        let mut pipeline = Pipeline::create("short-caller", 4)?;
        expect_shutdown_while_starting(pipeline.caller(1, "http://127.0.0.1:9/payments")?)?;
        pipeline.passed();
        Ok(())
    });
}
