//! A fenced member looks at its group until it is known whose its instance id is; `instance_id_conflict.rs` says what the looks
//! come to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::membership::instance_id_conflict::{Owner, Rule};

/// What was fenced.
pub struct FencedMember {
    /// The group is asked for through this.
    pub admin: Arc<Admin>,
    /// The group.
    pub group_id: String,
    /// The topic that it reads.
    pub topic: String,
    /// The static membership.
    pub instance_id: String,
    /// The session time-out of that.
    pub session_timeout: Duration,
}

impl FencedMember {
    /// Looks at the group until it is known whose the id is: [`Owner::Vacant`] or [`Owner::LiveProcess`]. Blocks, for
    /// as long as the brokers are away, or until `go_on`, which is told of each look, says no: then `None`.
    pub fn settle(&self, mut go_on: impl FnMut(&Owner) -> bool) -> Option<Owner> {
        let mut rule = Rule::new(&self.instance_id, self.session_timeout);
        let mut is_silent = false;
        loop {
            let group = self.admin.group(&self.group_id, &self.topic, ANSWER_MAX);
            if let Err(fault) = &group
                && !is_silent
            {
                tracing::warn!(
                    error = %fault, group = self.group_id,
                    "the group cannot be asked who has this instance id; waiting until it can"
                );
            }
            is_silent = group.is_err();
            let standing = rule.look(group.as_ref().ok(), Instant::now());
            if !go_on(&standing) {
                return None;
            }
            match standing {
                Owner::Unknown | Owner::HeldBy(..) => std::thread::sleep(EVERY),
                Owner::Vacant | Owner::LiveProcess(..) => return Some(standing),
            }
        }
    }
}

const EVERY: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);
