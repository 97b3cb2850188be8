//! What a partition begins with when it is assigned: the committed notes, or the reason to halt it.

use records::{CallNote, EpochEnd, Offset, TopicId};

use super::halt_reason::HaltReason;

/// Committed state of a partition, and the bounds of its log, at assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedNotes {
    /// Committed offset of the group; `None` if there is none.
    pub committed: Option<Offset>,
    /// Metadata that was committed with the offset.
    pub metadata: String,
    /// End of the log that the committed offset belongs to; `None` if no leader epoch was committed with it.
    pub epoch_end: Option<EpochEnd>,
    /// Id of the outbox that the records come from; `None` if the brokers do not report it.
    pub outbox: Option<TopicId>,
    /// First offset that the log still has.
    pub log_start: Offset,
    /// Offset behind the last record that can be read.
    pub log_end: Offset,
}

impl LoadedNotes {
    /// Returns the offset to start at, and the note that goes with it.
    ///
    /// # Errors
    /// The partition is halted.
    pub fn start_position(&self) -> Result<(Offset, CallNote), HaltReason> {
        let (log_start, log_end) = (self.log_start, self.log_end);
        let decoded = self
            .committed
            .map(|committed| CallNote::decode(committed, &self.metadata));
        // Before anything else: in another topic offsets mean nothing. A note without an id, of an earlier version
        // or of an operator who has set the offset, is accepted; the next commit has the id.
        if let (Some(committed), Some(Ok(note))) = (self.committed, &decoded)
            && let (Some(was), Some(is)) = (&note.outbox, &self.outbox)
            && was != is
        {
            let (was, is) = (was.clone(), is.clone());
            return Err(HaltReason::Recreated { committed, was, is });
        }
        let (offset, mut note) = match self.committed.zip(decoded) {
            // No pending call was ever written, so none was made. The end is the last stable offset: a
            // transaction that is still open may have written calls, but nobody has read them.
            None if log_end == Offset(0) => (log_end, CallNote::default()),
            // The calls may have been made by a group whose offsets the brokers have deleted. Also if none of
            // them can be read any more: an end above 0 says that there were some.
            None => return Err(HaltReason::NoOffset { log_start, log_end }),
            Some((committed, _)) if committed < log_start => {
                return Err(HaltReason::Deleted { committed, log_start });
            }
            Some((committed, _)) if committed > log_end => {
                return Err(HaltReason::Ahead { committed, log_end });
            }
            Some((committed, decoded)) => {
                // Before the note, which is about the calls that were there before.
                if let Some(EpochEnd { epoch, end }) = self.epoch_end.filter(|same| same.end < committed) {
                    return Err(HaltReason::Truncated {
                        committed,
                        epoch,
                        end,
                    });
                }
                let note = decoded.map_err(|source| HaltReason::Note { committed, source })?;
                (committed, note)
            }
        };
        // An id that is known is not forgotten while the brokers do not report it.
        note.outbox = self.outbox.clone().or(note.outbox);
        Ok((offset, note))
    }
}
