//! `state`: shows, verifies and repairs the state of the validators.

mod comparison;
mod forgotten_offsets;
mod inspect;
mod rebuild;
mod repartition;
mod verify;

use std::time::Duration;

use anyhow::{Context, ensure};
use kafka::admin::Admin;
use kafka::producer::RecordSizes;
use kafka::producer::transactional::TransactionTimeouts;
use kafka::topic_ids::TopicIdentity;
use kafka::{KafkaSettings, TransactionalProducer};
use records::{Partition, Topics};

use crate::brokers::REQUEST_TIMEOUT;
use crate::cli::StateCommand;
use crate::commands::Status;
use crate::config::Config;

/// Beginning of the transactional id, which the changelog's name follows: a second operator fences the first, and not one
/// of another pipeline.
const TRANSACTIONAL_ID: &str = "outbox-state-rebuild-";
/// Maximum number of entries of a transaction.
const ENTRIES_MAX: usize = 10_000;
const TIMEOUTS: TransactionTimeouts = TransactionTimeouts {
    transaction_timeout: Duration::from_secs(60),
    commit_timeout: Duration::from_secs(30),
};

pub(crate) fn run(command: &StateCommand, config: &Config, json: bool) -> anyhow::Result<Status> {
    match command {
        StateCommand::Rebuild(options) => rebuild::run(options, config, json),
        StateCommand::Repartition(options) => repartition::run(options, config, json),
        StateCommand::Inspect(options) => inspect::run(options, json),
        StateCommand::Verify(options) => verify::run(options, config, json),
    }
}

/// Opens the producer of entries. This fences an operator who runs the same command, or another one that appends to this
/// changelog, and ends the transaction that one may have left open.
fn open_producer(
    settings: &KafkaSettings,
    admin: &Admin,
    topics: &Topics,
) -> anyhow::Result<TransactionalProducer> {
    let changelog = topics.changelog.as_str();
    let sizes = RecordSizes::of(&admin.describe(&[changelog])?, [changelog]);
    let id = format!("{TRANSACTIONAL_ID}{changelog}");
    Ok(TransactionalProducer::open(
        settings,
        &id,
        TIMEOUTS,
        sizes,
        REQUEST_TIMEOUT,
    )?)
}

/// Returns the partitions and the identity of the changelog.
fn partitions(admin: &Admin, topics: &Topics) -> anyhow::Result<(Vec<Partition>, TopicIdentity)> {
    let names = [topics.orders.as_str(), &topics.pending, &topics.changelog];
    let mut found = admin.identities(&names, REQUEST_TIMEOUT)?;
    let count = |name: &str| {
        let identity = found.get(name);
        let identity = identity.with_context(|| format!("the topic {name:?} does not exist"))?;
        Ok::<_, anyhow::Error>(identity.partitions)
    };
    let [orders, pending, changelog] = [count(names[0])?, count(names[1])?, count(names[2])?];
    // An entry is needed on the partition of its order, so that a grown topic cannot be rebuilt.
    ensure!(
        orders == changelog && pending == changelog,
        "the topics {names:?} have {orders}, {pending} and {changelog} partitions: keys are looked up on the \
         partition of their order, so the counts must be equal. Nothing was changed"
    );
    let partitions = (0..i32::try_from(changelog)?).map(Partition).collect();
    let identity = found
        .remove(names[2])
        .context("the brokers did not describe the changelog")?;
    Ok((partitions, identity))
}

fn ensure_no_validator(admin: &Admin, topics: &Topics, group: &str) -> anyhow::Result<()> {
    let members = admin.group(group, &topics.orders, REQUEST_TIMEOUT)?.members.len();
    ensure!(
        members == 0,
        "the validators' group {group:?} has {members} members, which would write to the changelog at the same \
         time: stop all validators first (a killed one counts until its session timeout)"
    );
    Ok(())
}
