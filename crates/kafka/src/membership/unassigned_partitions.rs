//! Partitions that belong to nobody, and nothing is on its way to change that.
//!
//! A cooperative rebalance that moves partitions takes two rounds: in the first they are given up, and nobody has
//! them; in the second they are handed out. The second comes when the member that gave them up joins again. A static
//! member that is killed between the two is handed its old place when it is back, without any rebalance: the group is
//! at rest, and the partitions belong to nobody, until somebody comes or goes. Kafka says nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use records::Partition;

use crate::admin::describe_group::Group;

/// What one member of a group has seen of it so far.
#[derive(Debug)]
pub struct Rule {
    limit: Duration,
    seen: Option<Seen>,
}

/// Partitions that have belonged to nobody for longer than an honest rebalance takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnassignedPartitions {
    /// Which, in their order.
    pub partitions: Vec<Partition>,
    /// For how long this has been seen.
    pub lasting: Duration,
    /// It is this member's turn to see to it that they are handed out.
    pub should_trigger_rebalance: bool,
}

#[derive(Debug)]
struct Seen {
    members: BTreeMap<String, BTreeSet<Partition>>,
    partitions: Vec<Partition>,
    since: Instant,
    /// When this member did something about it, or began to see it.
    acted: Instant,
}

impl Rule {
    /// For a group whose members may take so long to give partitions up.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, seen: None }
    }

    /// Whether the last look has found something that may become one of these.
    #[must_use]
    pub const fn suspects(&self) -> bool {
        self.seen.is_some()
    }

    /// Takes in how the group stands now, as the member `me` sees it. Nothing is said before the group has stood
    /// exactly so for the limit.
    ///
    /// Of all members the one with the fewest partitions acts, and among equals the one with the lowest member id:
    /// all see the same, and so agree without a word. The next one follows a limit later, should that one be of a
    /// kind that does not act, and so on.
    pub fn look(
        &mut self,
        group: &Group,
        partitions: usize,
        me: &str,
        now: Instant,
    ) -> Option<UnassignedPartitions> {
        let unowned = unowned(group, partitions);
        if !group.is_stable || group.members.is_empty() || unowned.is_empty() {
            self.seen = None;
            return None;
        }
        let seen = match &mut self.seen {
            Some(seen) if seen.members == group.members && seen.partitions == unowned => seen,
            _ => {
                self.seen = Some(Seen {
                    members: group.members.clone(),
                    partitions: unowned,
                    since: now,
                    acted: now,
                });
                return None;
            }
        };
        let lasting = now.saturating_duration_since(seen.since);
        if lasting < self.limit {
            return None;
        }
        let should_trigger_rebalance = turn(group, me)
            .is_some_and(|turn| now.saturating_duration_since(seen.acted) >= self.limit.saturating_mul(turn));
        if should_trigger_rebalance {
            seen.acted = now;
        }
        Some(UnassignedPartitions {
            partitions: unowned,
            lasting,
            should_trigger_rebalance,
        })
    }
}

fn unowned(group: &Group, partitions: usize) -> Vec<Partition> {
    (0..i32::try_from(partitions).unwrap_or(i32::MAX))
        .map(Partition)
        .filter(|partition| !group.members.values().any(|owned| owned.contains(partition)))
        .collect()
}

/// After how many limits this member acts. `None` if it is not in the group, and so sees nothing that is its own.
fn turn(group: &Group, me: &str) -> Option<u32> {
    let mut members: Vec<_> = group
        .members
        .iter()
        .map(|(id, owned)| (owned.len(), id.as_str()))
        .collect();
    members.sort_unstable();
    let before = members.iter().position(|(_, id)| *id == me)?;
    u32::try_from(before).ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    /// A group at rest.
    fn group(members: &[(&str, &[i32])]) -> Group {
        let members = members
            .iter()
            .map(|(id, owned)| ((*id).to_owned(), owned.iter().copied().map(Partition).collect()));
        Group {
            is_known: true,
            is_stable: true,
            members: members.collect(),
        }
    }

    /// What the looks of one member come to: at which second, at which group, with 6 partitions. As `!` where it
    /// acts, `?` where it tells, `.` where it says nothing.
    fn told(me: &str, looks: &[(u64, &Group)]) -> String {
        let mut rule = Rule::new(LIMIT);
        let start = Instant::now();
        looks
            .iter()
            .map(
                |(second, group)| match rule.look(group, 6, me, start + Duration::from_secs(*second)) {
                    Some(unowned) if unowned.should_trigger_rebalance => '!',
                    Some(_) => '?',
                    None => '.',
                },
            )
            .collect()
    }

    #[test]
    fn partitions_of_nobody_are_told_after_the_limit_and_the_one_with_the_fewest_acts() {
        let hole = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let looks = [(0, &hole), (14, &hole), (15, &hole), (17, &hole)];
        assert_eq!(told("b", &looks), "..!?");
        assert_eq!(told("a", &looks), "..??");
        // One that does not know yet who it is, or is out of the group.
        assert_eq!(told("", &looks), "..??");

        let mut rule = Rule::new(LIMIT);
        let now = Instant::now();
        assert_eq!(rule.look(&hole, 6, "b", now), None);
        let found = rule.look(&hole, 6, "b", now + Duration::from_secs(20));
        let found = found.expect("it has lasted");
        assert_eq!(found.partitions, [0, 1, 2].map(Partition));
        assert_eq!(found.lasting, Duration::from_secs(20));
    }

    #[test]
    fn among_equals_the_lowest_member_id_acts() {
        let hole = group(&[("a", &[3, 4]), ("b", &[0, 1])]);
        let looks = [(0, &hole), (15, &hole)];
        assert_eq!(told("a", &looks), ".!");
        assert_eq!(told("b", &looks), ".?");
    }

    #[test]
    fn where_it_stays_so_each_acts_in_its_turn_and_again() {
        let hole = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let looks: Vec<(u64, &Group)> = (0..=65).step_by(5).map(|second| (second, &hole)).collect();
        assert_eq!(told("b", &looks), "...!??!??!??!?");
        assert_eq!(told("a", &looks), "...???!?????!?");
    }

    #[test]
    fn one_look_is_not_enough_however_long_the_process_slept() {
        let hole = group(&[("a", &[])]);
        assert_eq!(told("a", &[(1_000, &hole)]), ".");
    }

    #[test]
    fn any_change_begins_the_wait_anew() {
        let before = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let moves_on = group(&[("a", &[3, 4]), ("b", &[])]);
        let restarted = group(&[("a2", &[3, 4, 5]), ("b", &[])]);
        for after in [&moves_on, &restarted] {
            let looks = [(0, &before), (14, &before), (16, after), (30, after), (31, after)];
            assert_eq!(told("b", &looks), "....!", "{after:?}");
        }
    }

    #[test]
    fn a_rebalance_under_way_and_a_group_that_has_all_are_left_alone() {
        let hole = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let whole = group(&[("a", &[3, 4, 5]), ("b", &[0, 1, 2])]);
        let moving = Group {
            is_stable: false,
            ..hole.clone()
        };
        assert_eq!(told("b", &[(0, &whole), (60, &whole)]), "..");
        assert_eq!(told("b", &[(0, &moving), (60, &moving)]), "..");
        for between in [&whole, &moving] {
            assert_eq!(
                told("b", &[(0, &hole), (10, between), (20, &hole), (34, &hole)]),
                "...."
            );
        }
        let nobody = Group::default();
        assert_eq!(told("b", &[(0, &nobody), (60, &nobody)]), "..");
    }
}
