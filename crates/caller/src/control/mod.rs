//! Pausing and resuming the calls: an operator's switch on the control topic, which every caller follows.
//!
//! `follower` reads the topic, `report` tells operators and the run loop what it means.

mod follower;
mod report;

use records::control::{InvalidSwitch, Switch};

pub(crate) use follower::follow;

/// State of the control topic.
#[derive(Debug)]
pub(crate) enum Control {
    /// The topic is read to its end; `None` if it has no switch of this group.
    Switch(Option<Switch>),
    /// The latest switch of this group cannot be understood.
    Invalid(InvalidSwitch),
    /// The topic cannot be read. The state that was read before stays in force.
    Unreadable(anyhow::Error),
}
