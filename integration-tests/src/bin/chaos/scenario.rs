//! Course of a run: rounds of faults with a mishap of all validators after each, then a wait for all verdicts and outcomes, and the checks.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use harness::api::{self, Api};
use harness::check::aborted::{self, AbortedReadCheck};
use harness::check::at_most_once::Policy;
use harness::check::atomicity::{self, RecordSources};
use harness::check::chains::chains;
use harness::check::findings;
use harness::check::{Violation, stores};
use harness::cluster;
use harness::cluster::three_brokers::ThreeBrokers;
use harness::orders::feed::{Feed, Plan};
use harness::orders::{Mix, Orders};
use harness::pipeline::Pipeline;
use harness::read_back::stores::read_stores;
use harness::read_back::tail::Tail;
use harness::read_back::topics::{Keep, read_topic, read_topic_uncommitted};
use harness::wait::await_until;
use records::dead_letter;

use crate::aborted_orders::AbortedOrders;
use crate::callers::Callers;
use crate::instance::for_each_at_once;
use crate::mishaps::{self, Mishaps};
use crate::observer::{Observed, Observers};
use crate::report::Report;
use crate::tally::{Incident, Tally};
use crate::validators::Validator;
use crate::{Arguments, brokers, plan};

/// Heap of each broker: three of them must fit beside the validators.
const BROKER_HEAP_MIB: u32 = 320;
/// Maximum time between two mishaps.
const ROUND_MAX: Duration = Duration::from_secs(60);
/// Number of rounds in the duration of a short run.
const ROUNDS_MIN: f64 = 12.0;
/// Minimum time left for a mishap that is not among the first.
const MISHAP_MIN: Duration = Duration::from_secs(20);
/// Duration of a run that must have each incident at least once, in minutes.
const LONG_MIN: f64 = 20.0;
/// Latency of the API: long enough that a kill finds requests in flight.
const API_LATENCY: Duration = Duration::from_millis(30);
/// Timeout from the last fault until each order has its verdict, and then each call its outcome.
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

    let api = Api::start(&pipeline, &api::faults(seed, API_LATENCY))?;
    // Beside an empty outbox, so that their group needs no beginning.
    let mut callers = Callers::new(&pipeline, &api, arguments.callers, seed)?;
    callers.start_ready(&tally)?;
    let outcomes = Tail::start(&pipeline.kafka, &outcome_topics(&pipeline))?;

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
    let mut observers = Observers::start(&pipeline)?;
    let until = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes);
    let stop = AtomicBool::new(false);
    let one_broker_fault = Mutex::new(());
    let all_validators = Mishaps {
        cluster: &cluster,
        brokers: &one_broker_fault,
        pipeline: &pipeline,
        tally: &tally,
    };
    let broker_faults = std::thread::scope(|scope| {
        let random = plan::random_stream(seed, plan::BROKERS);
        let brokers = scope.spawn(|| {
            let injected = brokers::inject_until(&cluster, &one_broker_fault, random, until, &stop, &tally);
            // The run proves little without faults of brokers, so it ends before its time.
            stop.store(true, Ordering::Relaxed);
            injected
        });
        let calls = scope.spawn(|| callers.inject_until(until, &tally));
        let rounds = Rounds {
            seed,
            until,
            minutes: arguments.minutes,
            tally: &tally,
            stop: &stop,
        };
        let injected = rounds.inject(&mut validators, &all_validators, &mut observers);
        // A validator that has failed ends the run before its time.
        stop.store(true, Ordering::Relaxed);
        let calls = calls
            .join()
            .map_err(|_| anyhow!("the thread that injects faults of callers panicked"))?;
        let brokers = brokers
            .join()
            .map_err(|_| anyhow!("the thread that injects broker faults panicked"))?;
        injected.and(calls).and(brokers)
    })?;

    eprintln!("no more faults; waiting until each order has its verdict ...");
    cluster.await_in_sync()?;
    // Before the last orders, so that no open transaction delays their reading.
    aborted_orders.stop()?;
    let sent = last_orders(feed, arguments.partitions)?;
    // One may have exited by itself since its last fault.
    for validator in &mut validators {
        validator.instance.start_ready(&tally)?;
    }
    callers.start_ready(&tally)?;
    let completed = await_completion(&pipeline).and_then(|()| await_outcomes(&pipeline, &outcomes));
    for validator in &mut validators {
        validator.instance.terminate(&tally)?;
        validator.count_rejoins(&tally)?;
    }
    callers.terminate(&tally)?;
    // The observers run until the end, so that they see the records of the recovery too.
    let observed = observers.stop()?;

    eprintln!("reading the topics and the stores ...");
    // Each run loses the group once.
    let found = findings::stage_one_after_lost_group(&pipeline, &orders, sent)?;
    let numbers: Vec<u32> = (1..=arguments.validators).collect();
    let (more, aborted_orders) = check_transactions(&pipeline, &numbers, &observed)?;
    // A caller repeats an outcome after the fault of a broker too, if it cannot learn of its commit.
    let interruptions = [callers.interruptions(), broker_faults].concat();
    let calls = findings::stage_two_with_policy(Policy::Park, &pipeline, &api, &interruptions)?;
    // Last, because nothing can be processed afterwards.
    let grown = mishaps::grow_topics(&pipeline, &mut validators, &orders, sent, &tally);
    let admitted_again = grown.as_ref().map_or(&[][..], Vec::as_slice);
    let violations = [&found.violations[..], &more, &calls.violations, admitted_again]
        .into_iter()
        .flatten();
    let report = Report {
        tally: &tally,
        found: &found,
        calls: &calls,
        violations: violations.cloned().collect(),
        snapshots: observed.snapshots.len(),
        aborted_orders,
        completed: completed.is_ok() && grown.is_ok(),
        is_long: arguments.minutes >= LONG_MIN,
        took: started.elapsed(),
        seed,
    };
    println!("{report}");
    let held = report.held();
    for error in [completed.err(), grown.err()].into_iter().flatten() {
        eprintln!("error: {error:#}");
    }
    drop((callers, api));
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

/// Rounds of faults of the validators.
struct Rounds<'a> {
    seed: u64,
    until: Instant,
    minutes: f64,
    tally: &'a Tally,
    /// Set when another thread has ended.
    stop: &'a AtomicBool,
}

impl Rounds<'_> {
    /// Injects faults into all validators at the same time, with a mishap of all of them after each round.
    fn inject(
        &self,
        validators: &mut [Validator],
        mishaps: &Mishaps<'_>,
        observers: &mut Observers,
    ) -> Result<()> {
        let round_max = ROUND_MAX.min(Duration::from_secs_f64(60.0 * self.minutes / ROUNDS_MIN));
        for (number, mishap) in plan::mishaps(self.seed).enumerate() {
            // Each run has the first ones, also if the faults before them took long.
            let is_due = number < plan::CHEAP_MISHAPS.len();
            if (self.left().is_zero() || self.stop.load(Ordering::Relaxed)) && !is_due {
                break;
            }
            let end = self.until.min(Instant::now() + round_max);
            for_each_at_once(validators, |validator| validator.inject_until(end, self.tally))?;
            if is_due || self.left() >= MISHAP_MIN {
                mishaps.inject(mishap, validators, observers)?;
            }
            eprintln!(
                "{} kills and {} zombies of validators; brokers: {} killed, {} restarted; last {mishap:?}; {} s left",
                self.tally.kills(),
                self.tally.of(Incident::Zombie),
                self.tally.of(Incident::BrokerKilled),
                self.tally.of(Incident::BrokerRestarted),
                self.left().as_secs()
            );
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
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
fn await_completion(pipeline: &Pipeline) -> Result<()> {
    await_until("each order has its verdict", SETTLE_MAX, || {
        let (group, topic) = (&pipeline.validator_group, &pipeline.topics.orders);
        Ok(match cluster::lag(&pipeline.kafka, group, topic) {
            Ok(0) => ControlFlow::Break(()),
            Ok(lag) => ControlFlow::Continue(format!("{lag} orders have none")),
            Err(error) => ControlFlow::Continue(format!("{error:#}")),
        })
    })
}

/// Waits until each pending call has its outcome.
fn await_outcomes(pipeline: &Pipeline, outcomes: &Tail) -> Result<()> {
    // With each verdict committed, the outbox grows no more but by deferrals, which add no key.
    let pending = findings::pending_keys(pipeline)?;
    await_until("each call has its outcome", SETTLE_MAX, || {
        let found = outcomes.keys_of_all(&outcome_topics(pipeline));
        Ok(match found >= pending {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(format!("{found} of {pending} have one")),
        })
    })
}

/// Topics in which a call has its final state.
fn outcome_topics(pipeline: &Pipeline) -> [&str; 3] {
    let topics = &pipeline.topics;
    [&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::as_str)
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
    // Only the first record of a call comes from the transaction of its order, not a deferred copy.
    let first: Vec<_> = chains(&pending)
        .0
        .iter()
        .map(|chain| chain.first.clone())
        .collect();
    // A record that is refused again after the loss of the group has a second dead letter, long after its
    // offset was committed.
    let mut sources = HashSet::new();
    let mut first_letters = dead_letters;
    first_letters.sort_by_key(|letter| letter.timestamp_ms);
    first_letters.retain(|letter| sources.insert(letter.header(dead_letter::SOURCE).map(str::to_owned)));
    violations.extend(atomicity::check(
        &observed.snapshots,
        &[
            RecordSources::from_headers(&topics.pending, &first),
            RecordSources::from_headers(&topics.order_dead_letters, &first_letters),
            RecordSources::from_entries(&topics.changelog, &changelog),
        ],
    ));
    Ok((violations, orders.len()))
}
