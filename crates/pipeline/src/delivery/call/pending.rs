//! Record of the outbox, as the delivery takes it in.

use records::{IdempotencyKey, Offset, Partition};

use super::deferral_context::DeferralContext;
use super::policy::Policy;

/// A record of the outbox.
#[derive(Debug)]
pub struct Pending<P> {
    /// Partition of the outbox.
    pub partition: Partition,
    /// Offset in the partition.
    pub offset: Offset,
    /// Idempotency key; `None` if the record is no pending call.
    pub key: Option<IdempotencyKey>,
    /// Memory that it takes, in bytes.
    pub bytes: usize,
    /// Policy for an unknown outcome.
    pub policy: Policy,
    /// `true` for a copy that is for the callers of another group.
    pub is_of_other_group: bool,
    /// Context from earlier offsets, if the call was deferred.
    pub deferral_context: Option<DeferralContext>,
    /// Data that the program needs to make the call.
    pub payload: P,
}
