//! What happens: orders come in, programs are killed, the API fails, and everything ends well, or not.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::check::findings;
use harness::cluster;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Label, Orders};
use harness::pipeline::Service;
use harness::process::instance_lifecycle::await_ready;
use harness::wait::{await_until, interrupted, pause};

use crate::report::Report;
use crate::screen::{Numbers, Screen, Totals};
use crate::setup::{READY_MAX, Stage};
use crate::{Arguments, report};

/// The orders are spread over about this time, so that the kills fall in the midst of them.
const FEED_SECONDS: u64 = 25;
/// How long a killed program stays dead.
const DEAD_FOR: Duration = Duration::from_secs(1);
/// How long the API stays down.
const OUTAGE: Duration = Duration::from_secs(3);
/// How long the last order may take from its arrival to its final state.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Something that goes wrong when this share of the orders was sent.
struct Event {
    at_percent: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    KillValidator(usize),
    KillCaller(usize),
    ApiDown,
}

const EVENTS: [Event; 5] = [
    Event {
        at_percent: 15,
        what: What::KillValidator(0),
    },
    Event {
        at_percent: 35,
        what: What::KillCaller(0),
    },
    Event {
        at_percent: 50,
        what: What::ApiDown,
    },
    Event {
        at_percent: 65,
        what: What::KillValidator(1),
    },
    Event {
        at_percent: 80,
        what: What::KillCaller(1),
    },
];

/// Tells the story. `true`: every guarantee was held.
pub(crate) fn tell(arguments: &Arguments, orders: Orders, count: u64) -> Result<bool> {
    let started = Instant::now();
    eprintln!("creating topics, starting the stand-in API, two validators and two callers ...");
    let mut stage = Stage::set(arguments.partitions, arguments.seed)?;
    eprintln!("{}", report::opening(arguments, &stage, count));

    let mut screen = Screen::new(Totals {
        sent: count,
        distinct: distinct(&orders, count),
    });
    let feed = Feed::start(Plan {
        kafka: stage.pipeline.kafka.clone(),
        topic: stage.pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: orders.clone(),
        count,
        per_second: Some((count / FEED_SECONDS).max(200)),
    });
    for event in &EVENTS {
        await_sent(&mut stage, &feed, &mut screen, count * event.at_percent / 100)?;
        play(&mut stage, &feed, &mut screen, event.what)?;
    }
    await_sent(&mut stage, &feed, &mut screen, count)?;
    let sent = feed.finish()?;
    screen.event(&format!(
        "all {sent} orders are sent; waiting until each call has its outcome"
    ));
    let settled = settle(&mut stage, &mut screen, sent);
    screen.finish();
    if let Err(error) = &settled {
        // Not the end: the checkers say what is missing.
        eprintln!("error: {error:#}");
    }

    if !arguments.keep {
        eprintln!("stopping the programs (SIGTERM: each finishes what is in flight) ...");
        stage.stop()?;
    }
    eprintln!("reading the topics with read_committed, and asking the API what it saw ...");
    let report = Report {
        stage_one: findings::stage_one(&stage.pipeline, &orders, sent)?,
        stage_two: findings::stage_two(&stage.pipeline, &stage.api, &stage.caller_interruptions())?,
        settled: settled.is_ok(),
        took: started.elapsed(),
    };
    println!("{report}");
    let held = report.held();
    if arguments.keep {
        stage.pipeline.keep();
        println!("{}", report::try_next(&stage));
        await_interrupt();
    } else if held {
        stage.pipeline.passed();
    } else {
        stage.pipeline.keep();
        eprintln!(
            "logs, state and settings are kept in {}",
            stage.pipeline.folder().display()
        );
    }
    Ok(held)
}

/// How many of the orders are valid and have distinct keys, to know how far the bars go.
fn distinct(orders: &Orders, count: u64) -> u64 {
    let keys: HashSet<String> = (0..count)
        .filter_map(|number| match orders.record(number).label {
            Label::Order(key) => Some(key),
            Label::Refused(_) => None,
        })
        .collect();
    keys.len() as u64
}

fn await_sent(stage: &mut Stage, feed: &Feed, screen: &mut Screen, count: u64) -> Result<()> {
    let what = format!("{count} orders are sent");
    await_until(&what, Duration::from_secs(1800), || {
        show(stage, feed.acknowledged(), screen);
        for service in stage.services() {
            service.expect_running()?;
        }
        let acknowledged = feed.acknowledged();
        ensure!(
            acknowledged >= count || !feed.is_done() || interrupted(),
            "sending stopped after {acknowledged} of {count} orders"
        );
        Ok(if acknowledged >= count {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{acknowledged} orders"))
        })
    })
}

fn play(stage: &mut Stage, feed: &Feed, screen: &mut Screen, what: What) -> Result<()> {
    match what {
        What::ApiDown => {
            stage.api.go_down(OUTAGE)?;
            screen.event(&format!("the API goes down for {} s", OUTAGE.as_secs()));
            Ok(())
        }
        What::KillValidator(index) => {
            kill_and_restart(&mut stage.validators[index], screen)?;
            show(stage, feed.acknowledged(), screen);
            Ok(())
        }
        What::KillCaller(index) => {
            kill_and_restart(&mut stage.callers[index], screen)?;
            show(stage, feed.acknowledged(), screen);
            Ok(())
        }
    }
}

fn kill_and_restart(service: &mut Service, screen: &Screen) -> Result<()> {
    let name = service.process.name().to_owned();
    service.process.kill()?;
    screen.event(&format!("kill -9 {name}"));
    pause(DEAD_FOR)?;
    let restarted = Instant::now();
    service.process.start()?;
    await_ready(service, READY_MAX)?;
    screen.event(&format!(
        "{name} is back, ready {:.1} s after its start",
        restarted.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Until each order has its verdict and each pending call its outcome.
fn settle(stage: &mut Stage, screen: &mut Screen, sent: u64) -> Result<()> {
    let limit = Instant::now() + SETTLE_MAX;
    let left = || limit.saturating_duration_since(Instant::now());
    await_until("each order has its verdict", left(), || {
        show(stage, sent, screen);
        let lag = cluster::lag(
            &stage.pipeline.kafka,
            &stage.pipeline.validator_group,
            &stage.pipeline.topics.orders,
        )?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders without one")),
        })
    })?;
    // Read to its proved end: from here on nothing is added.
    let pending = findings::pending_keys(&stage.pipeline)?;
    await_until("each pending call has its outcome", left(), || {
        show(stage, sent, screen);
        let ended = stage.calls_final();
        Ok(if ended >= pending {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{ended} of {pending} have one"))
        })
    })
}

fn show(stage: &Stage, sent: u64, screen: &mut Screen) {
    screen.show(Numbers {
        sent,
        pending: stage.tail.keys(&stage.pipeline.topics.pending),
        ended: stage.calls_final(),
        in_flight: stage.api.stats().map_or(0, |stats| stats.in_progress),
    });
}

fn await_interrupt() {
    while pause(Duration::from_secs(3600)).is_ok() {}
}
