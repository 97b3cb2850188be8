//! Where partitions begin is read from Kafka, off the loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{ClientError, Consumer};
use pipeline::delivery::{Assignment, LoadedNotes};
use records::Partition;

use crate::effects::Shell;
use crate::effects::completion::Arrived;

/// How long one request for committed offsets or ends may take. Offsets are not told while a transaction is
/// pending on them; one that this instance has left open in a former life ends soon after this.
const LOAD_MAX: Duration = Duration::from_secs(3);

/// A new leader may not know the log's end for a moment; only after this the offsets are taken for wrong.
const LOG_END_WAIT: Duration = Duration::from_secs(10);

impl Shell {
    /// Reads offsets, notes and ends of partitions, off the loop.
    pub(crate) fn load_again(&self, assignment: Assignment, partitions: Vec<Partition>, after: Duration) {
        if partitions.is_empty() {
            return;
        }
        let (consumer, inbox) = (Arc::clone(&self.consumer), self.inbox.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let read = tokio::task::spawn_blocking({
                let partitions = partitions.clone();
                move || load(&consumer, &partitions)
            });
            match read.await {
                Ok(Ok(loaded)) => {
                    for (partition, loaded) in loaded {
                        // The loop is gone only when the program ends.
                        let _ = inbox.send(Arrived::LoadedNotes {
                            assignment,
                            partition,
                            loaded,
                        });
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "call notes cannot be loaded; tried again");
                    let _ = inbox.send(Arrived::NotLoaded {
                        assignment,
                        partitions,
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "call notes cannot be loaded; tried again");
                    let _ = inbox.send(Arrived::NotLoaded {
                        assignment,
                        partitions,
                    });
                }
            }
        });
    }
}

/// Reads what is committed for partitions, and where their logs begin and end. Blocks.
fn load(consumer: &Consumer, partitions: &[Partition]) -> Result<Vec<(Partition, LoadedNotes)>, ClientError> {
    let began = Instant::now();
    let committed = consumer.committed(partitions, LOAD_MAX)?;
    let mut all = Vec::with_capacity(committed.len());
    for committed in committed {
        let bounds = loop {
            let bounds = consumer.bounds(committed.partition, LOAD_MAX)?;
            let is_behind = committed.offset.is_some_and(|offset| offset > bounds.end);
            if !is_behind || began.elapsed() > LOG_END_WAIT {
                break bounds;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let loaded = LoadedNotes {
            committed: committed.offset,
            metadata: committed.metadata,
            log_start: bounds.start,
            log_end: bounds.end,
        };
        all.push((committed.partition, loaded));
    }
    Ok(all)
}
