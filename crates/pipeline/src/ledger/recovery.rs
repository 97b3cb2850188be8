//! Recovery of a lost group: the commit position and the call note of a partition.
//!
//! A caller treats offsets beyond its note as calls that were never sent. So the note covers each offset up to
//! the end of the outbox, and what does not fit is refused: nothing is left out, and no final call is made
//! ambiguous.
//!
//! A call without a terminal record may have been accepted all the same, if its outcome may have left its topic: an
//! operator says what becomes of those.

use records::call_note::{CallNote, NoteTooLong};
use records::{Bounds, Offset, OffsetSet, TopicId};

/// Offset and call note that a lost group continues with on one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Offset to commit: every call below is final.
    pub commit_position: Offset,
    /// Call note to commit with it. Each offset from the commit position to the end of the outbox is final, or
    /// has an intent.
    pub note: CallNote,
    /// Calls that may have been sent, and that the policy decides on.
    pub ambiguous: u64,
}

/// Reason for which a partition cannot be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{open} open calls are scattered over {span} offsets: {source}, so the final calls between them would be \
     forgotten and made again"
)]
pub struct CannotRecover {
    /// Number of open calls.
    pub open: u64,
    /// Number of offsets from the first of them to the end.
    pub span: u64,
    source: NoteTooLong,
}

impl Recovery {
    /// `open` are the records that are not final. All other offsets are final, or hold no call.
    pub(super) fn of(
        open: OffsetSet,
        bounds: Bounds,
        outbox: Option<TopicId>,
    ) -> Result<Self, CannotRecover> {
        let ambiguous = open.count();
        let commit_position = open.runs().next().map_or(bounds.end, |(first, _)| first);
        let mut finals = OffsetSet::new();
        let mut position = commit_position;
        for (from, until) in open.runs() {
            finals.insert_run(position, from);
            position = until;
        }
        finals.insert_run(position, bounds.end);
        let exact = CallNote {
            outbox,
            intents: open,
            finals,
        };
        let note = match exact.encode(commit_position) {
            Ok(_) => exact,
            // A caller looks for a call among the final ones first. So one run of intents up to the end says the
            // same, in a few bytes. Leaving final calls out instead would make them again under `retry`.
            Err(_) => {
                let mut intents = OffsetSet::new();
                intents.insert_run(commit_position, bounds.end);
                CallNote { intents, ..exact }
            }
        };
        match note.encode(commit_position) {
            Ok(_) => Ok(Self {
                commit_position,
                note,
                ambiguous,
            }),
            Err(source) => Err(CannotRecover {
                open: ambiguous,
                span: bounds.end.0.abs_diff(commit_position.0),
                source,
            }),
        }
    }
}
