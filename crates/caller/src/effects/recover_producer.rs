//! Replacement of a producer that has failed for good.

use std::time::Instant;

use kafka::ClientError;
use kafka::producer::Recovery;

use crate::effects::Shell;

/// Readiness condition that a failed producer breaks.
const PRODUCER: &str = "producer";

impl Shell {
    /// Replaces the producer if a fatal error has ended it. Its records that Kafka has not acknowledged are
    /// reported as such, so that they are published again.
    ///
    /// # Errors
    /// Failed producers do not close.
    pub(crate) fn recover_producer(&mut self) -> Result<(), ClientError> {
        match self.producer.recover(Instant::now())? {
            Recovery::Works if self.is_producer_unready => {
                tracing::info!("producer works again");
                self.is_producer_unready = false;
                self.health.set_ready(PRODUCER);
            }
            Recovery::Works | Recovery::Unproven => {}
            Recovery::Failed(error) => self.set_producer_unready(&error),
            Recovery::Replaced(error) => {
                self.metrics.producers_replaced.inc();
                tracing::error!(
                    %error,
                    "producer failed for good and is replaced, unacknowledged records are sent again"
                );
                self.set_producer_unready(&error);
            }
        }
        Ok(())
    }

    fn set_producer_unready(&mut self, error: &ClientError) {
        self.is_producer_unready = true;
        let reason = format!("{error}; no call becomes final until a new producer works");
        self.health.set_unready(PRODUCER, reason);
    }
}
