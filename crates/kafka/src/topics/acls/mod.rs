//! Least permissions of each program and of each command of an operator: the one list of them.
//!
//! READ and WRITE imply DESCRIBE, so DESCRIBE stands where neither is needed. No program needs IDEMPOTENT_WRITE: since
//! Kafka 3.0 whoever may write to a topic may do so idempotently.

mod operators;
mod programs;
mod readers;

use std::fmt;

use records::Topics;
use serde::Serialize;

use self::operators::OPERATORS;
use self::programs::PROGRAMS;
use self::readers::READERS;
use super::Purpose;

/// User of the cluster, who needs permissions of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum User {
    /// Stage one.
    Validator,
    /// Stage two.
    Caller,
    /// An operator who looks, and changes nothing.
    Reader,
    /// An operator who looks, and changes orders and calls.
    Operator,
    /// Who creates the topics.
    Creator,
}

/// Permissions of a program, or of commands that need the same.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// User who runs it. An operator may run what a reader may.
    pub user: User,
    /// The program, or the commands.
    pub what: What,
    /// What it needs.
    pub permissions: &'static [Permission],
}

/// Program, or commands of `outbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Program with this name.
    Program(&'static str),
    /// Commands that need the same, such as `parked list`.
    Commands(&'static [&'static str]),
}

/// Operations on a resource, and what they are needed for.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    resource: Resource,
    operations: &'static [Operation],
    why: &'static str,
}

/// Resource of the cluster, by its purpose.
#[derive(Clone, Copy, Debug)]
enum Resource {
    Topic(Purpose),
    ValidatorsGroup,
    CallersGroup,
    /// The group whose id the commands have where they need one, without joining it.
    CommandsGroup,
    ValidatorsTransactionalIds,
    CallersTransactionalIds,
    /// The fixed id of a kind of change to a topic: this text and the topic's name.
    TransactionalIdOf(&'static str, Purpose),
    Cluster,
}

/// Operation of an access control list, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Operation {
    /// Reading records; as a member, a group and its offsets.
    Read,
    /// Writing records; opening a transactional producer.
    Write,
    /// Creating a topic.
    Create,
    /// Deleting the records of a topic.
    Delete,
    /// Reading metadata.
    Describe,
    /// Reading settings.
    DescribeConfigs,
}

/// Kind of a resource, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ResourceKind {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// A transactional id.
    TransactionalId,
    /// The cluster itself.
    Cluster,
}

/// One permission of one user, with the names of an installation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Acl {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource, or what its name begins with.
    pub name: String,
    /// The name is what names of resources begin with.
    pub is_prefix: bool,
    /// Operation that is allowed.
    pub operation: Operation,
}

/// Names of an installation that permissions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Names of the topics.
    pub topics: &'a Topics,
    /// Consumer group of the validators.
    pub validators: &'a str,
    /// Consumer group of the callers.
    pub callers: &'a str,
}

const fn needs(resource: Resource, operations: &'static [Operation], why: &'static str) -> Permission {
    Permission {
        resource,
        operations,
        why,
    }
}

const READS_CALLS: &str = "reads what became of the calls";
const READS_NOTES: &str = "reads the callers' offsets and call notes";
const FINDS_COORDINATOR: &str = "librdkafka asks for the coordinator before it reads";
/// Group whose id the commands have where they need one.
pub const COMMANDS_GROUP: &str = "outbox-command-line";
/// Beginning of the transactional id under which operations are recorded on their own.
const OPERATIONS_ID: &str = "outbox-operations-";

/// Returns what each program and each command needs.
pub fn needed() -> impl Iterator<Item = &'static Needed> {
    [PROGRAMS, READERS, OPERATORS].into_iter().flatten()
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name) => f.write_str(name),
            Self::Commands(names) => write!(f, "outbox {}", names.join(", ")),
        }
    }
}

impl What {
    /// Returns the names of the commands; none of a program.
    const fn commands(self) -> &'static [&'static str] {
        match self {
            Self::Program(_) => &[],
            Self::Commands(names) => names,
        }
    }
}

impl User {
    /// Returns whether a user of this kind runs what is needed by `other`, too.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        self == other || (self == Self::Operator && other == Self::Reader)
    }
}

impl Permission {
    /// Returns what it is needed for.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }

    /// Returns one entry for each operation.
    pub fn acls(&self, names: Names<'_>) -> impl Iterator<Item = Acl> {
        let (kind, name, is_prefix) = self.resource.named(names);
        self.operations.iter().map(move |operation| Acl {
            kind,
            name: name.clone(),
            is_prefix,
            operation: *operation,
        })
    }
}

impl Resource {
    /// Returns its kind, its name, and whether the name is a prefix.
    fn named(self, names: Names<'_>) -> (ResourceKind, String, bool) {
        use Resource::{
            CallersGroup, CallersTransactionalIds, Cluster, CommandsGroup, Topic, TransactionalIdOf,
            ValidatorsGroup, ValidatorsTransactionalIds,
        };
        match self {
            Topic(purpose) => (ResourceKind::Topic, purpose.name(names.topics).to_owned(), false),
            ValidatorsGroup => (ResourceKind::Group, names.validators.to_owned(), false),
            CallersGroup => (ResourceKind::Group, names.callers.to_owned(), false),
            CommandsGroup => (ResourceKind::Group, COMMANDS_GROUP.to_owned(), false),
            // The group and the instance id.
            ValidatorsTransactionalIds => (
                ResourceKind::TransactionalId,
                format!("{}-", names.validators),
                true,
            ),
            CallersTransactionalIds => (ResourceKind::TransactionalId, format!("{}-", names.callers), true),
            TransactionalIdOf(id, purpose) => {
                let name = format!("{id}{}", purpose.name(names.topics));
                (ResourceKind::TransactionalId, name, false)
            }
            // The name that Kafka gives the only resource of this kind.
            Cluster => (ResourceKind::Cluster, "kafka-cluster".to_owned(), false),
        }
    }
}

/// Returns the commands of `outbox` that ask a broker, each once.
pub fn commands() -> impl Iterator<Item = &'static str> {
    needed().flat_map(|needed| needed.what.commands()).copied()
}

/// Returns what a command of `outbox` needs, such as `parked list`; nothing if there is no such command.
#[must_use]
pub fn of_command(command: &str, names: Names<'_>) -> Vec<Acl> {
    needed()
        .filter(|needed| needed.what.commands().contains(&command))
        .flat_map(|needed| needed.permissions)
        .flat_map(|permission| permission.acls(names))
        .collect()
}

/// Returns what a user needs for all that a user of this kind runs, without duplicates.
#[must_use]
pub fn of(user: User, names: Names<'_>) -> Vec<Acl> {
    let mut acls: Vec<Acl> = needed()
        .filter(|needed| user.includes(needed.user))
        .flat_map(|needed| needed.permissions)
        .flat_map(|permission| permission.acls(names))
        .collect();
    acls.sort();
    acls.dedup();
    // What implies DESCRIBE stands beside it if an operator runs several commands.
    let implies = |acl: &Acl, other: &Acl| {
        (acl.kind, &acl.name) == (other.kind, &other.name)
            && other.operation == Operation::Describe
            && matches!(
                acl.operation,
                Operation::Read | Operation::Write | Operation::Delete
            )
    };
    let all = acls.clone();
    acls.retain(|acl| !all.iter().any(|other| implies(other, acl)));
    acls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acls(user: User) -> Vec<String> {
        let names = Names {
            topics: &Topics::default(),
            validators: "order-validator",
            callers: "api-caller",
        };
        of(user, names)
            .into_iter()
            .map(|acl| {
                format!(
                    "{:?} {:?} {}{}",
                    acl.operation,
                    acl.kind,
                    acl.name,
                    if acl.is_prefix { "*" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn program_has_no_more_than_it_needs() {
        assert_eq!(
            acls(User::Validator),
            [
                "Read Topic idempotency-key-store-changelog",
                "Write Topic idempotency-key-store-changelog",
                "Delete Topic idempotency-key-store-changelog",
                "DescribeConfigs Topic idempotency-key-store-changelog",
                "Read Topic payment-orders",
                "DescribeConfigs Topic payment-orders",
                "Write Topic payment-orders.dead-letters",
                "DescribeConfigs Topic payment-orders.dead-letters",
                "Read Topic pending-api-calls",
                "Write Topic pending-api-calls",
                "DescribeConfigs Topic pending-api-calls",
                "Read Group order-validator",
                "Write TransactionalId order-validator-*",
                "DescribeConfigs Cluster kafka-cluster",
            ]
        );
        assert!(
            !acls(User::Caller)
                .iter()
                .any(|acl| acl.contains("payment-orders"))
        );
    }

    #[test]
    fn reader_writes_nothing() {
        let reader = acls(User::Reader);
        assert!(
            !reader
                .iter()
                .any(|acl| acl.starts_with("Write") || acl.starts_with("Create"))
        );
        let operator = acls(User::Operator);
        let is_included = |acl: &String| operator.contains(acl) || acl.starts_with("Describe ");
        assert!(reader.iter().all(is_included), "{reader:?} {operator:?}");
    }

    #[test]
    fn command_is_listed_once() {
        let mut all: Vec<_> = commands().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert!(count > 20 && all.len() == count, "{all:?}");
        assert_eq!(
            needed()
                .map(|needed| needed.what.to_string())
                .take(3)
                .collect::<Vec<_>>(),
            ["validator", "caller", "outbox topics verify"]
        );
    }

    #[test]
    fn implied_permission_is_left_out() {
        let operator = acls(User::Operator);
        assert!(
            operator.contains(&"Read Group api-caller".to_owned()),
            "{operator:?}"
        );
        assert!(
            !operator.contains(&"Describe Group api-caller".to_owned()),
            "{operator:?}"
        );
    }
}
