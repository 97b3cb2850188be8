//! Course of the demo: orders flow, each program is killed once, the APIs go down, and everything is checked.

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

use crate::report::{GroupReport, Report, grouped};
use crate::screen::{Progress, Screen, Totals};
use crate::setup::{READY_MAX, Setup};
use crate::{Arguments, report, try_next};

/// Approximate time over which the orders are spread, in seconds, so that the kills strike while orders flow.
const FEED_SECONDS: u64 = 25;
/// Minimum number of orders per second: a few orders are sent fast.
const ORDERS_PER_SECOND_MIN: u64 = 200;
/// Time between a kill and the restart.
const DOWNTIME: Duration = Duration::from_secs(1);
/// Duration of the outage of the APIs.
const OUTAGE: Duration = Duration::from_secs(3);
/// Timeout from the last order until all calls are final.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Timeout until a share of the orders is sent; ten million of them take a while.
const SEND_MAX: Duration = Duration::from_secs(1_800);

/// Fault that is injected when this share of the orders is sent.
struct Fault {
    at_percent: u64,
    kind: FaultKind,
}

#[derive(Clone, Copy)]
enum FaultKind {
    KillValidator(usize),
    /// This caller of each group.
    KillCallers(usize),
    /// All APIs at once.
    ApiOutage,
}

const FAULTS: [Fault; 5] = [
    Fault {
        at_percent: 15,
        kind: FaultKind::KillValidator(0),
    },
    Fault {
        at_percent: 35,
        kind: FaultKind::KillCallers(0),
    },
    Fault {
        at_percent: 50,
        kind: FaultKind::ApiOutage,
    },
    Fault {
        at_percent: 65,
        kind: FaultKind::KillValidator(1),
    },
    Fault {
        at_percent: 80,
        kind: FaultKind::KillCallers(1),
    },
];

/// Runs the demo, and returns true if every guarantee held.
pub(crate) fn run(arguments: &Arguments, orders: Orders, count: u64) -> Result<bool> {
    let started = Instant::now();
    eprintln!(
        "creating topics; starting two validators, and for each policy a stand-in API and two callers ..."
    );
    let mut setup = Setup::start(arguments.partitions, arguments.seed)?;
    eprintln!("{}", report::opening(arguments, &setup, count));

    // Computed from the orders, not from what the programs report.
    let mut screen = Screen::new(Totals {
        sent: count,
        distinct: distinct(&orders, count),
    });
    let feed = Feed::start(Plan {
        kafka: setup.pipeline.kafka.clone(),
        topic: setup.pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: orders.clone(),
        count,
        per_second: Some((count / FEED_SECONDS).max(ORDERS_PER_SECOND_MIN)),
    });
    for fault in &FAULTS {
        await_sent(&mut setup, &feed, &mut screen, count * fault.at_percent / 100)?;
        inject(&mut setup, &feed, &mut screen, fault.kind)?;
    }
    await_sent(&mut setup, &feed, &mut screen, count)?;
    let sent = feed.finish()?;
    screen.event(&format!(
        "all {} orders are sent; waiting until each call has its outcome",
        grouped(sent)
    ));
    let completed = await_completion(&mut setup, &mut screen, sent);
    screen.finish();
    if let Err(error) = &completed {
        // The demo goes on: the checkers name what is missing.
        eprintln!("error: {error:#}");
    }

    if !arguments.keep {
        eprintln!("stopping the programs with SIGTERM: each finishes what is in flight ...");
        setup.stop()?;
    }
    eprintln!("reading all topics with read_committed, and each API's record of its requests ...");
    let groups = setup.groups.iter().map(|group| {
        let (findings, kills) = group.findings(&setup.pipeline.kafka)?;
        Ok(GroupReport {
            policy: group.policy,
            findings,
            kills,
        })
    });
    let report = Report {
        // Checked from outside: no program is asked about its own work.
        stage_one: findings::stage_one(&setup.pipeline, &orders, sent)?,
        groups: groups.collect::<Result<_>>()?,
        completed: completed.is_ok(),
        took: started.elapsed(),
    };
    println!("{report}");
    let held = report.held();
    if arguments.keep {
        // Kept without being marked as failed: the user ends it with Ctrl-C.
        setup.pipeline.keep();
        println!("\n{}", try_next::while_running(&setup)?);
        await_interrupt();
        return Ok(held);
    }
    if held {
        setup.pipeline.passed();
    } else {
        setup.pipeline.keep();
        println!(
            "Logs, stores and settings are kept in {}",
            setup.pipeline.folder().display()
        );
    }
    println!("\n{}", try_next::after_the_end(arguments));
    Ok(held)
}

/// Returns the number of valid orders with distinct keys, which is the length of two bars.
fn distinct(orders: &Orders, count: u64) -> u64 {
    let keys: HashSet<String> = (0..count)
        .filter_map(|number| match orders.record(number).label {
            Label::Order(key) => Some(key),
            Label::Refused(_) => None,
        })
        .collect();
    keys.len() as u64
}

/// Waits until this number of orders is sent, and fails if a program exits meanwhile.
fn await_sent(setup: &mut Setup, feed: &Feed, screen: &mut Screen, count: u64) -> Result<()> {
    let what = format!("{count} orders are sent");
    await_until(&what, SEND_MAX, || {
        show(setup, feed.acknowledged(), screen);
        // A program that exits without a kill would leave the demo waiting.
        for service in setup.services() {
            service.expect_running()?;
        }
        let acknowledged = feed.acknowledged();
        // After Ctrl-C the feed ends too; then the wait itself reports the interruption.
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

fn inject(setup: &mut Setup, feed: &Feed, screen: &mut Screen, fault: FaultKind) -> Result<()> {
    match fault {
        FaultKind::ApiOutage => {
            for group in &setup.groups {
                group.api.go_down(OUTAGE)?;
            }
            screen.event(&format!("the APIs go down for {} s", OUTAGE.as_secs()));
            return Ok(());
        }
        FaultKind::KillValidator(index) => kill_and_restart(&mut [&mut setup.validators[index]], screen)?,
        FaultKind::KillCallers(index) => {
            let groups = setup.groups.iter_mut();
            let mut callers: Vec<&mut Service> = groups.map(|group| &mut group.callers[index]).collect();
            kill_and_restart(&mut callers, screen)?;
        }
    }
    show(setup, feed.acknowledged(), screen);
    Ok(())
}

/// Kills these programs at the same time, and restarts them.
fn kill_and_restart(services: &mut [&mut Service], screen: &Screen) -> Result<()> {
    for service in &mut *services {
        service.process.kill()?;
    }
    let names: Vec<&str> = services.iter().map(|service| service.process.name()).collect();
    let names = names.join(", ");
    screen.event(&format!("kill -9 of {names}"));
    pause(DOWNTIME)?;
    let restarted = Instant::now();
    for service in &mut *services {
        service.process.start()?;
    }
    for service in services {
        await_ready(service, READY_MAX)?;
    }
    screen.event(&format!(
        "ready again, {:.1} s after the restart: {names}",
        restarted.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Waits until each order has its verdict, and each pending call its outcome in each group.
fn await_completion(setup: &mut Setup, screen: &mut Screen, sent: u64) -> Result<()> {
    let limit = Instant::now() + SETTLE_MAX;
    let left = || limit.saturating_duration_since(Instant::now());
    await_until("each order has its verdict", left(), || {
        show(setup, sent, screen);
        let lag = cluster::lag(
            &setup.pipeline.kafka,
            &setup.pipeline.validator_group,
            &setup.pipeline.topics.orders,
        )?;
        Ok(match lag {
            0 => ControlFlow::Break(()),
            lag => ControlFlow::Continue(format!("{lag} orders have none")),
        })
    })?;
    // All verdicts are committed, so the number of pending calls is final.
    let pending = findings::pending_keys(&setup.pipeline)?;
    await_until("each pending call has its outcome", left(), || {
        show(setup, sent, screen);
        let fewest = setup.calls_final().into_iter().min().unwrap_or_default();
        Ok(if fewest >= pending {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{fewest} of {pending} have one in the slowest group"))
        })
    })
}

fn show(setup: &Setup, sent: u64, screen: &mut Screen) {
    screen.show(Progress {
        sent,
        pending: setup.tail.keys(&setup.pipeline.topics.pending),
        calls_final: setup.calls_final(),
        // A statistic for the eye: an API that does not respond for a moment is no reason to stop.
        in_flight: setup
            .groups
            .iter()
            .filter_map(|group| group.api.stats().ok())
            .map(|stats| stats.in_progress)
            .sum(),
    });
}

fn await_interrupt() {
    while pause(Duration::from_secs(3600)).is_ok() {}
}
