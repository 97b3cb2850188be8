//! Wait between the end of a transaction and the first record of the next one.
//!
//! A broker acknowledges the end of a transaction before it has written the markers to all partitions, and until then
//! refuses to add partitions to the producer's next transaction (CONCURRENT_TRANSACTIONS). librdkafka repeats such a
//! request after 20 ms, so that each of many short transactions takes that long. How long the markers take depends on
//! the brokers and on the number of partitions, and no request tells. So the wait grows while requests are refused, and
//! shrinks a little from time to time.

use std::time::Duration;

/// Wait that fits the brokers, as far as the last transactions tell.
#[derive(Debug, Default)]
pub(super) struct MarkerWait {
    wait: Duration,
    /// Transactions in a row without a refusal.
    undisturbed: u32,
    /// Transactions in a row that were refused although the wait was [`WAIT_MAX`].
    in_vain: u32,
    /// Transactions for which there is no wait, because it was in vain.
    suspended: u32,
}

impl MarkerWait {
    /// Learns from a transaction: whether a request to add partitions or offsets to it came too early.
    pub(super) fn learn(&mut self, was_refused: bool) {
        if self.suspended > 0 {
            self.suspended -= 1;
            return;
        }
        if !was_refused {
            self.in_vain = 0;
            self.undisturbed += 1;
            if self.undisturbed >= UNDISTURBED_MAX {
                self.undisturbed = 0;
                self.wait = self.wait.saturating_sub(STEP);
            }
            return;
        }
        self.undisturbed = 0;
        if self.wait < WAIT_MAX {
            self.wait = (self.wait + STEP).min(WAIT_MAX);
            return;
        }
        self.in_vain += 1;
        if self.in_vain >= IN_VAIN_MAX {
            *self = Self {
                suspended: SUSPENDED,
                ..Self::default()
            };
        }
    }

    /// Returns the time that has to be left after the end of the last transaction.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }
}

/// Returns whether this line of librdkafka's debug log for `eos` is the refusal of a request that came too early, such as
/// `[thrd:main]: AddOffsetsToTxn response from TxnCoordinator/1: CONCURRENT_TRANSACTIONS (Retry)`.
pub(super) fn is_refusal(facility: &str, line: &str) -> bool {
    match facility {
        // With the text of the error instead of its name.
        "ADDPARTS" => line.contains("another concurrent operation"),
        "ADDOFFSETS" => line.contains("CONCURRENT_TRANSACTIONS"),
        _ => false,
    }
}

/// Change of the wait at a time.
const STEP: Duration = Duration::from_millis(1);
/// Maximum wait. Longer ones gain little over the 20 ms after which librdkafka repeats a refused request.
const WAIT_MAX: Duration = Duration::from_millis(12);
/// Transactions in a row without a refusal after which a shorter wait is tried.
// The try that is refused costs one transaction 20 ms: with this, fewer than one in a hundred.
const UNDISTURBED_MAX: u32 = 200;
/// Transactions in a row that are refused in spite of the maximum wait, after which there is none: these brokers take
/// longer, and the wait would come on top.
const IN_VAIN_MAX: u32 = 8;
/// Transactions after which a wait is tried again.
const SUSPENDED: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs transactions on brokers that take this long for their markers; returns how many were refused.
    fn run(wait: &mut MarkerWait, markers: Duration, transactions: u32) -> u32 {
        let mut refused = 0;
        for _ in 0..transactions {
            let is_refused = wait.wait() < markers;
            wait.learn(is_refused);
            refused += u32::from(is_refused);
        }
        refused
    }

    #[test]
    fn wait_follows_the_brokers() {
        let mut wait = MarkerWait::default();
        assert_eq!(wait.wait(), Duration::ZERO, "none without a reason");
        let markers = Duration::from_micros(4_500);
        assert_eq!(run(&mut wait, markers, 100), 5);
        assert_eq!(wait.wait(), Duration::from_millis(5));
        // One in some two hundred tries a shorter wait.
        assert_eq!(run(&mut wait, markers, 10_000), 50);
        // Faster brokers, as after a restart on other hardware.
        assert_eq!(run(&mut wait, Duration::ZERO, 2_000), 0);
        assert_eq!(wait.wait(), Duration::ZERO);
    }

    #[test]
    fn refusals_are_read_from_the_log() {
        let parts = "[thrd:main]: TxnCoordinator/1: AddPartitionsToTxn response: partition \"t\": [6]: Broker: Producer \
                     attempted to update a transaction while another concurrent operation on the same transaction was \
                     ongoing";
        let offsets =
            "[thrd:main]: AddOffsetsToTxn response from TxnCoordinator/1: CONCURRENT_TRANSACTIONS (Retry)";
        assert!(is_refusal("ADDPARTS", parts) && is_refusal("ADDOFFSETS", offsets));
        let added = "[thrd:main]: AddOffsetsToTxn response from TxnCoordinator/1: NO_ERROR ()";
        assert!(!is_refusal("ADDOFFSETS", added));
        assert!(!is_refusal(
            "ENDTXN",
            "EndTxn returned CONCURRENT_TRANSACTIONS in state X"
        ));
    }

    #[test]
    fn wait_in_vain_is_given_up() {
        let mut wait = MarkerWait::default();
        let slow = Duration::from_millis(50);
        run(&mut wait, slow, 12 + IN_VAIN_MAX);
        assert_eq!(wait.wait(), Duration::ZERO);
        run(&mut wait, slow, SUSPENDED);
        assert_eq!(wait.wait(), Duration::ZERO);
        // Tried again, by brokers that have become faster.
        run(&mut wait, Duration::from_millis(2), 100);
        assert_eq!(wait.wait(), Duration::from_millis(2));
    }
}
