//! Least permissions of the programs.

use super::Operation::{Delete, DescribeConfigs, Read, Write};
use super::Resource::{
    CallersGroup, CallersTransactionalIds, Cluster, Topic, ValidatorsGroup, ValidatorsTransactionalIds,
};
use super::{Needed, User, What, needs};
use crate::topics::Purpose::{
    CallDeadLetters, Changelog, Control, OrderDeadLetters, Orders, Parked, Pending, Processed,
};

/// What each program needs.
pub(super) const PROGRAMS: &[Needed] = &[
    Needed {
        user: User::Validator,
        what: What::Program("validator"),
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
        what: What::Program("caller"),
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
];
