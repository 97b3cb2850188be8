//! Course of a run: rounds of faults with a rolling restart after each, then a wait for all verdicts, and the
//! checks.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use harness::check::aborted::{self, AbortedReadCheck};
use harness::check::atomicity::{self, RecordSources};
use harness::check::findings;
use harness::check::{Violation, stores};
use harness::cluster;
use harness::cluster::three_brokers::ThreeBrokers;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::{Pipeline, SESSION_TIMEOUT};
use harness::read_back::stores::read_stores;
use harness::read_back::topics::{Keep, read_topic, read_topic_uncommitted};
use harness::wait::{await_until, pause};

use crate::aborted_orders::AbortedOrders;
use crate::observer::{Observed, Observers};
use crate::report::Report;
use crate::tally::{Incident, Tally};
use crate::validators::Validator;
use crate::{Arguments, brokers, plan};

/// Heap of each broker: three of them must fit beside the validators.
const BROKER_HEAP_MIB: u32 = 320;
/// Maximum time between two rolling restarts.
const ROUND_MAX: Duration = Duration::from_secs(75);
/// Minimum time left to begin a rolling restart.
const ROLL_MIN: Duration = Duration::from_secs(15);
/// Timeout from the last fault until each order has its verdict.
const SETTLE_MAX: Duration = Duration::from_secs(300);

/// Runs the scenario, and returns true if every guarantee held.
pub(crate) fn run(arguments: &Arguments, seed: u64) -> Result<bool> {
    let started = Instant::now();
    eprintln!("starting three brokers ...");
    let cluster = ThreeBrokers::start(BROKER_HEAP_MIB)?;
    let mut pipeline = Pipeline::on(cluster.kafka.clone(), "chaos", arguments.partitions)?;
    pipeline.create_topics()?;
    let tally = Tally::default();
    let mut validators: Vec<Validator> = (1..=arguments.validators)
        .map(|number| Validator::new(&pipeline, number, seed))
        .collect::<Result<_>>()?;

    let orders = Orders::Generated(Mix::with_seed(seed));
    let feed = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: orders.clone(),
        // As many as the time allows.
        count: u64::MAX,
        per_second: Some(arguments.orders_per_second),
    });
    let aborted_orders = AbortedOrders::start(pipeline.kafka.clone(), pipeline.topics.orders.clone());
    let observers = Observers::start(&pipeline)?;
    let until = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let random = plan::random_stream(seed, 0);
        let brokers = scope.spawn(|| brokers::inject_until(&cluster, random, until, &stop, &tally));
        let injected = inject_until(&mut validators, until, arguments, &tally);
        // A validator that has failed ends the run before its time.
        stop.store(true, Ordering::Relaxed);
        let brokers = brokers
            .join()
            .map_err(|_| anyhow!("the thread that injects broker faults panicked"))?;
        injected.and(brokers)
    })?;

    eprintln!("no more faults; waiting until each order has its verdict ...");
    cluster.await_in_sync()?;
    // Before the last orders, so that no open transaction delays their reading.
    aborted_orders.stop()?;
    let sent = last_orders(feed, arguments.partitions)?;
    // One may have exited by itself since its last fault.
    for validator in &mut validators {
        validator.start_ready(&tally)?;
    }
    let settled = settle(&pipeline);
    for validator in &mut validators {
        validator.terminate(&tally)?;
        validator.count_rejoins(&tally)?;
    }
    // The observers run until the end, so that they see the records of the recovery too.
    let observed = observers.stop()?;

    eprintln!("reading the topics and the stores ...");
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    let numbers: Vec<u32> = (1..=arguments.validators).collect();
    let (more, aborted_orders) = check_transactions(&pipeline, &numbers, &observed)?;
    let report = Report {
        tally: &tally,
        found: &found,
        violations: found.violations.iter().cloned().chain(more).collect(),
        snapshots: observed.snapshots.len(),
        aborted_orders,
        settled: settled.is_ok(),
        took: started.elapsed(),
        seed,
    };
    println!("{report}");
    let held = report.held();
    if let Err(error) = settled {
        eprintln!("error: {error:#}");
    }
    if held {
        pipeline.passed();
        drop(pipeline);
        cluster.passed();
    } else {
        eprintln!(
            "logs, stores and settings are kept in {}",
            pipeline.folder().display()
        );
        pipeline.keep();
    }
    Ok(held)
}

/// Injects faults into all validators at the same time, with a rolling restart after each round, until this
/// time.
fn inject_until(
    validators: &mut [Validator],
    until: Instant,
    arguments: &Arguments,
    tally: &Tally,
) -> Result<()> {
    let round_max = ROUND_MAX.min(Duration::from_secs_f64(30.0 * arguments.minutes));
    while Instant::now() < until {
        let end = until.min(Instant::now() + round_max);
        for_each_at_once(validators, |validator| validator.inject_until(end, tally))?;
        if until.saturating_duration_since(Instant::now()) >= ROLL_MIN {
            rolling_restart(validators, tally).context("a rolling restart")?;
        }
        eprintln!(
            "{} kills and {} zombies of validators; brokers: {} killed, {} restarted; {} s left",
            tally.kills(),
            tally.of(Incident::Zombie),
            tally.of(Incident::BrokerKilled),
            tally.of(Incident::BrokerRestarted),
            until.saturating_duration_since(Instant::now()).as_secs()
        );
    }
    Ok(())
}

/// Scales down to one validator, which takes all partitions over, up to all, and restarts one after the
/// other.
fn rolling_restart(validators: &mut [Validator], tally: &Tally) -> Result<()> {
    for_each_at_once(&mut validators[1..], |validator| validator.terminate(tally))?;
    // A static member keeps its partitions until its session ends.
    pause(SESSION_TIMEOUT + Duration::from_secs(1))?;
    for validator in &mut *validators {
        validator.start_ready(tally)?;
    }
    for validator in validators {
        validator.terminate(tally)?;
        validator.start_ready(tally)?;
    }
    tally.count(Incident::RollingRestart);
    Ok(())
}

fn for_each_at_once(
    validators: &mut [Validator],
    act: impl Fn(&mut Validator) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = validators
            .iter_mut()
            .map(|validator| scope.spawn(|| act(validator)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a validator's thread panicked"))
                .and_then(|result| result)
        })
    })
}

/// Waits for the last orders, and returns the number of all orders sent.
// Each partition must end with a committed order: the validators commit past a marker of an aborted
// transaction only with an order behind it, and the lag would never be 0.
fn last_orders(feed: Feed, partitions: i32) -> Result<u64> {
    let enough = feed.acknowledged() + 50 * u64::try_from(partitions)?;
    await_until("the last orders are sent", Duration::from_secs(120), || {
        let acknowledged = feed.acknowledged();
        Ok(if acknowledged >= enough || feed.is_done() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(format!("{acknowledged} of {enough}"))
        })
    })?;
    feed.stop()
}

/// Waits until each order has its verdict.
fn settle(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", SETTLE_MAX, || {
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic) {
            Ok(0) => ControlFlow::Break(()),
            Ok(lag) => ControlFlow::Continue(format!("{lag} orders have none")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Checks stores, aborted reads and torn transactions, which the counts of the orders do not show. Returns
/// the violations, and the number of orders that their producer aborted.
fn check_transactions(
    pipeline: &Pipeline,
    validators: &[u32],
    observed: &Observed,
) -> Result<(Vec<Violation>, usize)> {
    let (kafka, topics) = (&pipeline.kafka, &pipeline.topics);
    let aborted_of = |topic: &str, keep| {
        let all = read_topic_uncommitted(kafka, topic, keep)?;
        let committed = read_topic(kafka, topic, keep)?;
        Ok::<_, anyhow::Error>((aborted::aborted(all, &committed), committed))
    };
    let (orders_aborted, _) = aborted_of(&topics.orders, Keep::Fingerprints)?;
    let (changelog_aborted, changelog) = aborted_of(&topics.changelog, Keep::Values)?;
    let pending = read_topic(kafka, &topics.pending, Keep::Fingerprints)?;
    let dead_letters = read_topic(kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
    // All validators are stopped, so that their stores can be opened.
    let stores = read_stores(pipeline, validators)?;

    let mut violations = stores::check(&changelog, &stores);
    let orders: HashSet<_> = orders_aborted
        .iter()
        .map(|record| (record.partition, record.offset))
        .collect();
    violations.extend(
        AbortedReadCheck {
            orders_topic: &topics.orders,
            orders: &orders,
            changelog: &changelog_aborted,
            changelog_committed: &changelog,
            outcomes: &[&pending, &dead_letters],
            stores: &stores,
        }
        .check(),
    );
    for seen in &observed.seen {
        let committed = if seen.topic == topics.pending {
            &pending
        } else {
            &changelog
        };
        violations.extend(aborted::check_observed(seen, committed));
    }
    violations.extend(atomicity::check(
        &observed.snapshots,
        &[
            RecordSources::from_headers(&topics.pending, &pending),
            RecordSources::from_headers(&topics.order_dead_letters, &dead_letters),
            RecordSources::from_entries(&topics.changelog, &changelog),
        ],
    ));
    Ok((violations, orders.len()))
}
