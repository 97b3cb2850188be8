//! Another member of the group has our instance id: a live process, or a stale static member?
//!
//! A broker that is unreachable for a moment may process one JoinGroup request twice, and give the second one
//! the instance id. We are then fenced by a stale member with no live process. It sends no heartbeats, so the
//! group evicts it after the session timeout. A member that outlives that is another process with the same
//! id.
//!
//! ```text
//! fenced ── observe ──▶ Unknown      no response: wait, and restart the count
//!              ▲ ├────▶ HeldBy       perhaps a stale member: wait
//!              └─┘────▶ Vacant       no member has the id (any longer): join, as at a start
//!                └────▶ LiveProcess  its member outlives a session: leave
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use super::static_members;
use crate::admin::describe_group::Group;

/// Decides, from observations of the group since a member was fenced, who owns its instance id.
#[derive(Debug)]
pub(super) struct OwnerRule {
    instance_id: String,
    limit: Duration,
    observed: Option<Observed>,
}

/// Owner of our instance id, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The group could not be described, or no broker reports it.
    Unknown,
    /// This member has the id, and may be stale; observed for this long.
    HeldBy(String, Duration),
    /// No member has the id.
    Vacant,
    /// Another process: its member has been observed for this long.
    LiveProcess(String, Duration),
}

#[derive(Debug)]
struct Observed {
    group: Group,
    /// Time since which the group is stable and unchanged.
    unchanged: Instant,
    /// Time since which some member has the id, whichever it is.
    held: Instant,
}

impl OwnerRule {
    /// Creates a rule for a member that was fenced as `instance_id`.
    #[must_use]
    pub(super) fn new(instance_id: &str, session_timeout: Duration) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            limit: session_timeout + EVICTION_MARGIN,
            observed: None,
        }
    }

    /// Takes an observation of the group; `None` if it could not be described.
    pub(super) fn observe(&mut self, group: Option<&Group>, now: Instant) -> Owner {
        let Some(group) = group else {
            // The brokers may have been down, and a restarted coordinator gives a stale member a new session.
            self.observed = None;
            return Owner::Unknown;
        };
        let holder = holder(group, &self.instance_id);
        let observed = self.observed.get_or_insert_with(|| Observed {
            group: group.clone(),
            unchanged: now,
            held: now,
        });
        // Each rebalance, and each move of the group to another broker, lets a stale member live for another
        // session.
        if observed.group != *group || (group.is_known && !group.is_stable) {
            observed.group = group.clone();
            observed.unchanged = now;
        }
        if holder.is_none() {
            observed.held = now;
        }
        let unchanged = now.saturating_duration_since(observed.unchanged);
        let held = now.saturating_duration_since(observed.held);
        match holder {
            // A group that no broker reports may be moving from one to another. If it does not come back, it
            // has no members.
            None if group.is_known || unchanged >= self.limit => Owner::Vacant,
            None => Owner::Unknown,
            // A group that never stops changing must not delay the decision for ever: through so many changes
            // only a live process keeps the id.
            Some(by) if unchanged >= self.limit || held >= self.limit * HELD_LIMITS_MAX => {
                Owner::LiveProcess(by.to_owned(), held)
            }
            Some(by) => Owner::HeldBy(by.to_owned(), held),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(
                f,
                "this member was fenced, and no broker reports which member of the group has its instance \
                 id; waiting"
            ),
            Self::HeldBy(by, lasting) => write!(
                f,
                "the member {by} has this instance id in the group, observed for {} s; waiting until it is \
                 evicted or proves to be another process",
                lasting.as_secs()
            ),
            Self::Vacant => write!(f, "no member has this instance id in the group"),
            Self::LiveProcess(by, lasting) => write!(
                f,
                "the member {by} has this instance id in the group, and lives: observed for {} s",
                lasting.as_secs()
            ),
        }
    }
}

/// Returns the member that has the instance id.
fn holder<'a>(group: &'a Group, instance_id: &str) -> Option<&'a str> {
    let mut members = group.members.keys().map(String::as_str);
    members.find(|id| static_members::instance_id(id) == Some(instance_id))
}

/// Time beyond a session until the eviction of a member is observed: the coordinator's timers and our
/// interval.
const EVICTION_MARGIN: Duration = Duration::from_secs(3);
/// Number of limits after which the owner counts as live despite changes of the group.
const HELD_LIMITS_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(7);

    fn member(instance: &str, number: u32) -> String {
        format!("{instance}-{number:08x}-dead-beef-0000-0123456789ab")
    }

    /// Creates a stable group with these members.
    fn group(members: &[String]) -> Group {
        Group {
            is_known: true,
            is_stable: true,
            members: members.iter().map(|id| (id.clone(), [].into())).collect(),
        }
    }

    /// Returns the results of observations at these seconds: `?` unknown, `.` held, `v` vacant, `l` live
    /// process.
    fn owners(observations: &[(u64, Option<&Group>)]) -> String {
        let mut rule = OwnerRule::new("v-1", SESSION);
        let start = Instant::now();
        observations
            .iter()
            .map(
                |(second, group)| match rule.observe(*group, start + Duration::from_secs(*second)) {
                    Owner::Unknown => '?',
                    Owner::HeldBy(..) => '.',
                    Owner::Vacant => 'v',
                    Owner::LiveProcess(..) => 'l',
                },
            )
            .collect()
    }

    fn every_second(group: &Group, seconds: std::ops::Range<u64>) -> Vec<(u64, Option<&Group>)> {
        seconds.map(|second| (second, Some(group))).collect()
    }

    #[test]
    fn stale_member_is_evicted_and_live_process_stays() {
        let held = group(&[member("v-1", 1), member("v-2", 2)]);
        let gone = group(&[member("v-2", 2)]);
        let empty = group(&[]);
        assert_eq!(owners(&every_second(&held, 0..11)), "..........l");
        for after in [&gone, &empty] {
            let mut observations = every_second(&held, 0..8);
            observations.push((8, Some(after)));
            assert_eq!(owners(&observations), "........v");
        }
        let first = OwnerRule::new("v-1", SESSION).observe(Some(&held), Instant::now());
        assert_eq!(first, Owner::HeldBy(member("v-1", 1), Duration::ZERO));
    }

    #[test]
    fn missing_response_restarts_the_count() {
        let held = group(&[member("v-1", 1)]);
        // Brokers that were down, and came back with a stale member that has a whole session again.
        let observations = [(0, Some(&held)), (9, None), (500, None), (501, Some(&held))];
        assert_eq!(owners(&observations), ".??.");
        let mut observations = observations.to_vec();
        observations.extend(every_second(&held, 502..512));
        assert_eq!(owners(&observations), ".??..........l");
        // One observation is not enough, however long the process slept.
        assert_eq!(owners(&[(1_000, Some(&held))]), ".");
    }

    #[test]
    fn unreported_group_may_be_moving() {
        let held = group(&[member("v-1", 1)]);
        let unlisted = Group::default();
        let observations = [
            (0, Some(&held)),
            (5, Some(&unlisted)),
            (6, Some(&held)),
            (15, Some(&held)),
        ];
        assert_eq!(owners(&observations), ".?..");
        let mut observations = every_second(&unlisted, 0..10);
        assert_eq!(owners(&observations), "??????????");
        observations.push((10, Some(&unlisted)));
        assert_eq!(owners(&observations), "??????????v");
    }

    #[test]
    fn change_gives_stale_member_another_session() {
        let before = group(&[member("v-1", 1)]);
        let mut moving = group(&[member("v-1", 1), member("v-2", 2)]);
        moving.is_stable = false;
        let after = group(&[member("v-1", 1), member("v-2", 2)]);
        let restarted = group(&[member("v-1", 9)]);
        let observations = [
            (0, Some(&before)),
            (9, Some(&moving)),
            (19, Some(&moving)),
            (20, Some(&after)),
            (29, Some(&after)),
            (30, Some(&after)),
        ];
        assert_eq!(owners(&observations), ".....l");
        let observations = [
            (0, Some(&before)),
            (9, Some(&restarted)),
            (18, Some(&restarted)),
            (19, Some(&restarted)),
        ];
        assert_eq!(owners(&observations), "...l");
    }

    #[test]
    fn holder_through_many_changes_is_live() {
        let groups: Vec<Group> = (0..20).map(|number| group(&[member("v-1", number)])).collect();
        let observations: Vec<_> = groups
            .iter()
            .enumerate()
            .map(|(n, group)| (5 * n as u64, Some(group)))
            .collect();
        assert_eq!(owners(&observations), "............llllllll");
    }

    #[test]
    fn similar_member_names_are_not_ours() {
        let extended = format!("v-1-rebalance-trigger-{}", &member("v", 1)[2..]);
        let others = group(&[
            member("v-11", 1),
            member("v-1-b", 1),
            extended,
            "v-1".into(),
            "v-1-".into(),
            "v-1-x".into(),
        ]);
        assert_eq!(owners(&[(0, Some(&others))]), "v");
    }
}
