//! How much is held, for the metrics.

use super::breaker::BreakerState;
use super::call::Stage;
use super::held::{Held, Phase};
use super::machine::Delivery;

/// How much is held, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Partitions whose calls are made.
    pub partitions: usize,
    /// Partitions that are being loaded.
    pub partitions_loading: usize,
    /// Partitions that a person must look at.
    pub partitions_refused: usize,
    /// Partitions that are on their way out.
    pub partitions_draining: usize,
    /// Calls that are not final.
    pub calls_held: usize,
    /// Requests under way.
    pub calls_under_way: usize,
    /// How many requests may be under way: the setting, or what the adaptive limit has found out.
    pub calls_in_flight_limit: usize,
    /// What the circuit breaker does with calls.
    pub breaker: BreakerState,
    /// Calls that wait until an earlier request has settled, or are looked up.
    pub calls_settling: usize,
    /// Bytes of the calls that are not final.
    pub bytes_held: usize,
}

impl<P> Delivery<P> {
    /// How much is held.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let in_phase = |phase| self.held.values().filter(|held| held.phase == phase).count();
        Gauges {
            partitions: in_phase(Phase::Active),
            partitions_loading: in_phase(Phase::Loading),
            partitions_refused: in_phase(Phase::Refused),
            partitions_draining: in_phase(Phase::Draining),
            calls_held: self.held.values().map(Held::calls_held).sum(),
            calls_under_way: self.requests.count(),
            calls_in_flight_limit: self.pace.calls_in_flight_max(),
            breaker: self.pace.breaker_state(),
            calls_settling: self
                .held
                .values()
                .flat_map(Held::calls)
                .filter(|(_, call)| matches!(call.stage, Stage::Settling(_) | Stage::LookingUp))
                .count(),
            bytes_held: self.bytes_held,
        }
    }
}
