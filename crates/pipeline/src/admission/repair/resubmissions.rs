//! Resubmissions: which order dead letters an operator may write back to the orders topic.

use records::dead_letter::Reason;
use records::{Offset, OffsetSet, Partition, Position};

/// Dead letters of one partition that were resubmitted, folded from their resubmissions.
#[derive(Clone, Debug, Default)]
pub struct Resubmissions {
    letters: OffsetSet,
}

/// Reason against resubmitting a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotResubmitted {
    /// An operator has resubmitted it before.
    #[error("it was written back before")]
    Before,
    /// It lacks a header of the order.
    #[error(
        "it lacks a header of the order, whose name is not UTF-8: have its producer send the order again, with a \
         readable name"
    )]
    LacksHeader,
    /// It lacks the order, for which its topic had no room.
    #[error(
        "it has no room for its order, which is where its header outbox-error-source says: have its producer send the \
         order again, smaller, or once the topics accept it (max.message.bytes)"
    )]
    LacksOrder,
    /// Its order may be on another partition than that of its key, and validators would not notice.
    #[error(
        "it was refused as {0}, and by these settings validators do not check that any more: an order of its key may \
         have been admitted on another partition, where it is not looked up, and would be charged twice. Have its \
         producer send it again to the right partition; or run the command with the validators' settings file, if \
         these are not their settings"
    )]
    Unchecked(Reason),
    /// Its order may have been admitted before.
    #[error(
        "it was refused as {0}: its key is forgotten, so that it is not known here whether the order was admitted and paid. \
         Find that out from its outcome or from the API; if it was not, have its producer send it again, with a new time"
    )]
    MayBePaid(Reason),
    /// The position of its order cannot be read.
    #[error("it does not name the position of its order: another program wrote it")]
    NoSource,
    /// It comes from another topic.
    #[error("its order is {0}, which is of another topic than the orders of these settings")]
    OtherTopic(Position),
    /// The orders topic has no such partition any more.
    #[error("its order is {0}, and the orders topic has no such partition")]
    NoPartition(Position),
}

/// What of a dead letter decides.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Offset in the dead-letter topic.
    pub offset: Offset,
    /// Position of its order, as its header names it.
    pub source: Option<Position>,
    /// Reason for which its order was refused, if it is a known one.
    pub reason: Option<Reason>,
    /// True if a header cannot be read.
    pub lacks_header: bool,
    /// True if parts of the order are missing.
    pub lacks_order: bool,
}

/// Orders topic to which dead letters are written back.
#[derive(Clone, Copy, Debug)]
pub struct OrdersTopic<'a> {
    /// Name of the topic.
    pub name: &'a str,
    /// Number of its partitions.
    pub partitions: i32,
    /// True if validators refuse an order whose record key is not its idempotency key.
    pub checks_record_key: bool,
    /// True if validators refuse an order on another partition than that of its key.
    pub checks_partition: bool,
}

impl Resubmissions {
    /// Takes in a resubmission of the dead letter at this offset.
    pub fn resubmitted(&mut self, letter: Offset) {
        self.letters.insert(letter);
    }

    /// Returns whether the dead letter at this offset was resubmitted.
    #[must_use]
    pub fn has(&self, letter: Offset) -> bool {
        self.letters.contains(letter)
    }

    /// Returns the number of dead letters that were resubmitted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.letters.count()
    }

    /// Returns the partition of the orders topic to which a dead letter may be written back now.
    ///
    /// # Errors
    /// The reason against it.
    pub fn resubmit(&self, letter: Letter, orders: OrdersTopic<'_>) -> Result<Partition, NotResubmitted> {
        if self.has(letter.offset) {
            return Err(NotResubmitted::Before);
        }
        // Without its value it would be a tombstone.
        if letter.lacks_order {
            return Err(NotResubmitted::LacksOrder);
        }
        if letter.lacks_header || letter.reason == Some(Reason::HeaderUnreadable) {
            return Err(NotResubmitted::LacksHeader);
        }
        match letter.reason {
            Some(reason @ Reason::KeyMismatch) if !orders.checks_record_key => {
                return Err(NotResubmitted::Unchecked(reason));
            }
            Some(reason @ Reason::WrongPartition) if !orders.checks_partition => {
                return Err(NotResubmitted::Unchecked(reason));
            }
            Some(reason @ Reason::TooOld) => return Err(NotResubmitted::MayBePaid(reason)),
            _ => {}
        }
        let source = letter.source.ok_or(NotResubmitted::NoSource)?;
        if source.topic != orders.name {
            return Err(NotResubmitted::OtherTopic(source));
        }
        // The same partition: an order of that key which was admitted is known there, and nowhere else.
        if !(0..orders.partitions).contains(&source.partition.0) {
            return Err(NotResubmitted::NoPartition(source));
        }
        Ok(source.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: OrdersTopic<'_> = OrdersTopic {
        name: "orders",
        partitions: 3,
        checks_record_key: true,
        checks_partition: true,
    };

    fn source(topic: &str, partition: i32) -> Position {
        Position {
            topic: topic.into(),
            partition: Partition(partition),
            offset: Offset(9),
        }
    }

    fn letter(source: Position) -> Letter {
        Letter {
            offset: Offset(4),
            source: Some(source),
            reason: Some(Reason::NotAnOrder),
            lacks_header: false,
            lacks_order: false,
        }
    }

    #[test]
    fn letter_goes_back_to_its_partition_once() {
        let mut resubmissions = Resubmissions::default();
        let letter = letter(source("orders", 2));
        assert_eq!(resubmissions.resubmit(letter.clone(), ORDERS), Ok(Partition(2)));
        resubmissions.resubmitted(Offset(5));
        assert_eq!(resubmissions.resubmit(letter.clone(), ORDERS), Ok(Partition(2)));
        resubmissions.resubmitted(Offset(4));
        assert_eq!(
            resubmissions.resubmit(letter, ORDERS),
            Err(NotResubmitted::Before)
        );
        resubmissions.resubmitted(Offset(4));
        assert_eq!(resubmissions.count(), 2);
    }

    #[test]
    fn letter_without_its_partition_is_left_alone() {
        let resubmissions = Resubmissions::default();
        for (source, expected) in [
            (
                source("orders", 3),
                NotResubmitted::NoPartition as fn(Position) -> NotResubmitted,
            ),
            (source("orders", -1), NotResubmitted::NoPartition),
            (source("other", 0), NotResubmitted::OtherTopic),
        ] {
            let refused = resubmissions.resubmit(letter(source.clone()), ORDERS);
            assert_eq!(refused, Err(expected(source)));
        }
        let without = Letter {
            source: None,
            ..letter(source("orders", 0))
        };
        assert_eq!(
            resubmissions.resubmit(without, ORDERS),
            Err(NotResubmitted::NoSource)
        );
    }

    #[test]
    fn letter_that_lacks_a_header_is_left_alone() {
        let letter = letter(source("orders", 0));
        let unreadable = Letter {
            lacks_header: true,
            ..letter.clone()
        };
        let dropped = Letter {
            reason: Some(Reason::HeaderUnreadable),
            ..letter
        };
        for lacking in [unreadable, dropped] {
            let refused = Resubmissions::default().resubmit(lacking, ORDERS);
            assert_eq!(refused, Err(NotResubmitted::LacksHeader));
        }
    }

    #[test]
    fn letter_without_its_order_is_left_alone() {
        let letter = Letter {
            lacks_order: true,
            ..letter(source("orders", 0))
        };
        let refused = Resubmissions::default().resubmit(letter, ORDERS);
        assert_eq!(refused, Err(NotResubmitted::LacksOrder));
    }

    #[test]
    fn order_whose_key_is_forgotten_is_left_alone() {
        let letter = Letter {
            reason: Some(Reason::TooOld),
            ..letter(source("orders", 0))
        };
        let refused = Resubmissions::default().resubmit(letter, ORDERS);
        assert_eq!(refused, Err(NotResubmitted::MayBePaid(Reason::TooOld)));
    }

    #[test]
    fn letter_of_a_rule_without_a_check_is_left_alone() {
        let unchecked = OrdersTopic {
            checks_record_key: false,
            checks_partition: false,
            ..ORDERS
        };
        for reason in [Reason::KeyMismatch, Reason::WrongPartition] {
            let letter = Letter {
                reason: Some(reason),
                ..letter(source("orders", 0))
            };
            let resubmit = |orders| Resubmissions::default().resubmit(letter.clone(), orders);
            assert_eq!(resubmit(ORDERS), Ok(Partition(0)));
            assert_eq!(resubmit(unchecked), Err(NotResubmitted::Unchecked(reason)));
        }
        let other = Resubmissions::default().resubmit(letter(source("orders", 0)), unchecked);
        assert_eq!(other, Ok(Partition(0)));
    }
}
