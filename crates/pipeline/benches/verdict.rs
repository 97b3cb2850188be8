//! Time of a verdict, with the reading and checking of the order, without store and Kafka.
//!
//!     cargo bench -p pipeline --bench verdict
//!
//! Orders with random keys go through transactions of 10,000; the store knows none of them, or all.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use pipeline::admission::{
    Action, Admission, AdmitResult, Event, Input, KeySource, Membership, OrderForm, Partitioner, RecordKey,
    RestoreId, Rules, TransactionLimits, Verdict,
};
use records::entry::Status;
use records::{AmountForm, Entry, Fingerprint, Offset, Partition, Selection, Timestamp};

const ORDERS: usize = 10_000;
const ROUNDS: usize = 31;

/// Order of 270 bytes, as the other measurements have.
fn order(id: &str) -> String {
    format!(
        r#"{{"order_id":"{id}","amount":3817472,"currency":"USD","customer_id":"customer-797879","lines":[{{"sku":"000810398754","quantity":1,"price":"1908736"}},{{"sku":"000810398755","quantity":1,"price":"1908736"}}],"note":"deliver to the back door, please"}}"#
    )
}

fn running(form: OrderForm, start: Instant) -> Admission<()> {
    let rules = Rules {
        form,
        key: KeySource::Pointer("/order_id".into()),
        record_key: RecordKey::IsIdempotencyKey,
        fingerprint: Selection::Order,
        partitioner: Partitioner::Any,
        partitions: 1,
        record_bytes_max: 1 << 20,
    };
    let limits = TransactionLimits {
        commit_interval: Duration::from_secs(1),
        backlog_interval: Duration::from_secs(1),
        orders_max: ORDERS,
        bytes_max: usize::MAX,
    };
    let mut admission = Admission::new(rules, limits, start);
    let membership = Membership {
        member_id: "member".into(),
        metadata: (),
    };
    let mut restore = RestoreId::default();
    admission.on(Event::Tick, start);
    admission.on(Event::ProducerOpened, start);
    for action in admission.on(Event::Assigned(vec![Partition(0)], membership), start) {
        if let Action::Restore(_, id) = action {
            restore = id;
        }
    }
    let restored = Event::Restored {
        window: pipeline::admission::Window::default(),
        partition: Partition(0),
        id: restore,
        next: Offset(0),
        checkpoint: Offset(0),
    };
    admission.on(restored, start);
    admission
}

fn main() {
    let forms = [
        (
            "built-in, minor units",
            OrderForm::BuiltIn(AmountForm::MinorUnits),
        ),
        ("built-in, decimal", OrderForm::BuiltIn(AmountForm::Decimal)),
        ("key-only", OrderForm::KeyOnly),
    ];
    println!("form                   key    ns per order, minimum and median of {ROUNDS} transactions");
    for (name, form) in forms {
        for is_known in [false, true] {
            let mut times = measure(&form, is_known);
            times.sort_unstable();
            let key = if is_known { "known" } else { "new" };
            println!("{name:<22} {key:<6} {:>6} {:>6}", times[0], times[ROUNDS / 2]);
        }
    }
}

/// Returns the nanoseconds per order of each transaction.
fn measure(form: &OrderForm, is_known: bool) -> Vec<u128> {
    let start = Instant::now();
    let mut admission = running(form.clone(), start);
    let entry = Entry {
        status: Status::Pending,
        // Of another order: what is known is a conflict, which costs what a duplicate costs.
        selection: Selection::Order.id(),
        fingerprint: Fingerprint::of(b"another"),
        admitted_at: Timestamp(1),
        source: Offset(0),
    };
    let mut next = 0_i64;
    (0..ROUNDS)
        .map(|_| {
            let orders: Vec<(String, String)> = (0..ORDERS)
                .map(|number| {
                    let id = format!(
                        "{:032x}",
                        u128::from(next.cast_unsigned() + number as u64) << 70 | 7
                    );
                    let value = order(&id);
                    (id, value)
                })
                .collect();
            let began = Instant::now();
            for (id, value) in &orders {
                let input = Input {
                    at: Some(Timestamp(1)),
                    partition: Partition(0),
                    offset: Offset(next),
                    key: Some(id.as_bytes()),
                    value: Some(value.as_bytes()),
                    headers: &[],
                    unreadable_header: None,
                };
                next += 1;
                let known = is_known.then_some(entry);
                let result: Result<_, Infallible> =
                    admission.admit(&input, Timestamp(1), start, |_, _| Ok(known));
                let Ok(AdmitResult::Decided { verdict, .. }) = result else {
                    panic!("not running");
                };
                assert_eq!(matches!(verdict, Verdict::Admit { .. }), !is_known, "{verdict:?}");
            }
            let took = began.elapsed().as_nanos() / ORDERS as u128;
            // Known ones are refused here, so the partition is not paused for them: nothing is committed between.
            admission.on(Event::Tick, start + Duration::from_secs(2));
            let checkpoints: HashMap<_, _> = [(Partition(0), Offset(next))].into();
            admission.on(Event::Committed(checkpoints), start + Duration::from_secs(2));
            took
        })
        .collect()
}
