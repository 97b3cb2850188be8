//! What happens: storms, in which each validator and the brokers suffer on their own, with a rolling restart after
//! each; then peace, until each order has its verdict, and the checks.

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

use crate::load::Aborting;
use crate::observer::{Observed, Observers};
use crate::report::Report;
use crate::tally::{ClientError, Tally};
use crate::validators::InstanceLifecycle;
use crate::{Arguments, brokers, plan};

/// Three of them must fit beside everything else.
const BROKER_HEAP_MIB: u32 = 320;
/// The longest storm; shorter ones leave time for a rolling restart in each story.
const STORM_MAX: Duration = Duration::from_secs(75);
/// A rolling restart is begun with so much time left.
const ROLL_MIN: Duration = Duration::from_secs(15);
const SETTLE_MAX: Duration = Duration::from_secs(300);

/// Tells the story. `true`: every guarantee was held.
pub(crate) fn tell(arguments: &Arguments, seed: u64) -> Result<bool> {
    let started = Instant::now();
    eprintln!("starting three brokers ...");
    let cluster = ThreeBrokers::start(BROKER_HEAP_MIB)?;
    let mut pipeline = Pipeline::on(cluster.kafka.clone(), "chaos", arguments.partitions)?;
    pipeline.create_topics()?;
    let tally = Tally::default();
    let mut lanes: Vec<InstanceLifecycle> = (1..=arguments.validators)
        .map(|number| InstanceLifecycle::new(&pipeline, number, seed))
        .collect::<Result<_>>()?;

    let orders = Orders::Generated(Mix::with_seed(seed));
    let feed = Feed::start(Plan {
        kafka: pipeline.kafka.clone(),
        topic: pipeline.topics.orders.clone(),
        partitions: arguments.partitions,
        orders: orders.clone(),
        count: u64::MAX,
        per_second: Some(arguments.orders_per_second),
    });
    let aborting = Aborting::start(pipeline.kafka.clone(), pipeline.topics.orders.clone());
    let observers = Observers::start(&pipeline)?;
    let until = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let row = plan::row(seed, 0);
        let brokers = scope.spawn(|| brokers::suffer_until(&cluster, row, until, &over, &tally));
        let suffered = suffer(&mut lanes, until, arguments, &tally);
        over.store(true, Ordering::Relaxed);
        let brokers = brokers
            .join()
            .map_err(|_| anyhow!("the brokers' thread panicked"))?;
        suffered.and(brokers)
    })?;

    eprintln!("peace: waiting until each order has its verdict ...");
    cluster.await_in_sync()?;
    aborting.end()?;
    let sent = last_orders(feed, arguments.partitions)?;
    for lane in &mut lanes {
        lane.work(&tally)?;
    }
    let settled = settle(&pipeline);
    for lane in &mut lanes {
        lane.terminate(&tally)?;
        lane.count_begun_again(&tally)?;
    }
    let observed = observers.end()?;

    eprintln!("reading the topics and the stores ...");
    let found = findings::stage_one(&pipeline, &orders, sent)?;
    let numbers: Vec<u32> = (1..=arguments.validators).collect();
    let (more, aborted_orders) = look_closer(&pipeline, &numbers, &observed)?;
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
            "logs, state and settings are kept in {}",
            pipeline.folder().display()
        );
        pipeline.keep();
    }
    Ok(held)
}

/// Storms and rolling restarts, until the time is over.
fn suffer(
    lanes: &mut [InstanceLifecycle],
    until: Instant,
    arguments: &Arguments,
    tally: &Tally,
) -> Result<()> {
    let storm_max = STORM_MAX.min(Duration::from_secs_f64(30.0 * arguments.minutes));
    while Instant::now() < until {
        let end = until.min(Instant::now() + storm_max);
        at_once(lanes, |lane| lane.suffer_until(end, tally))?;
        if until.saturating_duration_since(Instant::now()) >= ROLL_MIN {
            roll(lanes, tally).context("a rolling restart")?;
        }
        eprintln!(
            "{} kills, {} zombies, {} brokers killed and {} restarted; {} s left",
            tally.kills(),
            tally.of(ClientError::Zombie),
            tally.of(ClientError::BrokerKilled),
            tally.of(ClientError::BrokerBounced),
            until.saturating_duration_since(Instant::now()).as_secs()
        );
    }
    Ok(())
}

/// From all to one, which takes over what the others had, back to all, and then each in its turn.
fn roll(lanes: &mut [InstanceLifecycle], tally: &Tally) -> Result<()> {
    at_once(&mut lanes[1..], |lane| lane.terminate(tally))?;
    pause(SESSION_TIMEOUT + Duration::from_secs(1))?;
    for lane in &mut *lanes {
        lane.work(tally)?;
    }
    for lane in lanes {
        lane.terminate(tally)?;
        lane.work(tally)?;
    }
    tally.count(ClientError::Rolled);
    Ok(())
}

fn at_once(
    lanes: &mut [InstanceLifecycle],
    act: impl Fn(&mut InstanceLifecycle) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let acts: Vec<_> = lanes.iter_mut().map(|lane| scope.spawn(|| act(lane))).collect();
        acts.into_iter().try_for_each(|act| {
            act.join()
                .map_err(|_| anyhow!("a validator's thread panicked"))
                .and_then(|acted| acted)
        })
    })
}

/// Each partition ends with a committed order: behind the marker of an aborted one, a partition without any would
/// never be done.
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

/// Until each order has its verdict.
fn settle(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", SETTLE_MAX, || {
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic) {
            Ok(0) => ControlFlow::Break(()),
            Ok(lag) => ControlFlow::Continue(format!("{lag} orders without one")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// What the counting of orders does not show: stores, torn transactions and aborted reads. And how many orders
/// were aborted by their producer.
fn look_closer(
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
