//! Partitions that stay unassigned because no rebalance is in progress.
//!
//! A cooperative rebalance that moves partitions takes two rounds: in the first they are revoked, and nobody
//! owns them; in the second they are assigned. The second round starts when the member that released them
//! joins again. A static member that is killed between the two, and restarts within its session, gets its old
//! assignment without a rebalance: the group is stable, and the revoked partitions stay unassigned until a
//! member joins or leaves. Kafka does not report that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use records::Partition;

use crate::admin::describe_group::Group;

/// Decides, from observations of a group, that partitions stay unassigned, and which member acts.
#[derive(Debug)]
pub(super) struct UnassignedRule {
    limit: Duration,
    suspicion: Option<Suspicion>,
}

/// Partitions that have been unassigned for longer than a working rebalance takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnassignedPartitions {
    /// Unassigned partitions, in their order.
    pub(super) partitions: Vec<Partition>,
    /// Time since this state was first observed.
    pub(super) lasting: Duration,
    /// Set if it is this member's turn to trigger a rebalance.
    pub(super) should_trigger_rebalance: bool,
}

/// A state of the group that has unassigned partitions.
#[derive(Debug)]
struct Suspicion {
    members: BTreeMap<String, BTreeSet<Partition>>,
    partitions: Vec<Partition>,
    /// Time of the first observation of this state.
    since: Instant,
    /// Time at which this member last acted, or else of the first observation.
    acted: Instant,
}

impl UnassignedRule {
    /// Creates a rule for a group whose rebalance rounds take at most `limit`.
    #[must_use]
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            suspicion: None,
        }
    }

    /// Returns `true` if the last observation found unassigned partitions, for however short a time.
    #[must_use]
    pub(super) const fn is_suspicious(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Takes an observation by the member `member_id` of a group whose topic has `partitions` partitions.
    /// Returns partitions that stay unassigned once the group has been unchanged for the limit.
    pub(super) fn observe(
        &mut self,
        group: &Group,
        partitions: usize,
        member_id: &str,
        now: Instant,
    ) -> Option<UnassignedPartitions> {
        let unassigned = unassigned(group, partitions);
        if !group.is_stable || group.members.is_empty() || unassigned.is_empty() {
            self.suspicion = None;
            return None;
        }
        let suspicion = match &mut self.suspicion {
            Some(suspicion) if suspicion.members == group.members && suspicion.partitions == unassigned => {
                suspicion
            }
            // Any change shows that the group is moving, so the time starts again.
            _ => {
                self.suspicion = Some(Suspicion {
                    members: group.members.clone(),
                    partitions: unassigned,
                    since: now,
                    acted: now,
                });
                return None;
            }
        };
        let lasting = now.saturating_duration_since(suspicion.since);
        if lasting < self.limit {
            return None;
        }
        let should_trigger_rebalance = turn(group, member_id).is_some_and(|turn| {
            now.saturating_duration_since(suspicion.acted) >= self.limit.saturating_mul(turn)
        });
        if should_trigger_rebalance {
            suspicion.acted = now;
        }
        Some(UnassignedPartitions {
            partitions: unassigned,
            lasting,
            should_trigger_rebalance,
        })
    }
}

fn unassigned(group: &Group, partitions: usize) -> Vec<Partition> {
    (0..i32::try_from(partitions).unwrap_or(i32::MAX))
        .map(Partition)
        .filter(|partition| !group.members.values().any(|owned| owned.contains(partition)))
        .collect()
}

/// Returns the number of limits after which this member acts; `None` if it is not in the group.
fn turn(group: &Group, member_id: &str) -> Option<u32> {
    // The member with the fewest partitions acts first, and among equals the one with the lowest id. All
    // members observe the same, so they agree without a message. The next one follows a limit later, in case
    // that the first one is of a kind that does not act.
    let mut members: Vec<_> = group
        .members
        .iter()
        .map(|(id, owned)| (owned.len(), id.as_str()))
        .collect();
    members.sort_unstable();
    let before = members.iter().position(|(_, id)| *id == member_id)?;
    u32::try_from(before).ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    /// Creates a stable group.
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

    /// Returns the results of one member's observations, each made at a second, of a group with 6 partitions:
    /// `!` where it triggers a rebalance, `?` where it reports unassigned partitions, `.` where it does
    /// nothing.
    fn results(member_id: &str, observations: &[(u64, &Group)]) -> String {
        let mut rule = UnassignedRule::new(LIMIT);
        let start = Instant::now();
        observations
            .iter()
            .map(|(second, group)| {
                match rule.observe(group, 6, member_id, start + Duration::from_secs(*second)) {
                    Some(found) if found.should_trigger_rebalance => '!',
                    Some(_) => '?',
                    None => '.',
                }
            })
            .collect()
    }

    #[test]
    fn member_with_fewest_partitions_acts() {
        let gap = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let observations = [(0, &gap), (14, &gap), (15, &gap), (17, &gap)];
        assert_eq!(results("b", &observations), "..!?");
        assert_eq!(results("a", &observations), "..??");
        // A member that does not know its id yet, or is out of the group.
        assert_eq!(results("", &observations), "..??");

        let mut rule = UnassignedRule::new(LIMIT);
        let now = Instant::now();
        assert_eq!(rule.observe(&gap, 6, "b", now), None);
        let found = rule.observe(&gap, 6, "b", now + Duration::from_secs(20));
        let found = found.expect("it has lasted");
        assert_eq!(found.partitions, [0, 1, 2].map(Partition));
        assert_eq!(found.lasting, Duration::from_secs(20));
    }

    #[test]
    fn lowest_member_id_acts_among_equals() {
        let gap = group(&[("a", &[3, 4]), ("b", &[0, 1])]);
        let observations = [(0, &gap), (15, &gap)];
        assert_eq!(results("a", &observations), ".!");
        assert_eq!(results("b", &observations), ".?");
    }

    #[test]
    fn members_act_in_turn_while_it_lasts() {
        let gap = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let observations: Vec<(u64, &Group)> = (0..=65).step_by(5).map(|second| (second, &gap)).collect();
        assert_eq!(results("b", &observations), "...!??!??!??!?");
        assert_eq!(results("a", &observations), "...???!?????!?");
    }

    #[test]
    fn single_observation_is_not_enough() {
        let gap = group(&[("a", &[])]);
        assert_eq!(results("a", &[(1_000, &gap)]), ".");
    }

    #[test]
    fn any_change_restarts_the_wait() {
        let before = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let moves_on = group(&[("a", &[3, 4]), ("b", &[])]);
        let restarted = group(&[("a2", &[3, 4, 5]), ("b", &[])]);
        for after in [&moves_on, &restarted] {
            let observations = [(0, &before), (14, &before), (16, after), (30, after), (31, after)];
            assert_eq!(results("b", &observations), "....!", "{after:?}");
        }
    }

    #[test]
    fn rebalancing_or_complete_group_is_left_alone() {
        let gap = group(&[("a", &[3, 4, 5]), ("b", &[])]);
        let complete = group(&[("a", &[3, 4, 5]), ("b", &[0, 1, 2])]);
        let moving = Group {
            is_stable: false,
            ..gap.clone()
        };
        assert_eq!(results("b", &[(0, &complete), (60, &complete)]), "..");
        assert_eq!(results("b", &[(0, &moving), (60, &moving)]), "..");
        for between in [&complete, &moving] {
            assert_eq!(
                results("b", &[(0, &gap), (10, between), (20, &gap), (34, &gap)]),
                "...."
            );
        }
        let empty = Group::default();
        assert_eq!(results("b", &[(0, &empty), (60, &empty)]), "..");
    }
}
