//! How much is held, for the metrics.

use crate::delivery::call::CallState;
use crate::delivery::flow::BreakerState;
use crate::delivery::machine::Delivery;
use crate::delivery::partition::{OwnedPartition, Phase};

/// How much is held, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Partitions whose calls are made.
    pub partitions: usize,
    /// Partitions that are being loaded.
    pub partitions_loading: usize,
    /// Partitions that a person must look at.
    pub partitions_halted: usize,
    /// Partitions that are on their way out.
    pub partitions_draining: usize,
    /// Calls that are not final.
    pub calls_open: usize,
    /// Requests under way.
    pub calls_in_flight: usize,
    /// How many requests may be under way: the setting, or what the adaptive limit has found out.
    pub calls_in_flight_limit: usize,
    /// What the circuit breaker does with calls.
    pub breaker: BreakerState,
    /// Calls that wait until an earlier request has settled, or are looked up.
    pub calls_awaiting_quiescence: usize,
    /// Bytes of the calls that are not final.
    pub bytes_open: usize,
}

impl<P> Delivery<P> {
    /// How much is held.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let in_phase = |phase| self.held.values().filter(|held| held.phase == phase).count();
        Gauges {
            partitions: in_phase(Phase::Active),
            partitions_loading: in_phase(Phase::Loading),
            partitions_halted: in_phase(Phase::Refused),
            partitions_draining: in_phase(Phase::Draining),
            calls_open: self.held.values().map(OwnedPartition::calls_open).sum(),
            calls_in_flight: self.requests.count(),
            calls_in_flight_limit: self.pace.calls_in_flight_max(),
            breaker: self.pace.breaker_state(),
            calls_awaiting_quiescence: self
                .held
                .values()
                .flat_map(OwnedPartition::calls)
                .filter(|(_, call)| {
                    matches!(
                        call.state,
                        CallState::AwaitingQuiescence(_) | CallState::LookingUp
                    )
                })
                .count(),
            bytes_open: self.bytes_open,
        }
    }
}
