//! The operator's switch, as logs and readiness report it.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use records::control::{Calls, Switch};
use service::failpoint::guard_removed;

use crate::control::Control;
use crate::effects::Shell;

/// Readiness condition of the control topic.
const CONTROL: &str = "control";

impl Shell {
    /// Reports the state of the control topic. Returns whether the calls are to be paused; `None`: as before.
    pub(crate) fn control(&self, control: Control) -> Option<bool> {
        if guard_removed!("guard-pause") {
            return Some(false);
        }
        let topic = &self.config.topics.control;
        match control {
            Control::Switch(switch) => {
                self.health.set_ready(CONTROL);
                Some(match switch {
                    Some(switch) => report(&switch),
                    None => {
                        if self.config.caller.start_paused {
                            tracing::warn!(
                                "calls paused at the start (caller.start_paused), until outbox resume"
                            );
                        }
                        self.config.caller.start_paused
                    }
                })
            }
            Control::Invalid(error) => {
                let reason = format!(
                    "the switch of group {} on {topic} cannot be read: {error}. No call is made. Run the version \
                     of the caller that it was written for, or set it again: outbox resume",
                    self.config.kafka.group_id
                );
                tracing::error!(reason, "calls paused, operator action required");
                self.health.set_unready(CONTROL, reason);
                Some(true)
            }
            Control::Unreadable(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, "control topic not read, retrying");
                self.health.set_unready(
                    CONTROL,
                    format!(
                        "the control topic {topic} cannot be read, so that a pause is not noticed: {error}"
                    ),
                );
                None
            }
        }
    }

    /// Reports that nothing is sent before the control topic was read.
    pub(crate) fn control_unknown(&self) {
        let topic = &self.config.topics.control;
        self.health
            .set_unready(CONTROL, format!("the control topic {topic} is not read yet"));
    }
}

fn report(switch: &Switch) -> bool {
    let at = u64::try_from(switch.at.0).unwrap_or_default();
    let at = format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at)).to_string();
    let (by, reason) = (&switch.by, switch.reason.as_deref().unwrap_or_default());
    match switch.calls {
        Calls::Paused => tracing::warn!(by, at, reason, "calls paused by an operator"),
        Calls::Running => tracing::info!(by, at, reason, "calls resumed by an operator"),
    }
    switch.calls == Calls::Paused
}
