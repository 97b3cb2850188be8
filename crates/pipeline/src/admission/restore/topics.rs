//! Comparison of the topics with those that offsets were committed with. A difference halts the partition: with
//! another partition count, or other topics, offsets and known keys mean nothing.

use records::{Forgotten, Offset, Partition, TopicId, TopicsNote};

use super::RestoreContext;

impl RestoreContext {
    /// Compares the ids of the topics as they are now with those that this validator started with, and commits.
    ///
    /// # Errors
    /// A topic was recreated: says which, and what the operator does.
    pub fn check_unchanged(&self, now: &TopicsNote) -> Result<(), String> {
        compare(self, &self.note, now, "this validator started")
    }
}

/// Compares the topics with the metadata of a committed offset. Returns `false` if it has no note.
///
/// # Errors
/// A topic has grown or is another one, or the note cannot be read: says which, and what the operator does.
pub(super) fn compare_committed(
    context: &RestoreContext,
    partition: Partition,
    metadata: &str,
) -> Result<bool, String> {
    let (orders, group) = (&context.topics.orders, &context.group_id);
    let note = TopicsNote::decode(metadata).map_err(|error| {
        format!(
            "the metadata that the group {group:?} has committed with its offset of {orders}/{partition} cannot be \
             read: {error}. Whether a topic has grown or was created again since is not known, and then \
             orders would be paid twice. Run the version of the validator that wrote it; or, if the topics \
             are the same as ever, {}",
            confirm(context, "--shift-by 0")
        )
    })?;
    let Some(note) = note else {
        return Ok(false);
    };
    let when = format!("the group {group:?} committed its offset of {orders}/{partition}");
    compare(context, &note, &context.note, &when).map(|()| true)
}

/// Returns what a partition has forgotten, by the metadata of its committed offset; a restore checks it.
#[must_use]
pub fn forgotten(context: &RestoreContext, metadata: &str) -> Option<Forgotten> {
    let note = TopicsNote::decode(metadata).ok()??;
    let forgotten = note.forgotten?;
    // Only of the very changelog that it was noted with: at these offsets another one has other keys. Brokers that do
    // not report ids prove nothing.
    let is_same = note.changelog.is_some() && note.changelog == context.note.changelog;
    Some(Forgotten {
        below: if is_same { forgotten.below } else { Offset(0) },
        ..forgotten
    })
}

/// Compares the topics with those that are remembered since the event that `when` names.
fn compare(context: &RestoreContext, was: &TopicsNote, is: &TopicsNote, when: &str) -> Result<(), String> {
    let topics = &context.topics;
    if was.partitions != is.partitions {
        if was.partitions > is.partitions {
            return Err(format!(
                "{} and {} have {} partitions, and had {} when {when}, and Kafka removes none: [topics] named others \
                 before, or these were deleted and created again. Keys map to other partitions, where orders that were \
                 admitted before are unknown, and they would be paid twice. Name the topics of before, or start with \
                 orders, pending and changelog topics under new names and send nothing to them that was sent before",
                topics.orders, topics.changelog, is.partitions, was.partitions
            ));
        }
        // Not by setting the offsets: each key has to be known on its new partition first.
        return Err(format!(
            "{} and {} have {} partitions, and had {} when {when}: a topic has grown. Keys map to other \
             partitions, where orders that were admitted before are unknown, and they would be paid twice. Stop \
             the producers and the validators, and append these keys to their new partitions, with the validators' \
             settings file: outbox state repartition --validators {}",
            topics.orders, topics.changelog, is.partitions, was.partitions, context.group_id
        ));
    }
    let recreated = |topic: &str, setting: &str, was: &Option<TopicId>, is: &Option<TopicId>, why: &str| {
        // Brokers that do not report ids prove nothing.
        let (was, is) = was.as_ref().zip(is.as_ref()).filter(|(was, is)| was != is)?;
        Some(format!(
            "{topic} was deleted and created again, or {setting} named another topic before (its id was {was} \
             when {when}, and is {is} now): {why}"
        ))
    };
    let orders = recreated(
        &topics.orders,
        "topics.orders",
        &was.orders,
        &is.orders,
        "from a committed offset of the old topic on, orders of the new one would be skipped and never paid. \
         Compare it with the outbox",
    );
    // Admitted orders are recognized by the changelog, so the new topic is read as a whole.
    let to = orders.as_ref().map_or("--shift-by 0", |_| "--to-earliest");
    let differences: Vec<String> = [
        // First, since it must be repaired before any offset is set.
        recreated(
            &topics.changelog,
            "topics.changelog",
            &was.changelog,
            &is.changelog,
            "the keys of admitted orders are not in it, and they would be paid twice. Stop all validators, and \
             rebuild it from the outbox before anything else: outbox state rebuild",
        ),
        orders,
        recreated(
            &topics.pending,
            "topics.pending",
            &was.pending,
            &is.pending,
            "orders that were admitted and not called yet are not in it, and would never be paid. Find those \
             that have no outcome, and send them again under other keys",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if differences.is_empty() {
        return Ok(());
    }
    // The command that rebuilds the changelog has the offsets name it.
    if differences.len() == 1
        && was.changelog != is.changelog
        && was.changelog.is_some()
        && is.changelog.is_some()
    {
        return Err(differences.concat());
    }
    // All of them, since the command below removes the memory of each.
    Err(format!(
        "{}. Then {}",
        differences.join("; "),
        confirm(context, to)
    ))
}

/// Describes how an operator confirms the topics, by setting the offsets without a note.
fn confirm(context: &RestoreContext, to: &str) -> String {
    // Never `--to-current`: it moves a partition without an offset to its end, and skips its orders.
    format!(
        "stop all validators, remove their state directories, and set the group's offsets again, which removes \
         what they remember of the topics: `kafka-consumer-groups.sh --bootstrap-server BROKERS --group {} \
         --topic {} --reset-offsets {to} --execute` (where partitions have no offset yet, name those that have \
         one: --topic {}:0,1)",
        context.group_id, context.topics.orders, context.topics.orders
    )
}
