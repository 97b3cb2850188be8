//! Observation of the group by a fenced member, until it is known who owns its instance id.
//!
//! `instance_id_conflict.rs` decides what the observations mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::instance_id_conflict::{Owner, OwnerRule};
use crate::admin::Admin;

/// A member that was fenced because another one has its instance id.
pub struct FencedMember {
    /// Client that describes the group.
    pub admin: Arc<Admin>,
    /// Id of the group.
    pub group_id: String,
    /// Topic that the group reads.
    pub topic: String,
    /// Instance id of the static membership.
    pub instance_id: String,
    /// Session timeout of the membership.
    pub session_timeout: Duration,
}

impl FencedMember {
    /// Observes the group until the owner of the instance id is known: [`Owner::Vacant`] or
    /// [`Owner::LiveProcess`]. Blocks while the brokers are unreachable. `go_on` is called with each
    /// observation; if it returns `false`, the result is `None`.
    pub fn await_owner(&self, mut go_on: impl FnMut(&Owner) -> bool) -> Option<Owner> {
        let mut rule = OwnerRule::new(&self.instance_id, self.session_timeout);
        let mut has_failed = false;
        loop {
            let group = self.admin.group(&self.group_id, &self.topic, RESPONSE_TIMEOUT);
            // Logged once per outage, because an observation is made twice per second.
            if let Err(error) = &group
                && !has_failed
            {
                tracing::warn!(
                    %error, group = self.group_id,
                    "group cannot be described, owner of the instance id unknown; waiting"
                );
            }
            has_failed = group.is_err();
            let owner = rule.observe(group.as_ref().ok(), Instant::now());
            if !go_on(&owner) {
                return None;
            }
            match owner {
                Owner::Unknown | Owner::HeldBy(..) => std::thread::sleep(INTERVAL),
                Owner::Vacant | Owner::LiveProcess(..) => return Some(owner),
            }
        }
    }
}

/// Interval between two observations of the group.
const INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of each request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
