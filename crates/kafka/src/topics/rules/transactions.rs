//! Rule for the brokers' verification of transactions.

use super::Rules;
use crate::topics::{Purpose, UnverifiedBroker};

impl Rules<'_> {
    /// Refuses an outbox on brokers that append a record, or commit offsets, although their transaction has
    /// ended.
    pub(super) fn transactions(&mut self, purpose: Purpose) {
        const SETTING: &str = "transaction.partition.verification.enable";
        // Once, at the topic whose records are paid.
        if purpose != Purpose::Pending {
            return;
        }
        let (disabled, unsupported): (Vec<UnverifiedBroker>, Vec<UnverifiedBroker>) = self
            .required
            .unverified_brokers
            .iter()
            .partition(|broker| broker.is_disabled);
        let why = "a broker then appends a record that arrives after its transaction was aborted; the record \
                   becomes part of the next transaction, and its order is in the outbox twice and paid twice, \
                   or no later record of the partition is ever read; and call notes of a deferral that arrive \
                   late replace newer ones, so that calls are made again";
        if !disabled.is_empty() {
            let what = format!("is on brokers with {SETTING}=false: {}", ids(&disabled));
            let repair = format!(
                "kafka-configs.sh --bootstrap-server {} --alter --entity-type brokers --entity-default \
                 --add-config {SETTING}=true; remove the setting where a single broker has it",
                self.required.bootstrap_servers
            );
            self.refuse(purpose, what, why, repair);
        }
        if !unsupported.is_empty() {
            let what = format!(
                "is on brokers too old to verify the records and the offsets of a transaction: {}",
                ids(&unsupported)
            );
            let repair = "upgrade these brokers to Apache Kafka 3.7 or later".to_owned();
            self.refuse(purpose, what, why, repair);
        }
    }
}

fn ids(brokers: &[UnverifiedBroker]) -> String {
    let ids: Vec<String> = brokers.iter().map(|broker| broker.id.to_string()).collect();
    ids.join(", ")
}
