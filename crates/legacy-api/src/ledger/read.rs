//! Queries of the ledger: by request, by order, and in total.

use std::collections::BTreeMap;

use super::{End, Ledger, Stage};
use crate::{
    Fault,
    responses::{ChargeLine, Lookup, RequestLine, Stats},
};

impl Ledger {
    /// Returns the counts since the start.
    pub(crate) fn stats(&self) -> Stats {
        let faults: BTreeMap<Fault, u64> = Fault::ALL
            .into_iter()
            .map(|fault| (fault, self.faults[fault as usize]))
            .collect();
        Stats {
            requests: self.entries.len() as u64,
            orders: self.orders.len() as u64,
            faults,
            ..self.counts.clone()
        }
    }

    /// Returns the charges of an order, or `None` if it was never charged.
    pub(crate) fn lookup(&self, order_id: &str) -> Option<Lookup> {
        let order = &self.orders[self.find(order_id)? as usize];
        (order.charges > 0).then(|| Lookup {
            order_id: order_id.to_owned(),
            charges: order.charges,
            first_at: order.first_at,
            last_at: order.last_at,
            transaction_ids: (1..=order.charges)
                .map(|nth| transaction_id(order_id, nth))
                .collect(),
        })
    }

    /// Returns the number of recorded requests. Their sequence numbers are below it.
    pub(crate) fn requests(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("no more requests than --requests-max")
    }

    /// Returns the number of distinct orders.
    pub(crate) fn orders(&self) -> u32 {
        u32::try_from(self.orders.len()).expect("no more orders than requests")
    }

    /// Returns the current record of a request.
    pub(crate) fn request_line(&self, sequence: u32) -> RequestLine {
        let entry = &self.entries[sequence as usize];
        let decision = match entry.stage {
            Stage::Waiting | Stage::Failed => None,
            Stage::Decided(decision) => Some(decision),
        };
        let (answered, cut) = match entry.end {
            None => (None, None),
            Some(End::Responded(status)) => (Some(status), None),
            Some(End::Cut(cut)) => (None, Some(cut)),
        };
        RequestLine {
            sequence,
            order_id: self.order_id(entry.order).to_owned(),
            idempotency_key: entry.key.map(|key| self.names.text(key).to_owned()),
            nth: entry.nth,
            arrived_at: entry.arrived_at,
            fault: entry.fault,
            slow: entry.slow,
            processed: decision.is_some(),
            decision,
            processed_at: decision.map(|_| entry.processed_at),
            answered,
            cut,
            finished_at: entry.end.map(|_| entry.finished_at),
        }
    }

    /// Returns the sequence numbers of the requests for one order, in order of arrival.
    pub(crate) fn requests_of(&self, order_id: &str) -> Vec<u32> {
        self.find(order_id)
            .map(|order| self.sequences(order))
            .unwrap_or_default()
    }

    /// Returns the charges of an order, by its number in order of first requests.
    pub(crate) fn charge_line(&self, order: u32) -> ChargeLine {
        let mut keys = Vec::new();
        for key in self
            .sequences(order)
            .into_iter()
            .filter_map(|sequence| self.entries[sequence as usize].key)
        {
            // An order has a handful of keys, nearly always one: a list is enough.
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of_order = &self.orders[order as usize];
        ChargeLine {
            order_id: self.order_id(order).to_owned(),
            charges: of_order.charges,
            requests: of_order.requests,
            idempotency_keys: keys
                .into_iter()
                .map(|key| self.names.text(key).to_owned())
                .collect(),
        }
    }

    fn order_id(&self, order: u32) -> &str {
        self.names.text(self.orders[order as usize].name)
    }

    fn find(&self, order_id: &str) -> Option<u32> {
        // The text may be an idempotency key and no order id.
        let name = self.names.find(order_id)?;
        self.order_of_name.get(name as usize).copied().flatten()
    }

    fn sequences(&self, order: u32) -> Vec<u32> {
        // Requests of an order are linked backwards: that costs 8 bytes per request, and a list per order far
        // more.
        let last = self.orders[order as usize].last_request;
        let mut sequences: Vec<u32> =
            std::iter::successors(last, |&sequence| self.entries[sequence as usize].previous).collect();
        sequences.reverse();
        sequences
    }
}

/// Returns the transaction id of a charge, which is the same in every run with the same requests.
pub(crate) fn transaction_id(order_id: &str, nth: u32) -> String {
    format!("T-{order_id}-{nth}")
}
