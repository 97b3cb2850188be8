//! Guards, each taken out in turn: the same world, in which one thing is done wrong, must break a promise.
//!
//! Most of them are the mutations of the model of this protocol (M1 to M20), by their numbers; the rest are
//! guards that the model does not have. All are taken out in the shell or the brokers, between the machine
//! and the world; the decision code has no hook for them. What has no place here:
//!
//! - M1, an external call within the transaction: stage one calls nobody.
//! - M4 and M5, a store without a changelog: there is no such setting, and nothing to take out.
//! - M17, a tombstone that is gone before an old store has read it: keys do not expire yet. Whoever adds
//!   tombstones adds it here.
//! - M18, the outbox as the log of keys, trimmed by retention: the changelog is the log.

use crate::admission::checker::Promise;
use crate::admission::world::World;

/// A guard that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// M2: an order is in the store, durably, before Kafka has committed it.
    StoreDurableFirst,
    /// M3: the same, visible only.
    StoreVisibleFirst,
    /// M6: a restore takes the changelog's last stable offset for its end.
    LastStableForEnd,
    /// M7, M7c: the committed offset is read while a transaction is pending on it.
    NoRequireStable,
    /// M7: the same, by a program that sends the offsets before its records are acknowledged.
    NoRequireStablePipelined,
    /// M8: the high watermark is read before the committed offset, in such a program; in ours it holds (M8b).
    HighWatermarkFirst,
    /// M9: the offsets are sent without a membership.
    NoGroupMetadata,
    /// M10: the membership is the one that librdkafka has when the offsets are sent.
    MetadataAtSendTime,
    /// M11: the coordinator compares generations, not members, and each process has a transactional id of its
    /// own; with one for each instance, as it is, that fences as well.
    GenerationAlone,
    /// M12: an unknown outcome is taken for an abort.
    UnknownIsAborted,
    /// M13: an unknown outcome is taken for a commit.
    UnknownIsCommitted,
    /// M14: a checkpoint is durable before its keys.
    CheckpointBeforeKeys,
    /// M15: the checkpoint is the changelog's end at the time when the commit is answered.
    CheckpointAtLogEnd,
    /// M16: a restore reads what is not committed.
    ReadsUncommitted,
    /// M19: leaders take records of transactions that are over.
    NoVerification,
    /// M20: the producer is used again after an abort.
    ProducerReused,
    /// A commit that was sent twice is trusted, and its producer used again, so that the second request may end
    /// the next transaction (KAFKA-17754).
    ResentEndTrusted,
    /// A restore that waits for too long takes what it has for the whole.
    RestoreTimeOutIsDone,
    /// The answer of an older restore counts.
    OldRestoreCounts,
    /// What an aborted transaction admitted is still taken for known.
    OverlayKept,
    /// A member that has joined anew is taken for the one it was before.
    RejoinUnheard,
}

/// Plays seeds until one breaks the promise, within a number of seeds. What is looked at are the topics alone,
/// or also the stores and positions while they are worked with. A seed may break another promise first, or a
/// partition be refused; then the next one is played.
fn caught(mutation: Mutation, promise: Promise, looks: Looks, within: u64) {
    for seed in 0..within {
        let played = World::new(seed, Some(mutation), looks == Looks::Inside, false).play();
        if let Err(violation) = played
            && violation.promise == promise
        {
            println!("{mutation:?}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{mutation:?} does not break {promise:?} within {within} seeds");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    AtTopics,
    Inside,
}

macro_rules! caught {
    ($($name:ident: $mutation:ident breaks $promise:ident, $looks:ident, within $within:literal;)*) => {
        $(#[test]
        fn $name() {
            caught(Mutation::$mutation, Promise::$promise, Looks::$looks, $within);
        })*
    };
}

// The numbers are some two or three times that of the first seed that shows it.
caught! {
    m2_store_durable_first: StoreDurableFirst breaks G2, AtTopics, within 20;
    m3_store_visible_first: StoreVisibleFirst breaks G2, AtTopics, within 20;
    m6_last_stable_for_end: LastStableForEnd breaks G1, AtTopics, within 500;
    m7_no_require_stable: NoRequireStable breaks G1, AtTopics, within 200;
    m7c_no_require_stable_inside: NoRequireStable breaks G3, Inside, within 100;
    m7_no_require_stable_pipelined: NoRequireStablePipelined breaks G1, AtTopics, within 300;
    m8_high_watermark_first: HighWatermarkFirst breaks G1, AtTopics, within 3_000;
    m9_no_group_metadata: NoGroupMetadata breaks G1, AtTopics, within 60;
    m10_metadata_at_send_time: MetadataAtSendTime breaks G1, AtTopics, within 100;
    m11_generation_alone: GenerationAlone breaks G1, AtTopics, within 400;
    m12_unknown_is_aborted: UnknownIsAborted breaks G1, AtTopics, within 20;
    m13_unknown_is_committed: UnknownIsCommitted breaks G2, AtTopics, within 700;
    m14_checkpoint_before_keys: CheckpointBeforeKeys breaks G1, AtTopics, within 1_000;
    m15_checkpoint_at_log_end: CheckpointAtLogEnd breaks G3, Inside, within 6_000;
    m16_reads_uncommitted: ReadsUncommitted breaks G2, AtTopics, within 20;
    m19_no_verification: NoVerification breaks G1, AtTopics, within 300;
    m19b_no_verification_hangs: NoVerification breaks Drain, AtTopics, within 60;
    m20_producer_reused: ProducerReused breaks G1, AtTopics, within 600;
    resent_end_trusted: ResentEndTrusted breaks G1, AtTopics, within 250;
    restore_time_out_is_done: RestoreTimeOutIsDone breaks G1, AtTopics, within 1_500;
    old_restore_counts: OldRestoreCounts breaks G1, AtTopics, within 900;
    overlay_kept: OverlayKept breaks G2, AtTopics, within 20;
    rejoin_unheard: RejoinUnheard breaks G1, AtTopics, within 3_000;
}
