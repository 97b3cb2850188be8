//! Status of a program: served at `/status` by its admin HTTP server, and read by the operator's command line.
//!
//! It has what only the running program knows: why it is not ready, the state of its circuit breaker, and the state of
//! each of its partitions.
//!
//! Version rule: JSON. An unknown field is ignored: a later version may say more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::health::{Health, Liveness};

/// Path of the status.
pub const PATH: &str = "/status";

/// Status of a program. Its field names are those of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Name of the program, such as `caller`.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// Instance id of the program.
    pub instance_id: String,
    /// `false` if the run loop hangs, as in `/healthz`. What is said of its work is then of the time before.
    pub alive: bool,
    /// Readiness, as in `/readyz`.
    pub ready: bool,
    /// Reasons for which it is not ready.
    pub reasons: Vec<UnreadyReason>,
    /// What the run loop reports of its work.
    #[serde(flatten)]
    pub work: Work,
}

/// Condition for which a program is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadyReason {
    /// Name of the condition.
    pub condition: String,
    /// Reason for the operator.
    pub reason: String,
}

/// Work of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// State of the circuit breaker; `None` for a program without one.
    pub breaker: Option<Breaker>,
    /// Partitions that are assigned to the program, in their order.
    pub partitions: Vec<PartitionStatus>,
}

/// State of a circuit breaker, by the names that the metrics have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breaker {
    /// Calls are sent as usual.
    Closed,
    /// Calls wait for a probe.
    Open,
    /// Calls wait, and a probe is in flight: half-open.
    Probing,
}

/// A partition that is assigned to a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Number of the partition.
    pub partition: i32,
    /// What the program does with it.
    pub state: PartitionState,
    /// Reason why it is halted, or the error of the last attempt to restore it.
    pub reason: Option<String>,
}

/// What a program does with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionState {
    /// Its orders are processed, or its calls are made.
    Running,
    /// It waits for the validator's new producer.
    AwaitsProducer,
    /// Its store is brought to the end of the changelog.
    Restoring,
    /// Its committed offset and call notes are read.
    Loading,
    /// Its calls in flight finish before it is released.
    Draining,
    /// Nothing is done with it: operator action required.
    Halted,
    /// State that a later version has.
    #[serde(other)]
    Other,
}

impl ProgramStatus {
    /// Returns whether nothing of it needs a person: the program is ready, and its breaker is closed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_open = matches!(self.work.breaker, Some(Breaker::Open | Breaker::Probing));
        self.alive && self.ready && !is_open
    }
}

/// Program whose status is served.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the program.
    pub program: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// Instance id of the program.
    pub instance_id: String,
}

/// What the run loop last reported of its work. Clones share it.
// A copy rather than a query to the loop: it can be read while the loop waits for the brokers.
#[derive(Clone, Debug, Default)]
pub struct WorkReport(Arc<Mutex<Work>>);

impl WorkReport {
    /// Replaces what was reported before.
    pub fn set(&self, work: Work) {
        *self.lock() = work;
    }

    fn get(&self) -> Work {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // A panic leaves it whole: each change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the route of the status, for the admin HTTP server.
pub fn route(identity: Identity, health: &Health, work: &WorkReport) -> Router {
    let state = (identity, health.clone(), work.clone());
    Router::new().route(PATH, get(status).with_state(state))
}

async fn status(
    State((identity, health, work)): State<(Identity, Health, WorkReport)>,
) -> Json<ProgramStatus> {
    let reasons: Vec<UnreadyReason> = health
        .unready_conditions()
        .into_iter()
        .map(|unready| UnreadyReason {
            condition: unready.condition.to_owned(),
            reason: unready.reason,
        })
        .collect();
    // Status 200 also if it is not ready: the question was answered, and probes ask `/readyz`.
    Json(ProgramStatus {
        program: identity.program.to_owned(),
        version: identity.version.to_owned(),
        instance_id: identity.instance_id,
        alive: !matches!(health.liveness(), Liveness::Stopped(_)),
        ready: reasons.is_empty(),
        reasons,
        work: work.get(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    async fn shown(health: &Health, work: &WorkReport) -> serde_json::Value {
        let identity = Identity {
            program: "caller",
            version: "1.2.3",
            instance_id: "caller-1".into(),
        };
        let Json(status) = status(State((identity, health.clone(), work.clone()))).await;
        serde_json::to_value(status).expect("JSON")
    }

    #[tokio::test]
    async fn json_field_names_are_stable() {
        let (health, work) = (Health::new(Duration::from_secs(60)), WorkReport::default());
        assert_eq!(
            shown(&health, &work).await,
            json!({
                "program": "caller", "version": "1.2.3", "instance_id": "caller-1", "alive": true, "ready": false,
                "reasons": [{"condition": "started", "reason": "the program is starting"}],
                "breaker": null, "partitions": [],
            })
        );
        health.set_ready(Health::STARTED);
        work.set(Work {
            breaker: Some(Breaker::Probing),
            partitions: vec![PartitionStatus {
                partition: 3,
                state: PartitionState::AwaitsProducer,
                reason: None,
            }],
        });
        let json = shown(&health, &work).await;
        assert_eq!(json["breaker"], "probing");
        assert_eq!(
            json["partitions"],
            json!([{"partition": 3, "state": "awaits-producer", "reason": null}])
        );
        let read: ProgramStatus = serde_json::from_value(json).expect("a status");
        assert!(read.ready && !read.is_sound());
    }

    #[tokio::test]
    async fn hanging_run_loop_is_reported() {
        let (health, work) = (Health::new(Duration::ZERO), WorkReport::default());
        health.set_ready(Health::STARTED);
        health.tick();
        std::thread::sleep(Duration::from_millis(2));
        let json = shown(&health, &work).await;
        assert_eq!((&json["ready"], &json["alive"]), (&json!(true), &json!(false)));
        let read: ProgramStatus = serde_json::from_value(json).expect("a status");
        assert!(!read.is_sound());
    }

    #[test]
    fn status_of_a_later_version_is_read() {
        let json = json!({
            "program": "validator", "version": "9.0.0", "instance_id": "v", "alive": true, "ready": true,
            "reasons": [], "breaker": null, "standby": [1],
            "partitions": [{"partition": 1, "state": "standby", "reason": null, "behind": 7}],
        });
        let read: ProgramStatus = serde_json::from_value(json).expect("a status");
        assert_eq!(read.work.partitions[0].state, PartitionState::Other);
        assert!(read.is_sound());
    }
}
