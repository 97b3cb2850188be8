//! Gauges of the delivery, for the metrics.

use super::flow::BreakerState;

/// Gauges of the delivery at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Number of partitions whose calls are made.
    pub partitions: usize,
    /// Number of partitions whose notes are being read.
    pub partitions_loading: usize,
    /// Number of partitions that need an operator.
    pub partitions_halted: usize,
    /// Number of partitions that finish what is in flight before they leave.
    pub partitions_draining: usize,
    /// Number of calls that are not final.
    pub calls_open: usize,
    /// Number of requests without a response yet.
    pub calls_in_flight: usize,
    /// Maximum number of requests in flight: the setting, or the adaptive limit.
    pub calls_in_flight_limit: usize,
    /// State of the circuit breaker.
    pub breaker: BreakerState,
    /// `true` while an operator has the calls paused.
    pub is_paused: bool,
    /// Number of ambiguous calls that await quiescence or are looked up.
    pub calls_awaiting_quiescence: usize,
    /// Bytes of the calls that are not final.
    pub bytes_open: usize,
}
