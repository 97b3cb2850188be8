//! `topics create` and `topics verify`.

mod output;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kafka::admin::Admin;
use kafka::topics::creation::{self, NewTopic};
use kafka::topics::{self, Existing, Finding, Purpose, Required, Role};
use records::Topics;

use crate::cli::{CreateTopics, TopicsCommand};
use crate::commands::{Answer, print_json};
use crate::config::Config;
use crate::confirm::confirm;

/// Where there is no topic yet to follow: it divides among 2, 3, 4, 6 and 12 instances.
const PARTITIONS: usize = 12;
const REPLICATION_FACTOR: usize = 3;
/// How long a topic that was created may take until all brokers know it.
const KNOWN_MAX: Duration = Duration::from_secs(15);

pub(crate) fn run(command: &TopicsCommand, config: &Config, json: bool) -> anyhow::Result<Answer> {
    let admin = Admin::connect(&config.connection(), "outbox-command-line")?;
    match command {
        TopicsCommand::Create(options) => create(options, config, &admin, json),
        TopicsCommand::Verify => verify(config, &admin, json),
    }
}

fn verify(config: &Config, admin: &Admin, json: bool) -> anyhow::Result<Answer> {
    let existing = describe(config, admin)?;
    let findings = findings(config, &existing);
    if json {
        print_json(&output::Verified::new(&existing, &findings))?;
    } else {
        println!("{}", output::existing(&config.topics, &existing, &findings));
        print!("{}", output::findings(&findings));
    }
    Ok(answer(&findings))
}

fn create(options: &CreateTopics, config: &Config, admin: &Admin, json: bool) -> anyhow::Result<Answer> {
    let before = describe(config, admin)?;
    let partitions = partitions(options.partitions.map(usize::from), &config.topics, &before)?;
    let replication_factor =
        replication_factor(options.replication_factor.map(usize::from), admin.brokers())?;
    let new = creation::missing(&config.topics, &before, partitions, replication_factor);
    if !new.is_empty() {
        // To standard error: the result, on standard output, may go to a file.
        eprintln!("{}", output::planned(&new));
        let question = format!(
            "Create what the table shows, at {}?",
            config.kafka.bootstrap_servers
        );
        if !confirm(&question, options.yes)? {
            eprintln!("Nothing was created.");
            return Ok(Answer::Unsound);
        }
    }

    let failed = create_all(admin, &new)?;
    let after = await_known(config, admin, &new, &failed)?;
    let findings = findings(config, &after);
    if json {
        print_json(&output::Created::new(&new, &failed, &after, &findings))?;
    } else {
        if new.is_empty() {
            println!("All topics exist already; nothing was created.");
        } else {
            println!("Topics created: {}.", new.len() - failed.len());
        }
        for (name, reason) in &failed {
            println!("{name} was not: {reason}");
        }
        print!("{}", output::findings(&findings));
    }
    Ok(if failed.is_empty() {
        answer(&findings)
    } else {
        Answer::Unsound
    })
}

/// Names what could not be created, with the reason.
fn create_all(admin: &Admin, new: &[NewTopic]) -> anyhow::Result<Vec<(String, String)>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let answers = admin.create(new)?;
    Ok(answers
        .into_iter()
        .filter_map(|(name, answer)| Some((name, answer.err()?.to_string())))
        .collect())
}

/// The topics, once those that were created are known.
fn await_known(
    config: &Config,
    admin: &Admin,
    new: &[NewTopic],
    failed: &[(String, String)],
) -> anyhow::Result<Existing> {
    let deadline = Instant::now() + KNOWN_MAX;
    loop {
        let existing = describe(config, admin)?;
        let is_known = |topic: &NewTopic| {
            existing
                .get(&topic.name)
                .is_some_and(|known| known.partitions == topic.partitions)
        };
        let has_failed = |topic: &NewTopic| failed.iter().any(|(name, _)| *name == topic.name);
        let Some(unknown) = new.iter().find(|topic| !is_known(topic) && !has_failed(topic)) else {
            return Ok(existing);
        };
        ensure!(
            Instant::now() < deadline,
            "the topic {} was created, but the brokers do not show it after {} s; try `outbox topics verify` later",
            unknown.name,
            KNOWN_MAX.as_secs()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn describe(config: &Config, admin: &Admin) -> anyhow::Result<Existing> {
    admin
        .describe(&Role::Operator.names(&config.topics))
        .context("the topics cannot be looked at")
}

fn findings(config: &Config, existing: &Existing) -> Vec<Finding> {
    let required = Required {
        topics: &config.topics,
        role: Role::Operator,
        partitions_remembered: None,
        bootstrap_servers: &config.kafka.bootstrap_servers,
    };
    topics::verify(&required, existing)
}

fn answer(findings: &[Finding]) -> Answer {
    if topics::is_refused(findings) {
        Answer::Unsound
    } else {
        Answer::Sound
    }
}

/// As many as those that must have the same number already have.
fn partitions(asked: Option<usize>, topics: &Topics, existing: &Existing) -> anyhow::Result<usize> {
    let leader = [Purpose::Orders, Purpose::Pending, Purpose::Changelog]
        .into_iter()
        .find_map(|purpose| existing.get_key_value(purpose.name(topics)));
    match (asked, leader) {
        (Some(asked), Some((name, topic))) if topic.partitions != asked => bail!(
            "--partitions is {asked}, but the topic {name} exists with {}; orders, pending and changelog topics must \
             have the same number, so leave the flag out",
            topic.partitions
        ),
        (_, Some((_, topic))) => Ok(topic.partitions),
        (asked, None) => Ok(asked.unwrap_or(PARTITIONS)),
    }
}

fn replication_factor(asked: Option<usize>, brokers: usize) -> anyhow::Result<usize> {
    match asked {
        Some(asked) if asked > brokers => {
            bail!("--replication-factor is {asked}, but only {brokers} brokers are up")
        }
        Some(asked) => Ok(asked),
        None => Ok(REPLICATION_FACTOR.min(brokers.max(1))),
    }
}

#[cfg(test)]
mod tests {
    use kafka::topics::Described;

    use super::*;

    #[test]
    fn new_topics_follow_those_that_exist() {
        let topics = Topics::default();
        let with = |name: &str, partitions| {
            Existing::from([(
                name.to_owned(),
                Described {
                    partitions,
                    ..Described::default()
                },
            )])
        };
        let of = |asked, existing: &Existing| partitions(asked, &topics, existing).ok();
        assert_eq!(of(None, &Existing::new()), Some(PARTITIONS));
        assert_eq!(of(Some(10), &Existing::new()), Some(10));
        assert_eq!(of(None, &with("payment-orders", 7)), Some(7));
        assert_eq!(of(Some(7), &with("pending-api-calls", 7)), Some(7));
        assert_eq!(of(Some(8), &with("pending-api-calls", 7)), None);
        assert_eq!(of(Some(8), &with("payments-processed", 7)), Some(8));
    }

    #[test]
    fn replicas_are_no_more_than_brokers() {
        let of = |asked, brokers| replication_factor(asked, brokers).ok();
        assert_eq!(
            (of(None, 1), of(None, 2), of(None, 9)),
            (Some(1), Some(2), Some(3))
        );
        assert_eq!((of(Some(2), 3), of(Some(4), 3)), (Some(2), None));
    }
}
