//! A membership in the consumer group.

/// A membership as of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership<M> {
    /// The id that the group's coordinator has given to this member when it joined. Each joining has another
    /// one, so a member that kept its id was never out of the group meanwhile.
    pub member_id: Box<str>,
    /// What a transaction is bound to this membership by, and Kafka checks.
    pub metadata: M,
}
