//! `topics create`, `topics verify` and `topics acls`.

mod acls;
mod output;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::preflight;
use kafka::topics::creation::{self, NewTopic};
use kafka::topics::{self, ExistingTopics, Finding, Purpose, Requirements, Role};
use records::Topics;

use crate::cli::{CreateTopics, TopicsCommand};
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::confirm::confirm;
use crate::operations_log::{self, operation};

/// Default partition count. It divides evenly among 2, 3, 4, 6 and 12 instances.
const PARTITIONS: usize = 12;
/// Default replication factor: the usual one, which survives the loss of one broker during maintenance of
/// another.
const REPLICATION_FACTOR: usize = 3;
/// Maximum time until all brokers know a new topic.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum time for which a refusal to describe new topics may come from a broker that does not know them yet. Shorter, as
/// a user without the permission waits for it, too.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two questions for them. Brokers learn of a topic within a second, so these are a handful.
const KNOWN_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn run(command: &TopicsCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    let connect = || Admin::connect(&config.connection(), "outbox-command-line");
    match command {
        TopicsCommand::Create(options) => create(options, config, &connect()?, json),
        TopicsCommand::Verify => verify(config, &connect()?, json),
        TopicsCommand::Acls(options) => acls::run(options, config, json),
    }
}

fn verify(config: &Config, admin: &Admin, json: bool) -> anyhow::Result<Status> {
    let existing = describe(config, admin)?;
    let findings = findings(config, admin, &existing);
    if json {
        print_json(&output::Verified::new(&existing, &findings))?;
    } else {
        println!("{}", output::existing(&config.topics, &existing, &findings));
        print!("{}", output::findings(&findings));
    }
    Ok(status(&findings))
}

fn create(options: &CreateTopics, config: &Config, admin: &Admin, json: bool) -> anyhow::Result<Status> {
    let before = describe(config, admin)?;
    let partitions = partitions(options.partitions.map(usize::from), &config.topics, &before)?;
    let replication_factor =
        replication_factor(options.replication_factor.map(usize::from), admin.brokers())?;
    let new = creation::missing(&config.topics, &before, partitions, replication_factor);
    // Nothing to do needs no confirmation: the command may be repeated in scripts.
    if !new.is_empty() {
        // To standard error: the result on standard output may be redirected to a file.
        eprintln!("{}", output::planned(&new));
        let question = format!("Create these topics on {}?", config.kafka.bootstrap_servers);
        if !confirm(&question, options.yes)? {
            eprintln!("Nothing was created.");
            return Ok(Status::Problem);
        }
    }

    // A failure of one topic does not stop the others: repeating the command creates what is missing.
    let failed = create_all(admin, &new)?;
    let after = await_known(config, admin, &new, &failed)?;
    record(config, &new, &failed, &after);
    let findings = findings(config, admin, &after);
    if json {
        print_json(&output::Created::new(&new, &failed, &after, &findings))?;
    } else {
        if new.is_empty() {
            println!("All topics already exist; nothing was created.");
        } else {
            println!("Topics created: {}.", new.len() - failed.len());
        }
        for (name, reason) in &failed {
            println!("Topic {name} was not created: {reason}");
        }
        print!("{}", output::findings(&findings));
    }
    Ok(if failed.is_empty() {
        status(&findings)
    } else {
        Status::Problem
    })
}

/// Records which topics were created: afterwards, since the topic of the operations is one of them.
fn record(config: &Config, new: &[NewTopic], failed: &[(String, String)], after: &ExistingTopics) {
    let created: Vec<&str> = new
        .iter()
        .map(|new| new.name.as_str())
        .filter(|name| failed.iter().all(|(failed, _)| failed != name))
        .collect();
    if created.is_empty() || !after.contains_key(&config.topics.operations) {
        return;
    }
    let what = format!("topics created: {}", created.join(", "));
    let written = operations_log::write(config, &[operation("topics create", what, None)]);
    // The topics are there, whether that is recorded or not.
    if let Err(error) = written {
        eprintln!("The creation is not in {}: {error:#}", config.topics.operations);
    }
}

/// Creates the topics, and returns the names of those that failed, with the reason.
fn create_all(admin: &Admin, new: &[NewTopic]) -> anyhow::Result<Vec<(String, String)>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let results = admin.create(new)?;
    Ok(results
        .into_iter()
        .filter_map(|(name, result)| Some((name, result.err()?.to_string())))
        .collect())
}

/// Waits until the brokers know the new topics, and returns all topics.
///
/// # Errors
/// A new topic is still unknown after the time limit.
fn await_known(
    config: &Config,
    admin: &Admin,
    new: &[NewTopic],
    failed: &[(String, String)],
) -> anyhow::Result<ExistingTopics> {
    let started = Instant::now();
    let has_failed = |topic: &NewTopic| failed.iter().any(|(name, _)| *name == topic.name);
    let created: Vec<_> = new.iter().filter(|topic| !has_failed(topic)).collect();
    loop {
        let existing = match describe(config, admin) {
            // A broker that does not know a topic yet describes it without settings, as one does that refuses them.
            Err(_) if !created.is_empty() && started.elapsed() < REFUSED_TIMEOUT => {
                std::thread::sleep(KNOWN_INTERVAL);
                continue;
            }
            described => described?,
        };
        // CreateTopics returns when the controller has the topic; the metadata of the brokers follows later.
        let is_known = |topic: &NewTopic| {
            existing
                .get(&topic.name)
                .is_some_and(|known| known.partitions == topic.partitions)
        };
        let Some(unknown) = created.iter().find(|topic| !is_known(topic)) else {
            return Ok(existing);
        };
        ensure!(
            started.elapsed() < KNOWN_TIMEOUT,
            "the topic {} was created, but the brokers do not list it after {} s; run `outbox topics verify` \
             later",
            unknown.name,
            KNOWN_TIMEOUT.as_secs()
        );
        std::thread::sleep(KNOWN_INTERVAL);
    }
}

fn describe(config: &Config, admin: &Admin) -> anyhow::Result<ExistingTopics> {
    admin
        .describe(&Role::Operator.names(&config.topics))
        .context("describing the topics")
}

fn findings(config: &Config, admin: &Admin, existing: &ExistingTopics) -> Vec<Finding> {
    let offsets_retention_minutes = admin.offsets_retention_minutes().unwrap_or_else(|error| {
        // The setting only leads to a warning, and a user may lack the permission to read it.
        eprintln!("offsets.retention.minutes of the brokers is not verified: {error}");
        None
    });
    let unverified_brokers = preflight::unverified_brokers(admin, |why| {
        eprintln!("transaction verification of the brokers is not checked: {why}");
    });
    let required = Requirements {
        topics: &config.topics,
        role: Role::Operator,
        // By the validators' settings, which are not here.
        forgets_keys: None,
        offsets_retention_minutes,
        unverified_brokers: &unverified_brokers,
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    topics::verify(&required, existing)
}

fn status(findings: &[Finding]) -> Status {
    if topics::is_refused(findings) {
        Status::Problem
    } else {
        Status::Ok
    }
}

/// Returns the partition count of new topics: that of an existing topic which must have the same, else the
/// requested one, else the default.
fn partitions(requested: Option<usize>, topics: &Topics, existing: &ExistingTopics) -> anyhow::Result<usize> {
    // Orders and changelog must match, since a key is looked up in the partition of its order.
    let existing_topic = [Purpose::Orders, Purpose::Pending, Purpose::Changelog]
        .into_iter()
        .find_map(|purpose| existing.get_key_value(purpose.name(topics)));
    match (requested, existing_topic) {
        (Some(requested), Some((name, topic))) if topic.partitions != requested => bail!(
            "--partitions is {requested}, but the topic {name} exists with {}; orders, pending and changelog \
             topics must have the same number: omit the flag",
            topic.partitions
        ),
        (_, Some((_, topic))) => Ok(topic.partitions),
        (requested, None) => Ok(requested.unwrap_or(PARTITIONS)),
    }
}

fn replication_factor(requested: Option<usize>, brokers: usize) -> anyhow::Result<usize> {
    match requested {
        // Kafka refuses this too, but topic by topic and after the confirmation.
        Some(requested) if requested > brokers => {
            bail!("--replication-factor is {requested}, but only {brokers} brokers are available")
        }
        Some(requested) => Ok(requested),
        // A single broker, as in a demo, gets one replica; `topics verify` warns about it.
        None => Ok(REPLICATION_FACTOR.min(brokers.max(1))),
    }
}

#[cfg(test)]
mod tests {
    use kafka::topics::TopicDescription;

    use super::*;

    #[test]
    fn new_topics_match_existing_partition_counts() {
        let topics = Topics::default();
        let with = |name: &str, partitions| {
            ExistingTopics::from([(
                name.to_owned(),
                TopicDescription {
                    partitions,
                    ..TopicDescription::default()
                },
            )])
        };
        let of = |requested, existing: &ExistingTopics| partitions(requested, &topics, existing).ok();
        assert_eq!(of(None, &ExistingTopics::new()), Some(PARTITIONS));
        assert_eq!(of(Some(10), &ExistingTopics::new()), Some(10));
        assert_eq!(of(None, &with("payment-orders", 7)), Some(7));
        assert_eq!(of(Some(7), &with("pending-api-calls", 7)), Some(7));
        assert_eq!(of(Some(8), &with("pending-api-calls", 7)), None);
        assert_eq!(of(Some(8), &with("payments-processed", 7)), Some(8));
    }

    #[test]
    fn replicas_do_not_exceed_brokers() {
        let of = |requested, brokers| replication_factor(requested, brokers).ok();
        assert_eq!(
            (of(None, 1), of(None, 2), of(None, 9)),
            (Some(1), Some(2), Some(3))
        );
        assert_eq!((of(Some(2), 3), of(Some(4), 3)), (Some(2), None));
    }
}
