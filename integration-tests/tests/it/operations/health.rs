//! Health check: `PROGRAM health` asks the running program whether it is ready, as the images do.
//!
//! Set-up: a validator, then a caller. Each is asked before it starts, once it is ready, and after `kill -9`.
//!
//! Must hold: the exit status is 0 while the program is ready and 1 otherwise; the message has the address that was
//! asked and the answer.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::pipeline::{Pipeline, Service};
use harness::process::folder;
use harness::process::instance_lifecycle::await_ready;

use crate::run;

const START_MAX: Duration = Duration::from_secs(60);

fn check(program: &str, pipeline: &Pipeline, mut service: Service) -> Result<()> {
    let settings = pipeline.folder().join(format!("{program}-1.toml"));
    let ask = || -> Result<Output> {
        Command::new(folder()?.join(program))
            .arg("--config")
            .arg(&settings)
            .arg("health")
            .output()
            .with_context(|| format!("running {program} health"))
    };
    let url = format!("{}/readyz", service.admin);

    expect(&ask()?, 1, &[&url, "connecting failed", "admin.listen"])?;
    service.process.start()?;
    await_ready(&mut service, START_MAX)?;
    expect(&ask()?, 0, &[&url, "200 OK", r#""ready":true"#])?;
    service.process.kill()?;
    expect(&ask()?, 1, &[&url, "connecting failed"])
}

fn expect(output: &Output, status: i32, contains: &[&str]) -> Result<()> {
    // The answer on stdout, an error on stderr.
    let text = String::from_utf8_lossy(if status == 0 {
        &output.stdout
    } else {
        &output.stderr
    });
    ensure!(
        output.status.code() == Some(status),
        "exited with {}, expected {status}: {output:?}",
        output.status
    );
    for part in contains {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    Ok(())
}

#[test]
fn health_command_asks_the_running_program() {
    run(|| {
        let mut pipeline = Pipeline::create("health", 2)?;
        check("validator", &pipeline, pipeline.validator(1)?)?;
        check(
            "caller",
            &pipeline,
            pipeline.caller(1, "http://127.0.0.1:9/payments")?,
        )?;
        pipeline.passed();
        Ok(())
    });
}
