//! Removed guards: without any one of them, the simulation must find a violation.
//!
//! Most are mutations of the model of this protocol (M1 to M20), with the model's numbers; the others are guards
//! that the model does not have. All are removed in the shell or the brokers; the decision code has no hook for
//! them. Not covered:
//!
//! - M1, an external call within the transaction: stage one has none.
//! - M4 and M5, a store without a changelog: there is no such setting.
//! - M17, a tombstone that is deleted before an old store has read it: old keys are forgotten without tombstones.
//! - M18, the outbox as the log of keys, truncated by retention: the changelog is the log.

use crate::admission::checker::Guarantee;
use crate::admission::simulation::Simulation;

/// Guard that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// M2: an order is durable in the store before Kafka has committed it.
    StoreDurableFirst,
    /// M3: an order is visible in the store before Kafka has committed it.
    StoreVisibleFirst,
    /// M6: a restore ends at the last stable offset of the changelog instead of its high watermark.
    LastStableOffsetAsEnd,
    /// M7, M7c: the committed offset is read while a transaction is pending on it.
    NoRequireStable,
    /// M7: as [`Self::NoRequireStable`], in a program that sends the offsets before its records are
    /// acknowledged.
    NoRequireStablePipelined,
    /// M8: the high watermark is read before the committed offset, in such a program; in ours it is safe
    /// (M8b).
    HighWatermarkFirst,
    /// M9: the offsets are sent without group metadata.
    NoGroupMetadata,
    /// M10: the group metadata is that of the time at which the offsets are sent.
    MetadataAtSendTime,
    /// M11: the coordinator compares generations, not member ids, and each process has its own transactional
    /// id. With one id for each instance, as in the program, the producer is fenced anyway.
    GenerationOnly,
    /// M12: an unknown outcome is treated as an abort.
    UnknownIsAborted,
    /// M13: an unknown outcome is treated as a commit.
    UnknownIsCommitted,
    /// M14: a checkpoint is durable before its keys.
    CheckpointBeforeKeys,
    /// M15: the checkpoint is the end of the changelog when the response to the commit arrives.
    CheckpointAtLogEnd,
    /// M16: a restore reads uncommitted records.
    ReadsUncommitted,
    /// M19: leaders accept records of transactions that are over.
    NoVerification,
    /// M20: the producer is reused after an abort.
    ProducerReused,
    /// A commit with a resent EndTxn is trusted and its producer reused, so the second request may end the
    /// next transaction (KAFKA-17754).
    ResentEndTxnTrusted,
    /// The newest order of the outbox is read after the changelog.
    NewestOrderLate,
    /// A restore that times out counts as complete.
    RestoreTimeoutIsComplete,
    /// The result of an earlier restore is accepted.
    OldRestoreAccepted,
    /// Keys that an aborted transaction admitted count as known.
    AbortedOverlayKept,
    /// A member that joined again is treated as the former member.
    RejoinUndetected,
    /// Orders that are older than the retention window are decided like others.
    TooOldAccepted,
    /// Keys are removed before a transaction has noted that they are forgotten.
    CutBeforeNote,
    /// What is forgotten is not noted with the offsets.
    ForgottenNotNoted,
    /// The changelog is cut further than what is forgotten.
    CutTooFar,
    /// Keys are forgotten by the wall clock.
    ForgottenByWallClock,
}

impl Mutation {
    /// Returns `true` if keys must be forgotten for it to show.
    pub(crate) fn is_of_retention(self) -> bool {
        matches!(
            self,
            Self::TooOldAccepted
                | Self::CutBeforeNote
                | Self::ForgottenNotNoted
                | Self::CutTooFar
                | Self::ForgottenByWallClock
        )
    }
}

/// Runs seeds until one violates the guarantee, at most `within`. A seed may violate another guarantee first,
/// or halt a partition; then the next one runs.
fn assert_detected(mutation: Mutation, guarantee: Guarantee, scope: Scope, within: u64) {
    for seed in 0..within {
        let run = Simulation::new(seed, Some(mutation), scope == Scope::State, false).run();
        if let Err(violation) = run
            && violation.guarantee == guarantee
        {
            println!("{mutation:?}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{mutation:?} does not break {guarantee:?} within {within} seeds");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Topics,
    State,
}

macro_rules! assert_detected {
    ($($name:ident: $mutation:ident breaks $guarantee:ident, $scope:ident, within $within:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_detected(Mutation::$mutation, Guarantee::$guarantee, Scope::$scope, $within);
        })*
    };
}

// The numbers are two or three times that of the first seed that finds the violation.
assert_detected! {
    m2_store_durable_first: StoreDurableFirst breaks G2, Topics, within 20;
    m3_store_visible_first: StoreVisibleFirst breaks G2, Topics, within 20;
    m6_last_stable_offset_as_end: LastStableOffsetAsEnd breaks G1, Topics, within 500;
    m7_no_require_stable: NoRequireStable breaks G1, Topics, within 200;
    m7c_no_require_stable_in_state: NoRequireStable breaks G3, State, within 100;
    m7_no_require_stable_pipelined: NoRequireStablePipelined breaks G1, Topics, within 300;
    m8_high_watermark_first: HighWatermarkFirst breaks G1, Topics, within 8_000;
    m9_no_group_metadata: NoGroupMetadata breaks G1, Topics, within 60;
    m10_metadata_at_send_time: MetadataAtSendTime breaks G1, Topics, within 100;
    m11_generation_only: GenerationOnly breaks G1, Topics, within 5_000;
    m12_unknown_is_aborted: UnknownIsAborted breaks G1, Topics, within 20;
    m13_unknown_is_committed: UnknownIsCommitted breaks G2, Topics, within 700;
    m14_checkpoint_before_keys: CheckpointBeforeKeys breaks G1, Topics, within 1_000;
    m15_checkpoint_at_log_end: CheckpointAtLogEnd breaks G3, State, within 40_000;
    m16_reads_uncommitted: ReadsUncommitted breaks G2, Topics, within 20;
    m19_no_verification: NoVerification breaks G1, Topics, within 300;
    m19b_no_verification_hangs: NoVerification breaks Drain, Topics, within 60;
    m20_producer_reused: ProducerReused breaks G1, Topics, within 600;
    resent_end_txn_trusted: ResentEndTxnTrusted breaks G1, Topics, within 250;
    newest_order_late: NewestOrderLate breaks Drain, Topics, within 8_000;
    restore_timeout_is_complete: RestoreTimeoutIsComplete breaks G1, Topics, within 1_500;
    old_restore_accepted: OldRestoreAccepted breaks G1, Topics, within 900;
    aborted_overlay_kept: AbortedOverlayKept breaks G2, Topics, within 20;
    rejoin_undetected: RejoinUndetected breaks G1, Topics, within 3_000;
    too_old_accepted: TooOldAccepted breaks G1, Topics, within 1_000;
    cut_before_note: CutBeforeNote breaks Drain, Topics, within 5_000;
    forgotten_not_noted: ForgottenNotNoted breaks Drain, Topics, within 1_000;
    cut_too_far: CutTooFar breaks Drain, Topics, within 1_000;
    forgotten_by_wall_clock: ForgottenByWallClock breaks G3, State, within 1_000;
}
