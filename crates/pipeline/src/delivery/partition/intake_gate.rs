//! Backpressure of one partition: intake stops at a limit and resumes at half of it.

/// Fill level of a partition, or of the whole process. Ordered, so that the fuller of two decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FillLevel {
    /// At most half of each limit is used.
    HalfEmpty,
    /// Neither a limit is reached, nor is each at most half used.
    Between,
    /// A limit is reached.
    Full,
}

/// Change of a partition's intake that the consumer must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntakeChange {
    Pause,
    Resume,
}

/// Decides whether a partition takes in more calls.
#[derive(Debug, Default)]
pub(crate) struct IntakeGate {
    is_paused: bool,
    is_full: bool,
}

impl IntakeGate {
    /// Takes in the fill level. `has_probe` pauses intake as well: the circuit breaker is open, and the call
    /// that its next probe needs is there.
    pub(crate) fn update(&mut self, level: FillLevel, has_probe: bool) -> Option<IntakeChange> {
        // Hysteresis: a pause makes the client drop what it has fetched ahead, so pauses must be rare.
        match level {
            FillLevel::Full => self.is_full = true,
            FillLevel::Between => {}
            FillLevel::HalfEmpty => self.is_full = false,
        }
        let must_pause = self.is_full || has_probe;
        if must_pause == self.is_paused {
            return None;
        }
        self.is_paused = must_pause;
        Some(match must_pause {
            true => IntakeChange::Pause,
            false => IntakeChange::Resume,
        })
    }

    /// Pauses intake for good. Returns `true` if it was not paused before.
    pub(crate) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.is_paused, true)
    }

    /// Returns `true` from the time a limit was reached until half of each is free again.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intake_pauses_when_full_and_resumes_half_empty() {
        let mut gate = IntakeGate::default();
        assert_eq!(gate.update(FillLevel::Between, false), None);
        assert_eq!(gate.update(FillLevel::Full, false), Some(IntakeChange::Pause));
        assert_eq!(gate.update(FillLevel::Between, false), None);
        assert!(gate.is_full());
        assert_eq!(
            gate.update(FillLevel::HalfEmpty, false),
            Some(IntakeChange::Resume)
        );
        assert!(gate.close() && !gate.close());
    }

    #[test]
    fn probe_candidate_pauses_without_being_full() {
        let mut gate = IntakeGate::default();
        assert_eq!(gate.update(FillLevel::HalfEmpty, true), Some(IntakeChange::Pause));
        assert!(!gate.is_full());
        assert_eq!(
            gate.update(FillLevel::HalfEmpty, false),
            Some(IntakeChange::Resume)
        );
    }

    #[test]
    fn fuller_of_two_levels_decides() {
        assert_eq!(FillLevel::Full.max(FillLevel::HalfEmpty), FillLevel::Full);
        assert_eq!(FillLevel::Between.max(FillLevel::HalfEmpty), FillLevel::Between);
    }
}
