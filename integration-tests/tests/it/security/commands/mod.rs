//! Least permissions of each command of an operator: with what the list of `outbox topics acls` has for it, and nothing
//! else, it has its effect; without any one of them it names the resource and the operation.
//!
//! Set-up: a broker whose authorizer denies what is not allowed, and a pipeline with calls that were accepted, rejected and
//! parked, and with a refused order. Each command runs as a user of its own, and as users that lack one permission each.
//!
//! Must hold: each command that asks a broker is in one of the three scenarios, and shows or changes what it is for.

mod changing;
mod data;
mod least;
mod looking;
mod restoring;

use std::collections::BTreeSet;

use kafka::topics::acls;

/// Commands that change nothing.
const LOOKING: [&str; 13] = [
    "topics verify",
    "status",
    "order",
    "metrics",
    "parked groups",
    "parked list",
    "parked show",
    "notes",
    "dead-letters groups",
    "dead-letters list",
    "dead-letters show",
    "operations list",
    "replay status",
];
/// Commands that change topics, groups and calls, in the order in which they run.
const CHANGING: [&str; 12] = [
    "topics create",
    "group create",
    "pause",
    "resume",
    "parked settle",
    "parked reconcile",
    "replay plan",
    "replay pause",
    "replay resume",
    "replay run",
    "replay cancel",
    "dead-letters replay",
];
/// Commands on lost, copied or changed topics and groups, in the order in which they run.
const RESTORING: [&str; 4] = [
    "group recover",
    "state verify",
    "state rebuild",
    "state repartition",
];

/// With another test, which compares the list with the command line, each command is tested with an authorizer.
#[test]
fn each_listed_command_is_run_with_an_authorizer() {
    let run: BTreeSet<_> = LOOKING.into_iter().chain(CHANGING).chain(RESTORING).collect();
    let listed: BTreeSet<_> = acls::commands().collect();
    assert_eq!(run, listed);
}
