//! Static members of a group, by the ids that its coordinator gives them, and those that it no longer has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::describe_group::Group;

/// Returns the instance id of a static member, `None` if the member id is not built like one of a static member.
pub(super) fn instance_id(member_id: &str) -> Option<&str> {
    // The coordinator names a static member after its instance id: the id, a hyphen and a UUID.
    let hyphen = member_id.len().checked_sub(UUID_LENGTH + 1)?;
    let (instance_id, rest) = member_id.split_at_checked(hyphen)?;
    let parts: Vec<&str> = rest.strip_prefix('-')?.split('-').collect();
    let is_uuid = parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.concat().chars().all(|digit| digit.is_ascii_hexdigit());
    is_uuid.then_some(instance_id)
}

/// Length of a UUID with its hyphens.
const UUID_LENGTH: usize = 36;

/// Instance ids that the group was observed to have and no longer has. Clones share them.
#[derive(Clone, Debug)]
pub struct FormerMembers(Arc<Mutex<Memberships>>);

impl FormerMembers {
    /// Creates the record of a member whose own instance id is `own`, which never counts as a former one.
    #[must_use]
    pub fn new(own: &str) -> Self {
        Self(Arc::new(Mutex::new(Memberships {
            own: own.to_owned(),
            former_since: BTreeMap::new(),
        })))
    }

    /// Takes an observation of the group.
    pub fn observe(&self, group: &Group) {
        self.lock().observe(group, Instant::now());
    }

    /// Returns the instance ids that have left the group, or were evicted, since they were observed first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.lock().former()
    }

    /// Forgets an instance id, until the group has it again.
    pub fn forget(&self, instance_id: &str) {
        self.lock().former_since.remove(instance_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memberships> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Memberships {
    own: String,
    /// By instance id, the time at which the group was first observed without it; `None` while the group has it.
    former_since: BTreeMap<String, Option<Instant>>,
}

impl Memberships {
    fn observe(&mut self, group: &Group, now: Instant) {
        // While it moves from one broker to another, no broker reports the group.
        if !group.is_known {
            return;
        }
        self.former_since.retain(|_, since| {
            let since = *since.get_or_insert(now);
            now.saturating_duration_since(since) < REMEMBERED
        });
        let instances = group.members.keys().filter_map(|id| instance_id(id));
        for instance in instances.filter(|instance| *instance != self.own) {
            if self.former_since.len() < REMEMBERED_MAX || self.former_since.contains_key(instance) {
                self.former_since.insert(instance.to_owned(), None);
            }
        }
    }

    fn former(&self) -> Vec<String> {
        let is_former = |(id, since): (&String, &Option<Instant>)| since.is_some().then(|| id.clone());
        self.former_since.iter().filter_map(is_former).collect()
    }
}

/// Time for which a former member is remembered: the default of the brokers' `transaction.max.timeout.ms`, after which
/// they have ended its transaction themselves, and a minute for their timers.
const REMEMBERED: Duration = Duration::from_secs(16 * 60);
/// Maximum number of instance ids that are remembered.
const REMEMBERED_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    fn group(instances: &[&str]) -> Group {
        Group {
            is_known: true,
            is_stable: true,
            members: instances
                .iter()
                .map(|id| (format!("{id}-{UUID}"), [].into()))
                .collect(),
        }
    }

    fn memberships() -> Memberships {
        Memberships {
            own: "v-1".into(),
            former_since: BTreeMap::new(),
        }
    }

    #[test]
    fn instance_id_is_what_precedes_the_uuid() {
        assert_eq!(instance_id(&format!("v-1-{UUID}")), Some("v-1"));
        assert_eq!(
            instance_id(&format!("v-1-{UUID}-{UUID}")),
            Some(format!("v-1-{UUID}").as_str())
        );
        for other in [
            "",
            "v-1",
            UUID,
            &format!("v-1{UUID}"),
            &format!("ö{}", &UUID[1..]),
        ] {
            assert_eq!(instance_id(other), None, "{other}");
        }
        assert_eq!(instance_id(&format!("v-1-{}", UUID.replace('a', "g"))), None);
    }

    #[test]
    fn member_that_the_group_no_longer_has_is_former() {
        let (mut members, now) = (memberships(), Instant::now());
        members.observe(&group(&["v-1", "v-2", "v-3"]), now);
        assert_eq!(members.former(), Vec::<String>::new());
        members.observe(&group(&["v-1", "v-3"]), now);
        assert_eq!(members.former(), ["v-2"]);
        members.observe(&group(&["v-1", "v-2"]), now);
        assert_eq!(members.former(), ["v-3"]);
    }

    #[test]
    fn own_id_and_a_group_on_the_move_are_no_evidence() {
        let (mut members, now) = (memberships(), Instant::now());
        members.observe(&group(&["v-1", "v-2"]), now);
        members.observe(&Group::default(), now);
        assert_eq!(
            members.former(),
            Vec::<String>::new(),
            "no broker reports the group"
        );
        members.observe(&group(&[]), now);
        assert_eq!(members.former(), ["v-2"]);
    }

    #[test]
    fn former_member_is_forgotten_after_the_longest_transaction() {
        let (mut members, now) = (memberships(), Instant::now());
        members.observe(&group(&["v-2"]), now);
        members.observe(&group(&[]), now + Duration::from_secs(1));
        members.observe(&group(&[]), now + REMEMBERED);
        assert_eq!(members.former(), ["v-2"]);
        members.observe(&group(&[]), now + REMEMBERED + Duration::from_secs(1));
        assert_eq!(members.former(), Vec::<String>::new());
    }

    #[test]
    fn number_of_remembered_ids_is_bounded() {
        let (mut members, now) = (memberships(), Instant::now());
        for round in 0..3 {
            let ids: Vec<String> = (0..REMEMBERED_MAX).map(|id| format!("{round}-{id}")).collect();
            members.observe(&group(&ids.iter().map(String::as_str).collect::<Vec<_>>()), now);
            assert_eq!(members.former_since.len(), REMEMBERED_MAX);
        }
    }
}
