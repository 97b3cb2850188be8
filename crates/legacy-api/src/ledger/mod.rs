//! Record of every request and every charge, in memory.
//!
//! A request is recorded when it has arrived. It is done when two things have happened, in either order: the
//! API has made its decision (or has failed before), and the client has got its response or was cut off. A
//! client that leaves does not stop the processing of its request.
//!
//! The ledger has no clock and no lock: the time is an argument, in ms since 1970, and the caller holds the
//! lock.

mod names;
mod read;

use names::Names;
pub(crate) use read::transaction_id;
use thiserror::Error;

use crate::{
    Fault,
    faults::Draw,
    responses::{Cut, Decision, Stats},
};

/// Requests and charges of the API.
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    entries_max: u32,
    honours_keys: bool,
    /// Order ids and idempotency keys together, because most clients use the order id as the key.
    names: Names,
    orders: Vec<Order>,
    /// Order by the number of its id.
    order_of_name: Vec<Option<u32>>,
    /// Charge by the number of its idempotency key. Filled only if keys are honoured.
    charge_of_name: Vec<Option<Charge>>,
    counts: Stats,
    faults: [u64; Fault::ALL.len()],
}

/// Request that was just recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) sequence: u32,
    pub(crate) draw: Draw,
}

/// Decision of the API. Charges are numbered within their order, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processed {
    Charged(u32),
    Replayed(u32),
    Rejected(Rejection),
}

/// Reason for a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Drawn from the seed.
    Drawn,
    /// The idempotency key was used for another order.
    KeyOfAnotherOrder,
}

/// End of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Responded(u16),
    Cut(Cut),
}

/// The ledger is full.
#[derive(Debug, Error)]
#[error("the record is full: {0} requests, the limit of --requests-max; further payments are refused")]
pub(crate) struct Full(pub(crate) u32);

struct Entry {
    arrived_at: u64,
    processed_at: u64,
    finished_at: u64,
    order: u32,
    key: Option<u32>,
    nth: u32,
    /// Sequence number of the previous request for the order.
    previous: Option<u32>,
    fault: Option<Fault>,
    slow: bool,
    stage: Stage,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Failed before processing, and will not be processed.
    Failed,
    Decided(Decision),
}

struct Order {
    name: u32,
    charges: u32,
    requests: u32,
    first_at: u64,
    last_at: u64,
    last_request: Option<u32>,
}

#[derive(Clone, Copy)]
struct Charge {
    order: u32,
    nth: u32,
}

impl Ledger {
    pub(crate) fn new(entries_max: u32, honours_keys: bool) -> Self {
        Ledger {
            entries: Vec::new(),
            entries_max,
            honours_keys,
            names: Names::default(),
            orders: Vec::new(),
            order_of_name: Vec::new(),
            charge_of_name: Vec::new(),
            counts: Stats::default(),
            faults: [0; Fault::ALL.len()],
        }
    }

    /// Records a request. `draw` gets its number among the requests for this order, from 1.
    ///
    /// # Errors
    /// The ledger is full.
    pub(crate) fn arrive(
        &mut self,
        order_id: &str,
        key: Option<&str>,
        now: u64,
        draw: impl FnOnce(u32) -> Draw,
    ) -> Result<Arrived, Full> {
        let sequence = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        // Refused and counted, not overwritten: a checker that misses a request would find a repeated call
        // unexplained.
        if sequence >= self.entries_max {
            self.counts.refused_full += 1;
            return Err(Full(self.entries_max));
        }
        // Only now: a request that is refused for lack of room creates no order.
        let name = self.names.number(order_id);
        let order = self.order(name);
        let key = key.map(|key| {
            if key == order_id {
                name
            } else {
                self.names.number(key)
            }
        });
        let of_order = &mut self.orders[order as usize];
        of_order.requests += 1;
        // Order of arrival, not of processing: the draw of a request must not depend on how others are
        // scheduled.
        let nth = of_order.requests;
        let previous = of_order.last_request.replace(sequence);
        let draw = draw(nth);
        self.entries.push(Entry {
            arrived_at: now,
            processed_at: 0,
            finished_at: 0,
            order,
            key,
            nth,
            previous,
            fault: draw.fault,
            slow: draw.slow,
            stage: Stage::Waiting,
            end: None,
        });
        if let Some(fault) = draw.fault {
            self.faults[fault as usize] += 1;
        }
        let counts = &mut self.counts;
        counts.slow += u64::from(draw.slow);
        counts.in_progress += 1;
        counts.in_progress_max = counts.in_progress_max.max(counts.in_progress);
        Ok(Arrived { sequence, draw })
    }

    /// Makes the decision on a request, and charges the customer if it is accepted.
    pub(crate) fn process(&mut self, sequence: u32, rejected: bool, now: u64) -> Processed {
        let entry = &self.entries[sequence as usize];
        // The stand-in must not charge twice by a mistake of its own: that would be blamed on the pipeline.
        assert!(
            entry.stage == Stage::Waiting,
            "request {sequence} is processed once"
        );
        let (order, key) = (entry.order, entry.key);
        // The key comes first, as in real APIs: a replayed request is not validated again.
        let known = key.and_then(|key| self.charge_of_name.get(key as usize).copied().flatten());
        let processed = match known {
            Some(charge) if charge.order == order => Processed::Replayed(charge.nth),
            Some(_) => Processed::Rejected(Rejection::KeyOfAnotherOrder),
            None if rejected => Processed::Rejected(Rejection::Drawn),
            None => Processed::Charged(self.charge(order, key, now)),
        };
        let decision = match processed {
            Processed::Charged(_) => Decision::Charged,
            Processed::Replayed(_) => Decision::Replayed,
            Processed::Rejected(_) => Decision::Rejected,
        };
        match decision {
            Decision::Charged => self.counts.charges += 1,
            Decision::Replayed => self.counts.replayed += 1,
            Decision::Rejected => self.counts.rejected += 1,
        }
        self.finish_processing(sequence, Stage::Decided(decision), now);
        processed
    }

    /// Records that a request failed before it was processed.
    pub(crate) fn fail(&mut self, sequence: u32, now: u64) {
        self.finish_processing(sequence, Stage::Failed, now);
    }

    /// Records the response, or that there is none.
    pub(crate) fn end(&mut self, sequence: u32, end: End, now: u64) {
        let entry = &mut self.entries[sequence as usize];
        assert!(entry.end.is_none(), "request {sequence} ends once");
        entry.end = Some(end);
        entry.finished_at = now;
        // The later of processing and end decides: `finish_processing` subtracts in the other order.
        let done = entry.stage != Stage::Waiting;
        self.counts.in_progress -= u64::from(done);
        self.counts.client_left += u64::from(end == End::Cut(Cut::ClientLeft));
    }

    /// Counts a malformed request, which is not recorded.
    pub(crate) fn malformed(&mut self) {
        self.counts.malformed += 1;
    }

    /// Counts a request that its client did not finish sending.
    pub(crate) fn incomplete(&mut self) {
        self.counts.incomplete += 1;
    }

    /// Counts an outage of the API.
    pub(crate) fn down(&mut self) {
        self.counts.downs += 1;
    }

    /// Returns the order with this id, and creates it if necessary.
    fn order(&mut self, name: u32) -> u32 {
        // Keys are numbered too, so the table may have to grow by more than one.
        if self.order_of_name.len() < self.names.len() {
            self.order_of_name.resize(self.names.len(), None);
        }
        *self.order_of_name[name as usize].get_or_insert_with(|| {
            self.orders.push(Order {
                name,
                charges: 0,
                requests: 0,
                first_at: 0,
                last_at: 0,
                last_request: None,
            });
            u32::try_from(self.orders.len() - 1).expect("no more orders than requests")
        })
    }

    fn charge(&mut self, order: u32, key: Option<u32>, now: u64) -> u32 {
        let of_order = &mut self.orders[order as usize];
        of_order.charges += 1;
        of_order.last_at = now;
        let nth = of_order.charges;
        // Counted here, at the moment of the charge, so that `GET /stats` needs no pass over the orders.
        match nth {
            1 => {
                of_order.first_at = now;
                self.counts.orders_charged += 1;
            }
            2 => self.counts.orders_charged_more_than_once += 1,
            _ => {}
        }
        // A rejected request stores no key: the client may correct the order and try again with the same key.
        if let Some(key) = key.filter(|_| self.honours_keys) {
            self.charge_of_name.resize(self.names.len(), None);
            self.charge_of_name[key as usize] = Some(Charge { order, nth });
        }
        nth
    }

    fn finish_processing(&mut self, sequence: u32, stage: Stage, now: u64) {
        let entry = &mut self.entries[sequence as usize];
        assert!(
            entry.stage == Stage::Waiting,
            "request {sequence} is processed once"
        );
        entry.stage = stage;
        entry.processed_at = now;
        self.counts.in_progress -= u64::from(entry.end.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responses::ChargeLine;

    fn healthy(_nth: u32) -> Draw {
        Draw {
            fault: None,
            slow: false,
        }
    }

    fn pay(ledger: &mut Ledger, order_id: &str, key: &str, now: u64) -> Processed {
        let arrived = ledger.arrive(order_id, Some(key), now, healthy).unwrap();
        let processed = ledger.process(arrived.sequence, false, now);
        ledger.end(arrived.sequence, End::Responded(201), now);
        processed
    }

    #[test]
    fn repeated_call_charges_twice() {
        let mut ledger = Ledger::new(10, false);
        assert_eq!(pay(&mut ledger, "a", "k", 5), Processed::Charged(1));
        assert_eq!(pay(&mut ledger, "a", "k", 6), Processed::Charged(2));
        assert_eq!(pay(&mut ledger, "b", "l", 7), Processed::Charged(1));
        let stats = ledger.stats();
        assert_eq!((stats.requests, stats.charges, stats.orders_charged), (3, 3, 2));
        assert_eq!(
            (
                stats.orders_charged_more_than_once,
                stats.in_progress,
                stats.in_progress_max
            ),
            (1, 0, 1)
        );
        let lookup = ledger.lookup("a").unwrap();
        assert_eq!((lookup.charges, lookup.first_at, lookup.last_at), (2, 5, 6));
        assert_eq!(lookup.transaction_ids, ["T-a-1", "T-a-2"]);
        assert_eq!(
            ledger.charge_line(0),
            ChargeLine {
                order_id: "a".into(),
                charges: 2,
                requests: 2,
                idempotency_keys: vec!["k".into()]
            }
        );
    }

    #[test]
    fn honoured_key_charges_once_for_one_order() {
        let mut ledger = Ledger::new(10, true);
        assert_eq!(pay(&mut ledger, "a", "k", 1), Processed::Charged(1));
        assert_eq!(pay(&mut ledger, "a", "k", 2), Processed::Replayed(1));
        assert_eq!(
            pay(&mut ledger, "b", "k", 3),
            Processed::Rejected(Rejection::KeyOfAnotherOrder)
        );
        assert_eq!(pay(&mut ledger, "a", "other", 4), Processed::Charged(2));
        let stats = ledger.stats();
        assert_eq!((stats.charges, stats.replayed, stats.rejected), (2, 1, 1));
    }

    #[test]
    fn order_id_may_be_the_key_of_another_order() {
        let mut ledger = Ledger::new(10, true);
        assert_eq!(pay(&mut ledger, "a", "b", 1), Processed::Charged(1));
        assert_eq!(ledger.lookup("b"), None);
        assert_eq!(pay(&mut ledger, "b", "a", 2), Processed::Charged(1));
        let lines = [0, 1].map(|order| ledger.charge_line(order));
        assert_eq!(lines.each_ref().map(|line| line.order_id.as_str()), ["a", "b"]);
        assert_eq!(
            lines.each_ref().map(|line| line.idempotency_keys[0].as_str()),
            ["b", "a"]
        );
    }

    #[test]
    fn request_of_a_gone_client_stays_in_progress() {
        let mut ledger = Ledger::new(10, false);
        let sequence = ledger.arrive("a", None, 1, healthy).unwrap().sequence;
        ledger.end(sequence, End::Cut(Cut::ClientLeft), 2);
        assert_eq!(ledger.stats().in_progress, 1);
        assert_eq!(ledger.lookup("a"), None);
        let line = ledger.request_line(sequence);
        assert_eq!(
            (line.processed, line.cut, line.finished_at),
            (false, Some(Cut::ClientLeft), Some(2))
        );

        ledger.process(sequence, false, 9);
        assert_eq!((ledger.stats().in_progress, ledger.stats().client_left), (0, 1));
        assert_eq!(ledger.lookup("a").unwrap().first_at, 9);
        let line = ledger.request_line(sequence);
        assert_eq!(
            (line.decision, line.processed_at, line.finished_at),
            (Some(Decision::Charged), Some(9), Some(2))
        );
    }

    #[test]
    fn rejected_and_failed_requests_charge_nothing() {
        let mut ledger = Ledger::new(10, false);
        let fails = |_| Draw {
            fault: Some(Fault::Before503),
            slow: false,
        };
        let first = ledger.arrive("a", None, 1, fails).unwrap().sequence;
        ledger.fail(first, 1);
        ledger.end(first, End::Responded(503), 1);
        let second = ledger.arrive("a", None, 2, healthy).unwrap().sequence;
        assert_eq!(
            ledger.process(second, true, 2),
            Processed::Rejected(Rejection::Drawn)
        );
        ledger.end(second, End::Responded(422), 2);

        assert_eq!(ledger.lookup("a"), None);
        assert_eq!(ledger.requests_of("a"), [first, second]);
        let lines = [first, second].map(|sequence| ledger.request_line(sequence));
        assert_eq!(lines.each_ref().map(|line| line.nth), [1, 2]);
        assert_eq!(
            lines.each_ref().map(|line| line.decision),
            [None, Some(Decision::Rejected)]
        );
        assert_eq!(lines.each_ref().map(|line| line.processed_at), [None, Some(2)]);
        let stats = ledger.stats();
        assert_eq!((stats.charges, stats.rejected, stats.in_progress), (0, 1, 0));
        assert_eq!(stats.faults[&Fault::Before503], 1);
    }

    #[test]
    fn full_ledger_refuses_requests() {
        let mut ledger = Ledger::new(1, false);
        pay(&mut ledger, "a", "k", 1);
        assert!(ledger.arrive("b", None, 2, healthy).is_err());
        let stats = ledger.stats();
        assert_eq!((stats.requests, stats.orders, stats.refused_full), (1, 1, 1));
    }
}
