//! Least permissions of the commands that change nothing.

use super::Operation::{Describe, DescribeConfigs, Read};
use super::Resource::{CallersGroup, Cluster, CommandsGroup, Topic, ValidatorsGroup};
use super::{FINDS_COORDINATOR, Needed, READS_CALLS, READS_NOTES, User, What, needs};
use crate::topics::Purpose::{
    CallDeadLetters, Changelog, Control, Operations, OrderDeadLetters, Orders, Parked, Pending, Processed,
};

/// What each command needs that a reader runs.
pub(super) const READERS: &[Needed] = &[
    Needed {
        user: User::Reader,
        what: What::Commands(&["topics verify"]),
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
        what: What::Commands(&["status"]),
        permissions: &[
            needs(Topic(Orders), &[Read], "counts orders that wait"),
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(Topic(OrderDeadLetters), &[Read], "counts refused orders"),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(Topic(Control), &[Read], "shows whether the calls are paused"),
            needs(ValidatorsGroup, &[Describe], READS_OFFSETS),
            needs(CallersGroup, &[Describe], READS_NOTES),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["order"]),
        permissions: &[
            needs(Topic(Orders), &[Read], "shows the order as it came"),
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(
                Topic(OrderDeadLetters),
                &[Read],
                "shows whether the order was refused",
            ),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(Topic(Control), &[Read], "shows whether the calls are paused"),
            needs(CallersGroup, &[Describe], READS_NOTES),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["metrics"]),
        permissions: &[
            needs(Topic(Orders), &[Read], "counts orders that wait"),
            needs(Topic(Pending), &[Read], READS_CALLS),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(ValidatorsGroup, &[Describe], READS_OFFSETS),
            needs(CallersGroup, &[Describe], READS_NOTES),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["parked groups", "parked list", "parked show"]),
        permissions: &[
            needs(Topic(Pending), &[Describe], "names the partitions of the outbox"),
            needs(Topic(Processed), &[Read], READS_CALLS),
            needs(Topic(CallDeadLetters), &[Read], READS_CALLS),
            needs(Topic(Parked), &[Read], READS_CALLS),
            needs(CallersGroup, &[Describe], READS_NOTES),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["notes"]),
        permissions: &[
            needs(Topic(Pending), &[Describe], "reads where the outbox ends"),
            needs(CallersGroup, &[Describe], READS_NOTES),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["dead-letters groups", "dead-letters list", "dead-letters show"]),
        permissions: &[
            needs(Topic(Orders), &[Describe], "names the partitions of the orders"),
            needs(Topic(OrderDeadLetters), &[Read], "shows refused orders"),
            needs(Topic(CallDeadLetters), &[Read], "shows rejected calls"),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["operations list", "replay status"]),
        permissions: &[
            needs(Topic(Operations), &[Read], "shows what operators have changed"),
            needs(CommandsGroup, &[Describe], FINDS_COORDINATOR),
        ],
    },
    Needed {
        user: User::Reader,
        what: What::Commands(&["state verify"]),
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
];

const VERIFIES: &str = "verifies the topic";
const READS_OFFSETS: &str = "reads the validators' offsets";
