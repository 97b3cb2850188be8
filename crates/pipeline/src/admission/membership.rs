//! A membership of the consumer group.

/// Membership of the consumer group as of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership<M> {
    /// Member id from the group coordinator. Each JoinGroup without a known id yields a new one, so an
    /// unchanged id proves that the member has been in the group without interruption.
    pub member_id: Box<str>,
    /// Group metadata that `send_offsets_to_transaction` takes, so that Kafka can fence a former member.
    pub metadata: M,
}
