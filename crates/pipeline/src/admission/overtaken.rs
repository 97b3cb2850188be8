//! Whether another member has worked on a partition while this one took it for its own.

use records::{Offset, Partition};

use super::transaction::Offsets;

/// The first partition whose committed offset is not the one that this member left it at. A group that has
/// committed nothing yet has overtaken nobody.
#[must_use]
pub fn overtaken(
    running: &Offsets,
    found: impl IntoIterator<Item = (Partition, Option<Offset>)>,
) -> Option<(Partition, Offset)> {
    found.into_iter().find_map(|(partition, committed)| {
        let committed = committed?;
        let is_ours = running.contains(&(partition, committed));
        (!is_ours).then_some((partition, committed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_this_member_did_not_leave_is_anothers() {
        let running = vec![(Partition(0), Offset(5)), (Partition(1), Offset(0))];
        let check = |zero, one, expected| {
            let found = [(Partition(0), zero), (Partition(1), one)];
            assert_eq!(overtaken(&running, found), expected, "{zero:?} {one:?}");
        };
        check(Some(Offset(5)), None, None);
        check(Some(Offset(5)), Some(Offset(0)), None);
        check(Some(Offset(6)), None, Some((Partition(0), Offset(6))));
        check(Some(Offset(5)), Some(Offset(3)), Some((Partition(1), Offset(3))));
        // A committed offset may expire, or be reset by a person; it is not where this member left it.
        check(Some(Offset(2)), None, Some((Partition(0), Offset(2))));
    }
}
