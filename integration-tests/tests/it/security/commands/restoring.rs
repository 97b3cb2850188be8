//! The commands on lost, copied or changed topics and groups, see [`super`].

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster::Administrator;
use harness::pipeline::{Pipeline, SESSION_TIMEOUT};
use harness::read_back::topics::{Keep, read_topic};
use harness::wait::pause;
use kafka::topics::CHANGELOG_CONFIGS;
use kafka::topics::acls::Acl;
use records::Topics;

use super::RESTORING;
use super::data::fill;
use super::least::{Lacking, Least};
use crate::g8_fail_closed::halted_partitions::{recreate, retry_until_accepted};
use crate::run;
use crate::security::fixture::secured_kafka;

#[test]
fn restoring_commands_need_what_is_listed() {
    run(|| {
        let kafka = secured_kafka()?;
        let mut pipeline = Pipeline::on(kafka.open.clone(), "restoring", 1)?;
        pipeline.create_topics()?;
        let least = Least::allow(&kafka, &pipeline, &RESTORING, Lacking::Described)?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let stopped = fill(&pipeline)?;
        let administrator = Administrator::new(&kafka.open)?;
        retry_until_accepted("the group is deleted", || {
            administrator.delete_group(&pipeline.caller_group)
        })?;
        let group = &pipeline.caller_group;
        least.prints(
            "group recover",
            &format!("group recover --yes --group {group}"),
            "is recovered",
        )?;
        // A static member counts until its session has expired.
        pause((SESSION_TIMEOUT + Duration::from_secs(1)).saturating_sub(stopped.elapsed()))?;
        state(&administrator, &pipeline, &least)?;
        least.expect_all_ran()?;
        pipeline.passed();
        Ok(())
    });
}

/// Runs the commands on the state of the stopped validator.
fn state(administrator: &Administrator, pipeline: &Pipeline, least: &Least<'_>) -> Result<()> {
    let group = format!("--validators {}", pipeline.validator_group);
    let words = format!(
        "state verify --dir {} {group}",
        pipeline.state_folder(1).display()
    );
    least.prints("state verify", &words, "The stores are equal to the changelog")?;
    let records = || read_topic(&pipeline.kafka, &pipeline.topics.changelog, Keep::Fingerprints);
    // Some permissions are needed only when the entries are there, so that they are lost again.
    let lose = |_: Option<&Acl>| match records()?.is_empty() {
        true => Ok(()),
        false => recreate(pipeline, &pipeline.topics.changelog, &CHANGELOG_CONFIGS),
    };
    let output = least.run_after("state rebuild", &format!("state rebuild --yes {group}"), lose)?;
    ensure!(output.contains("13 entries were appended"), "{output}");
    let Topics {
        orders,
        pending,
        changelog,
        ..
    } = &pipeline.topics;
    for topic in [orders, pending, changelog] {
        administrator.grow_topic(topic, 2)?;
    }
    let words = format!("state repartition --yes {group}");
    least.prints("state repartition", &words, "entries were appended")?;
    let moved = records()?.iter().filter(|record| record.partition.0 == 1).count();
    ensure!(moved > 0, "no key was appended to the new partition");
    Ok(())
}
