//! What all commands ask the brokers for, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use kafka::admin::Group;
use kafka::topic_ids::TopicIdentity;
use records::Partition;

/// Client id, as the brokers log it.
pub(crate) const CLIENT_ID: &str = "outbox-command-line";
/// Time limit of each request to the brokers. Offsets with a pending transaction are not returned; a caller's
/// transaction ends within this time.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum wait for open transactions to end. Brokers abort those of dead programs after
/// `transaction.timeout.ms`, a minute by default.
pub(crate) const TRANSACTIONS_WAIT_MAX: Duration = Duration::from_secs(120);

/// Returns the partitions of a topic.
///
/// # Errors
/// The topic does not exist.
pub(crate) fn partitions(
    identities: &BTreeMap<String, TopicIdentity>,
    topic: &str,
) -> anyhow::Result<Vec<Partition>> {
    let count = identities
        .get(topic)
        .with_context(|| {
            format!("the topic {topic:?} does not exist: check the section [topics] of the settings")
        })?
        .partitions;
    Ok((0..i32::try_from(count)?).map(Partition).collect())
}

/// Fails if the brokers do not know a group: a command that goes on with the name of no group reports success, and does
/// nothing to the group that was meant. `members` says whose it is, `option` names it, and `consequence` is what would come
/// of it.
///
/// # Errors
/// No member has ever joined it, or brokers have forgotten it.
pub(crate) fn expect_known(
    group: &Group,
    name: &str,
    members: &str,
    option: &str,
    consequence: &str,
) -> anyhow::Result<()> {
    ensure!(
        group.is_known,
        "the brokers do not know the group {name:?}, so {consequence}: check {option}, the {members}' setting \
         kafka.group_id, and the permission DESCRIBE on the group, without which it looks unknown (`outbox topics acls`). If \
         both are right, because it is new here or the brokers have forgotten it, repeat the command with --new-group"
    );
    Ok(())
}
