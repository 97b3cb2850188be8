//! The samples for Strimzi have the settings that `outbox topics create` gives the topics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use kafka::topics::ExistingTopics;
use kafka::topics::acls::{self, Names, ResourceKind, User};
use kafka::topics::creation::{NewTopic, missing};
use records::Topics;

/// Partitions and replicas in the sample; both are the reader's choice.
const PARTITIONS: usize = 12;
const REPLICATION_FACTOR: usize = 3;

#[test]
fn topic_samples_equal_created_topics() {
    let new = missing(
        &Topics::default(),
        &ExistingTopics::new(),
        PARTITIONS,
        REPLICATION_FACTOR,
    );
    let expected: String = new.iter().map(topic).collect();
    assert_sample("topics.yaml", &expected);
}

fn topic(new: &NewTopic) -> String {
    let mut yaml = format!(
        "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {}\n  labels:\n    strimzi.io/cluster: \
         my-cluster\nspec:\n  partitions: {}\n  replicas: {}\n  config:\n",
        new.name, new.partitions, new.replication_factor
    );
    for (name, value) in &new.configs {
        // In quotes: a number of 19 digits would be rounded by whoever reads it as a floating-point number.
        writeln!(yaml, "    {name}: {value:?}").expect("written to memory");
    }
    yaml
}

/// Compares a sample without its comments.
#[track_caller]
fn assert_sample(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docker/kubernetes/strimzi")
        .join(file);
    let sample = std::fs::read_to_string(&path).expect("the sample");
    let sample: String = sample
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(sample == expected, "{} must be:\n{expected}", path.display());
}

/// Users in the sample, by name.
const USERS: [(&str, User); 4] = [
    ("order-validator", User::Validator),
    ("api-caller", User::Caller),
    ("outbox-reader", User::Reader),
    ("outbox-operator", User::Operator),
];

#[test]
fn user_samples_have_the_least_permissions() {
    let expected: String = USERS.into_iter().map(|(name, kind)| user(name, kind)).collect();
    assert_sample("users.yaml", &expected);
}

fn user(name: &str, user: User) -> String {
    let names = Names {
        topics: &Topics::default(),
        validators: "order-validator",
        callers: "api-caller",
    };
    let mut operations: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for acl in acls::of(user, names) {
        let operation = format!("{:?}", acl.operation);
        operations
            .entry((acl.kind, acl.name, acl.is_prefix))
            .or_default()
            .push(operation);
    }
    let mut yaml = format!(
        "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaUser\nmetadata:\n  name: {name}\n  labels:\n    \
         strimzi.io/cluster: my-cluster\nspec:\n  authentication:\n    type: scram-sha-512\n  authorization:\n    type: \
         simple\n    acls:\n"
    );
    for ((kind, name, is_prefix), operations) in operations {
        let kind = match kind {
            ResourceKind::Topic => "topic",
            ResourceKind::Group => "group",
            ResourceKind::TransactionalId => "transactionalId",
            ResourceKind::Cluster => "cluster",
        };
        writeln!(yaml, "      - resource:\n          type: {kind}").expect("written to memory");
        if kind != "cluster" {
            let pattern = if is_prefix { "prefix" } else { "literal" };
            writeln!(yaml, "          name: {name}\n          patternType: {pattern}")
                .expect("written to memory");
        }
        writeln!(yaml, "        operations: [{}]", operations.join(", ")).expect("written to memory");
    }
    yaml
}
