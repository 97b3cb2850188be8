//! Least permissions of each program and of each command of an operator: the one list of them.
//!
//! READ and WRITE imply DESCRIBE, so DESCRIBE stands where neither is needed. No program needs IDEMPOTENT_WRITE: since
//! Kafka 3.0 whoever may write to a topic may do so idempotently.

use records::Topics;
use serde::Serialize;

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
    /// Name of the program, or of the commands.
    pub what: &'static str,
    /// What it needs.
    pub permissions: &'static [Permission],
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
    /// The fixed id of a kind of change.
    TransactionalId(&'static str),
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

use Operation::{Create, Delete, Describe, DescribeConfigs, Read, Write};
use Purpose::{
    CallDeadLetters, Changelog, Control, Operations, OrderDeadLetters, Orders, Parked, Pending, Processed,
};
use Resource::{
    CallersGroup, CallersTransactionalIds, Cluster, CommandsGroup, Topic, TransactionalId, TransactionalIdOf,
    ValidatorsGroup, ValidatorsTransactionalIds,
};

const fn needs(resource: Resource, operations: &'static [Operation], why: &'static str) -> Permission {
    Permission {
        resource,
        operations,
        why,
    }
}

/// What each program and each command needs.
pub const NEEDED: &[Needed] = &[
    Needed {
        user: User::Validator,
        what: "validator",
        permissions: &[
            needs(
                Topic(Orders),
                &[Read, DescribeConfigs],
                "reads the orders; verifies the topic",
            ),
            needs(
                Topic(Pending),
                &[Read, Write, DescribeConfigs],
                "writes pending calls; compares the newest ones with its stores; verifies the topic",
            ),
            needs(
                Topic(Changelog),
                &[Read, Write, Delete, DescribeConfigs],
                "restores its stores, records keys, deletes those it has forgotten (Delete: only with \
                 store.retention); verifies the topic",
            ),
            needs(
                Topic(OrderDeadLetters),
                &[Write, DescribeConfigs],
                "writes refused orders; verifies the topic",
            ),
            needs(
                ValidatorsGroup,
                &[Read],
                "joins the group, commits and reads its offsets",
            ),
            needs(
                ValidatorsTransactionalIds,
                &[Write],
                "commits orders and offsets in one transaction",
            ),
            needs(
                Cluster,
                &[DescribeConfigs],
                "verifies that the brokers verify transactions",
            ),
        ],
    },
    Needed {
        user: User::Caller,
        what: "caller",
        permissions: &[
            needs(
                Topic(Pending),
                &[Read, Write, DescribeConfigs],
                "reads pending calls; appends deferred ones (Write: only if calls are deferred); verifies the topic",
            ),
            needs(
                Topic(Processed),
                &[Write, DescribeConfigs],
                "writes outcomes; verifies the topic",
            ),
            needs(
                Topic(CallDeadLetters),
                &[Write, DescribeConfigs],
                "writes rejected calls; verifies the topic",
            ),
            needs(
                Topic(Parked),
                &[Write, DescribeConfigs],
                "writes parked calls; verifies the topic",
            ),
            needs(
                Topic(Control),
                &[Read, DescribeConfigs],
                "follows pause and resume; verifies the topic",
            ),
            needs(
                CallersGroup,
                &[Read],
                "joins the group, commits and reads its offsets and call notes",
            ),
            needs(
                CallersTransactionalIds,
                &[Write],
                "defers a call in one transaction (only if calls are deferred)",
            ),
            needs(
                Cluster,
                &[DescribeConfigs],
                "verifies that the brokers verify transactions (only if calls are deferred)",
            ),
        ],
    },
    Needed {
        user: User::Creator,
        what: "outbox topics create",
        permissions: &[
            needs(Topic(Orders), &[Create, Describe, DescribeConfigs], CREATES),
            needs(Topic(Pending), &[Create, Describe, DescribeConfigs], CREATES),
            needs(Topic(Changelog), &[Create, Describe, DescribeConfigs], CREATES),
            needs(
                Topic(OrderDeadLetters),
                &[Create, Describe, DescribeConfigs],
                CREATES,
            ),
            needs(Topic(Processed), &[Create, Describe, DescribeConfigs], CREATES),
            needs(
                Topic(CallDeadLetters),
                &[Create, Describe, DescribeConfigs],
                CREATES,
            ),
            needs(Topic(Parked), &[Create, Describe, DescribeConfigs], CREATES),
            needs(Topic(Control), &[Create, Describe, DescribeConfigs], CREATES),
            needs(
                Topic(Operations),
                &[Create, Write, DescribeConfigs],
                "creates and verifies the topic; records what it has created",
            ),
            needs(
                TransactionalIdOf(OPERATIONS_ID, Operations),
                &[Write],
                "records what it has created",
            ),
            needs(
                Cluster,
                &[DescribeConfigs],
                "verifies the settings of the brokers",
            ),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox topics verify",
        permissions: &[
            needs(Topic(Orders), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Pending), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Changelog), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(OrderDeadLetters), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Processed), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(CallDeadLetters), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Parked), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Control), &[Describe, DescribeConfigs], VERIFIES),
            needs(Topic(Operations), &[Describe, DescribeConfigs], VERIFIES),
            needs(
                Cluster,
                &[DescribeConfigs],
                "verifies the settings of the brokers",
            ),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox status, order, metrics",
        permissions: &[
            needs(Topic(Orders), &[Read], "counts orders that wait; shows an order"),
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(
                Topic(OrderDeadLetters),
                &[Read],
                "counts and shows refused orders",
            ),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(Topic(Control), &[Read], "shows whether the calls are paused"),
            needs(ValidatorsGroup, &[Describe], "reads the validators' offsets"),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox parked groups, list, show; notes",
        permissions: &[
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(CallersGroup, &[Describe], READS_NOTES),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox dead-letters groups, list, show",
        permissions: &[
            needs(Topic(Orders), &[Describe], "names the partitions of the orders"),
            needs(Topic(OrderDeadLetters), &[Read], "shows refused orders"),
            needs(Topic(CallDeadLetters), &[Read], "shows rejected calls"),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox operations list, replay status",
        permissions: &[
            needs(Topic(Operations), &[Read], "shows what operators have changed"),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: "outbox state verify",
        permissions: &[
            needs(Topic(Orders), &[Describe], READS_OFFSETS),
            needs(Topic(Pending), &[Read], "compares the changelog with the outbox"),
            needs(
                Topic(Changelog),
                &[Read],
                "compares the stores with the changelog",
            ),
            needs(ValidatorsGroup, &[Describe], READS_OFFSETS),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox pause, resume",
        permissions: &[
            needs(
                Topic(Control),
                &[Read, Write, DescribeConfigs],
                "sets the switch, and reads it back",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(CallersGroup, &[Describe], "names the callers that follow"),
            needs(TransactionalId("outbox-control"), &[Write], IN_ONE_TRANSACTION),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox parked settle, reconcile",
        permissions: &[
            needs(
                Topic(Pending),
                &[Read, Write, DescribeConfigs],
                "reads calls, and appends copies",
            ),
            needs(
                Topic(Processed),
                &[Read, Write, DescribeConfigs],
                "reads and writes outcomes",
            ),
            needs(
                Topic(CallDeadLetters),
                &[Read, Write, DescribeConfigs],
                "reads and writes dead letters",
            ),
            needs(
                Topic(Parked),
                &[Read, Write, DescribeConfigs],
                "reads parked calls, writes settlements",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(
                TransactionalIdOf("outbox-settle-", Parked),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox replay plan, run, pause, resume, cancel",
        permissions: &[
            needs(
                Topic(Pending),
                &[Read, Write, DescribeConfigs],
                "reads calls, and appends copies",
            ),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(
                Topic(Operations),
                &[Read, Write, DescribeConfigs],
                "reads and records plans and replays",
            ),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(
                TransactionalIdOf("outbox-replay-", Pending),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(
                TransactionalIdOf(OPERATIONS_ID, Operations),
                &[Write],
                "records a plan",
            ),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox dead-letters replay",
        permissions: &[
            needs(Topic(Orders), &[Write, DescribeConfigs], "writes orders back"),
            needs(
                Topic(OrderDeadLetters),
                &[Read, Write, DescribeConfigs],
                "reads refused orders, and records which were written back",
            ),
            needs(
                Topic(CallDeadLetters),
                &[Describe],
                "reads the layout of the topics",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(
                TransactionalIdOf("outbox-dead-letters-", OrderDeadLetters),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox group create, recover",
        permissions: &[
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(
                CallersGroup,
                &[Read],
                "commits the group's offsets and call notes",
            ),
            needs(TransactionalIdOf(OPERATIONS_ID, Operations), &[Write], RECORDS),
        ],
    },
    Needed {
        user: User::Operator,
        what: "outbox state rebuild, repartition",
        permissions: &[
            needs(Topic(Orders), &[Read], READS_OFFSETS),
            needs(Topic(Pending), &[Read], "finds what the changelog has lost"),
            needs(
                Topic(Changelog),
                &[Read, Write, DescribeConfigs],
                "appends what it has lost",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(
                ValidatorsGroup,
                &[Read],
                "commits the offsets with the new topic's id",
            ),
            needs(
                TransactionalId("outbox-state-rebuild"),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(TransactionalIdOf(OPERATIONS_ID, Operations), &[Write], RECORDS),
        ],
    },
];

const CREATES: &str = "creates and verifies the topic";
const VERIFIES: &str = "verifies the topic";
const READS_CALLS: &str = "reads what became of the calls";
const READS_NOTES: &str = "reads the callers' offsets and call notes";
const READS_OFFSETS: &str = "reads the validators' offsets";
const FINDS_COORDINATOR: &str = "librdkafka asks for the coordinator before it reads";
const RECORDS: &str = "records the change";
const IN_ONE_TRANSACTION: &str = "changes all or nothing, and fences a second operator";
/// Group whose id the commands have where they need one.
pub const COMMANDS_GROUP: &str = "outbox-command-line";
/// Beginning of the transactional id under which operations are recorded on their own.
const OPERATIONS_ID: &str = "outbox-operations-";

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
            TransactionalId(id) => (ResourceKind::TransactionalId, id.to_owned(), false),
            TransactionalIdOf(id, purpose) => {
                let name = format!("{id}{}", purpose.name(names.topics));
                (ResourceKind::TransactionalId, name, false)
            }
            // The name that Kafka gives the only resource of this kind.
            Cluster => (ResourceKind::Cluster, "kafka-cluster".to_owned(), false),
        }
    }
}

/// Returns what a user needs for all that a user of this kind runs, without duplicates.
#[must_use]
pub fn of(user: User, names: Names<'_>) -> Vec<Acl> {
    let mut acls: Vec<Acl> = NEEDED
        .iter()
        .filter(|needed| user.includes(needed.user))
        .flat_map(|needed| needed.permissions)
        .flat_map(|permission| permission.acls(names))
        .collect();
    acls.sort();
    acls.dedup();
    // What implies DESCRIBE stands beside it if an operator runs several commands.
    let implies = |acl: &Acl, other: &Acl| {
        (acl.kind, &acl.name) == (other.kind, &other.name)
            && other.operation == Describe
            && matches!(acl.operation, Read | Write | Delete)
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
