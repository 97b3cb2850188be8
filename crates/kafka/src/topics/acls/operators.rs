//! Least permissions of the commands that change something.

use super::Operation::{Create, Describe, DescribeConfigs, Read, Write};
use super::Resource::{CallersGroup, Cluster, CommandsGroup, Topic, TransactionalIdOf, ValidatorsGroup};
use super::{FINDS_COORDINATOR, Needed, OPERATIONS_ID, READS_CALLS, READS_NOTES, User, What, needs};
use crate::topics::Purpose::{
    CallDeadLetters, Changelog, Control, Operations, OrderDeadLetters, Orders, Parked, Pending, Processed,
};

/// What each command needs that an operator runs, or who creates the topics.
pub(super) const OPERATORS: &[Needed] = &[
    Needed {
        user: User::Creator,
        what: What::Commands(&["topics create"]),
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
        user: User::Operator,
        what: What::Commands(&["pause", "resume"]),
        permissions: &[
            needs(
                Topic(Control),
                &[Read, Write, DescribeConfigs],
                "sets the switch, and reads it back",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(CallersGroup, &[Describe], "names the callers that follow"),
            needs(
                TransactionalIdOf("outbox-control-", Control),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
        ],
    },
    Needed {
        user: User::Operator,
        what: What::Commands(&["parked settle", "parked reconcile"]),
        permissions: &[
            needs(
                Topic(Pending),
                &[Read, Write, DescribeConfigs],
                "reads whose calls they are, appends copies",
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
        what: What::Commands(&["replay plan"]),
        permissions: &[
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(Topic(Operations), &[Write, DescribeConfigs], "records the plan"),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(
                TransactionalIdOf(OPERATIONS_ID, Operations),
                &[Write],
                "records the plan",
            ),
        ],
    },
    Needed {
        user: User::Operator,
        what: What::Commands(&["replay run"]),
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
                "reads the plan, and records how far it is",
            ),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(
                TransactionalIdOf("outbox-replay-", Pending),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Operator,
        what: What::Commands(&["replay pause", "replay resume", "replay cancel"]),
        permissions: &[
            needs(
                Topic(Pending),
                &[Describe, DescribeConfigs],
                "reads the largest size of a record",
            ),
            needs(
                Topic(Operations),
                &[Read, Write, DescribeConfigs],
                "reads the replay, and records the change",
            ),
            needs(
                TransactionalIdOf("outbox-replay-", Pending),
                &[Write],
                "fences the run of the replay",
            ),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Operator,
        what: What::Commands(&["dead-letters replay"]),
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
        what: What::Commands(&["group create"]),
        permissions: &[
            needs(Topic(Pending), &[Read], "counts the calls to make"),
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
        what: What::Commands(&["group recover"]),
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
        what: What::Commands(&["state rebuild"]),
        permissions: &[
            needs(
                Topic(Orders),
                &[Read],
                "reads and commits the validators' offsets",
            ),
            needs(Topic(Pending), &[Read], "finds what the changelog has lost"),
            needs(
                Topic(Changelog),
                &[Read, Write, DescribeConfigs],
                "appends what it has lost",
            ),
            needs(
                Topic(Operations),
                &[Read, Write, DescribeConfigs],
                "finds whether the topics have grown, and records the change",
            ),
            needs(
                ValidatorsGroup,
                &[Read],
                "commits the offsets with the topics as they are now",
            ),
            needs(
                TransactionalIdOf("outbox-state-rebuild-", Changelog),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(TransactionalIdOf(OPERATIONS_ID, Operations), &[Write], RECORDS),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Operator,
        what: What::Commands(&["state repartition"]),
        permissions: &[
            needs(
                Topic(Orders),
                &[Read],
                "reads orders that wait; commits the validators' offsets",
            ),
            needs(Topic(Pending), &[Describe], "reads the layout of the topics"),
            needs(
                Topic(Changelog),
                &[Read, Write, DescribeConfigs],
                "appends the keys to their new partitions",
            ),
            needs(Topic(Operations), &[Write, DescribeConfigs], RECORDS),
            needs(
                ValidatorsGroup,
                &[Read],
                "commits the offsets with the topics as they are now",
            ),
            needs(
                TransactionalIdOf("outbox-state-rebuild-", Changelog),
                &[Write],
                IN_ONE_TRANSACTION,
            ),
            needs(TransactionalIdOf(OPERATIONS_ID, Operations), &[Write], RECORDS),
        ],
    },
];

const CREATES: &str = "creates and verifies the topic";
const RECORDS: &str = "records the change";
const IN_ONE_TRANSACTION: &str = "changes all or nothing, and fences a second operator";
