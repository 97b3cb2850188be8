//! Another member of the group under our own instance id: another process, or a ghost of this one?
//!
//! A broker that is away for a moment may take one request to join twice, and give the second one the instance id. We
//! are fenced then by a member that nobody is. It sends no heartbeats, so that the group expels it after a session
//! time-out. A member that outlives that is another process, by the same name.
//!
//! ```text
//! fenced ── look ──▶ Unknown   no answer: wait, and begin to count anew
//!            ▲ ├───▶ Held      it may be a ghost yet: wait
//!            └─┘───▶ Free      nobody has the id (any longer): join, as at a start
//!              └───▶ Anothers  it lives: leave
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use crate::admin::describe_group::Group;

/// What a fenced member has seen of its group since.
#[derive(Debug)]
pub struct Rule {
    instance_id: String,
    limit: Duration,
    seen: Option<Seen>,
}

/// Whose our instance id is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The group could not be asked, or no broker tells of it.
    Unknown,
    /// This member has it, which may be a ghost; seen for so long.
    HeldBy(String, Duration),
    /// Nobody's.
    Vacant,
    /// That of another process: this member has been seen for so long.
    LiveProcess(String, Duration),
}

#[derive(Debug)]
struct Seen {
    group: Group,
    /// Since when the group is at rest as it is.
    unchanged: Instant,
    /// Since when some member has the id, whichever.
    held: Instant,
}

impl Rule {
    /// For a member that was fenced as `instance_id`, and its session time-out.
    #[must_use]
    pub fn new(instance_id: &str, session_timeout: Duration) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            limit: session_timeout + MARGIN,
            seen: None,
        }
    }

    /// Takes in how the group stands now; `None` if it could not be asked.
    ///
    /// Each rebalance, and each move of the group to another broker, lets a ghost live for another session: so any
    /// change begins the count anew. It does not do so for ever: where the id is held through so many changes, others
    /// are at work with it.
    pub fn look(&mut self, group: Option<&Group>, now: Instant) -> Owner {
        let Some(group) = group else {
            self.seen = None;
            return Owner::Unknown;
        };
        let holder = holder(group, &self.instance_id);
        let seen = self.seen.get_or_insert_with(|| Seen {
            group: group.clone(),
            unchanged: now,
            held: now,
        });
        if seen.group != *group || (group.is_known && !group.is_stable) {
            seen.group = group.clone();
            seen.unchanged = now;
        }
        if holder.is_none() {
            seen.held = now;
        }
        let unchanged = now.saturating_duration_since(seen.unchanged);
        let held = now.saturating_duration_since(seen.held);
        match holder {
            // A group that no broker tells of may be on its way from one to another; one that never comes back has no
            // members.
            None if group.is_known || unchanged >= self.limit => Owner::Vacant,
            None => Owner::Unknown,
            Some(by) if unchanged >= self.limit || held >= self.limit * CHANGES_MAX => {
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
                "no broker tells who has this instance id in the group, which was taken from this one; waiting"
            ),
            Self::HeldBy(by, lasting) => write!(
                f,
                "the member {by} has taken this instance id in the group, seen for {} s; waiting until it is gone, or \
                 known to be another process",
                lasting.as_secs()
            ),
            Self::Vacant => write!(f, "nobody has this instance id in the group"),
            Self::LiveProcess(by, lasting) => write!(
                f,
                "the member {by} has taken this instance id in the group, and lives: seen for {} s",
                lasting.as_secs()
            ),
        }
    }
}

/// The member that has the instance id. The coordinator names static members after it: the id, and a UUID.
fn holder<'a>(group: &'a Group, instance_id: &str) -> Option<&'a str> {
    let is_uuid = |text: &str| {
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
    };
    let is_named = |member: &str| {
        let unique = member
            .strip_prefix(instance_id)
            .and_then(|rest| rest.strip_prefix('-'));
        unique.is_some_and(is_uuid)
    };
    group.members.keys().map(String::as_str).find(|id| is_named(id))
}

/// What comes on top of a session until an expelled member is seen to be gone: the coordinator's timers, and our looks.
const MARGIN: Duration = Duration::from_secs(3);
/// So many of our limits the id may be held, whatever changes.
const CHANGES_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(7);

    fn member(instance: &str, number: u32) -> String {
        format!("{instance}-{number:08x}-dead-beef-0000-0123456789ab")
    }

    /// A group at rest with these members.
    fn group(members: &[String]) -> Group {
        Group {
            is_known: true,
            is_stable: true,
            members: members.iter().map(|id| (id.clone(), [].into())).collect(),
        }
    }

    /// What looks at these seconds come to: `?` unknown, `.` held, `f` free, `a` another's.
    fn stands(looks: &[(u64, Option<&Group>)]) -> String {
        let mut rule = Rule::new("v-1", SESSION);
        let start = Instant::now();
        looks
            .iter()
            .map(
                |(second, group)| match rule.look(*group, start + Duration::from_secs(*second)) {
                    Owner::Unknown => '?',
                    Owner::HeldBy(..) => '.',
                    Owner::Vacant => 'f',
                    Owner::LiveProcess(..) => 'a',
                },
            )
            .collect()
    }

    fn every_second(group: &Group, seconds: std::ops::Range<u64>) -> Vec<(u64, Option<&Group>)> {
        seconds.map(|second| (second, Some(group))).collect()
    }

    #[test]
    fn a_ghost_goes_with_its_session_and_another_process_stays() {
        let held = group(&[member("v-1", 1), member("v-2", 2)]);
        let gone = group(&[member("v-2", 2)]);
        let empty = group(&[]);
        assert_eq!(stands(&every_second(&held, 0..11)), "..........a");
        for after in [&gone, &empty] {
            let mut looks = every_second(&held, 0..8);
            looks.push((8, Some(after)));
            assert_eq!(stands(&looks), "........f");
        }
        let told = Rule::new("v-1", SESSION).look(Some(&held), Instant::now());
        assert_eq!(told, Owner::HeldBy(member("v-1", 1), Duration::ZERO));
    }

    #[test]
    fn only_an_answer_counts() {
        let held = group(&[member("v-1", 1)]);
        // Brokers that are away, and came back with a ghost that has a whole session again.
        let looks = [(0, Some(&held)), (9, None), (500, None), (501, Some(&held))];
        assert_eq!(stands(&looks), ".??.");
        let mut looks = looks.to_vec();
        looks.extend(every_second(&held, 502..512));
        assert_eq!(stands(&looks), ".??..........a");
        // One look is not enough, however long the process slept.
        assert_eq!(stands(&[(1_000, Some(&held))]), ".");
    }

    #[test]
    fn a_group_that_no_broker_tells_of_may_be_on_its_way() {
        let held = group(&[member("v-1", 1)]);
        let unlisted = Group::default();
        let looks = [
            (0, Some(&held)),
            (5, Some(&unlisted)),
            (6, Some(&held)),
            (15, Some(&held)),
        ];
        assert_eq!(stands(&looks), ".?..");
        let mut looks = every_second(&unlisted, 0..10);
        assert_eq!(stands(&looks), "??????????");
        looks.push((10, Some(&unlisted)));
        assert_eq!(stands(&looks), "??????????f");
    }

    #[test]
    fn each_change_lets_a_ghost_live_for_another_session() {
        let before = group(&[member("v-1", 1)]);
        let mut moving = group(&[member("v-1", 1), member("v-2", 2)]);
        moving.is_stable = false;
        let after = group(&[member("v-1", 1), member("v-2", 2)]);
        let restarted = group(&[member("v-1", 9)]);
        let looks = [
            (0, Some(&before)),
            (9, Some(&moving)),
            (19, Some(&moving)),
            (20, Some(&after)),
            (29, Some(&after)),
            (30, Some(&after)),
        ];
        assert_eq!(stands(&looks), ".....a");
        let looks = [
            (0, Some(&before)),
            (9, Some(&restarted)),
            (18, Some(&restarted)),
            (19, Some(&restarted)),
        ];
        assert_eq!(stands(&looks), "...a");
    }

    #[test]
    fn who_holds_the_id_through_any_number_of_changes_is_another() {
        let lives: Vec<Group> = (0..20).map(|life| group(&[member("v-1", life)])).collect();
        let looks: Vec<_> = lives
            .iter()
            .enumerate()
            .map(|(n, group)| (5 * n as u64, Some(group)))
            .collect();
        assert_eq!(stands(&looks), "............aaaaaaaa");
    }

    #[test]
    fn a_name_that_only_begins_alike_is_not_ours() {
        let guest = format!("v-1-guest-{}", &member("v", 1)[2..]);
        let others = group(&[
            member("v-11", 1),
            member("v-1-b", 1),
            guest,
            "v-1".into(),
            "v-1-".into(),
            "v-1-x".into(),
        ]);
        assert_eq!(stands(&[(0, Some(&others))]), "f");
    }
}
