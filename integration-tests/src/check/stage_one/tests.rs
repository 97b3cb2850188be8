//! Breaks each rule once and expects its violation.

use super::*;
use crate::check::expected::expected;
use crate::orders::{Mix, Orders, SEQUENCE, partition_of};
use records::continuation::{CONTINUES, Continuation};
use records::{Fingerprint, Timestamp, entry::Status};

const TOPIC: &str = "orders";
const COUNT: u64 = 400;
const PARTITIONS: i32 = 3;

/// Words of the expected finding, and the change that causes it.
type Change<T> = (&'static str, fn(&mut T));

/// Topics after a faultless run.
struct World {
    orders: Orders,
    input: Vec<Record>,
    pending: Vec<Record>,
    changelog: Vec<Record>,
    dead_letters: Vec<Record>,
    committed: HashMap<Partition, Offset>,
}

impl World {
    fn faultless() -> Self {
        let orders = Orders::Generated(Mix::with_seed(3));
        let mut world = Self {
            input: input(&orders),
            orders,
            pending: Vec::new(),
            changelog: Vec::new(),
            dead_letters: Vec::new(),
            committed: HashMap::new(),
        };
        let expected = expected(&world.input, &world.orders, COUNT).expect("what was sent");
        for order in expected.admitted.values() {
            world.pending.push(with_headers(
                order,
                &[
                    (pending::SOURCE, &source(order)),
                    (pending::ADMITTED_AT, "1790000000000"),
                    (pending::TRACEPARENT, "00-1-1-01"),
                ],
            ));
            let entry = Entry {
                status: Status::Pending,
                fingerprint: order.fingerprint.expect("a value"),
                admitted_at: Timestamp(1_790_000_000_000),
                source: order.offset,
            };
            world.changelog.push(Record {
                value: Some(entry.encode().to_vec()),
                headers: Vec::new(),
                ..(*order).clone()
            });
        }
        for (order, reason) in expected.refused.values() {
            world.dead_letters.push(with_headers(
                order,
                &[
                    (dead_letter::REASON, reason.as_str()),
                    (dead_letter::SOURCE, &source(order)),
                ],
            ));
        }
        world.committed = ends(&world.input).into_iter().collect();
        world
    }

    fn check(&self) -> (Counts, Vec<Violation>) {
        let expected = expected(&self.input, &self.orders, COUNT).expect("what was sent");
        StageOne {
            orders_topic: TOPIC,
            expected: &expected,
            ends: &ends(&self.input),
            committed: &self.committed,
            pending: &self.pending,
            changelog: &self.changelog,
            dead_letters: &self.dead_letters,
        }
        .check()
    }

    /// Expects a violation of this guarantee and kind with these words.
    fn check_finds(&self, guarantee: Guarantee, anomaly: Anomaly, words: &str) {
        let (_, violations) = self.check();
        let is_it = |found: &Violation| {
            (found.guarantee, found.anomaly) == (guarantee, anomaly) && found.finding.contains(words)
        };
        assert!(
            violations.iter().any(is_it),
            "no {anomaly:?} of {guarantee} with {words:?} among {violations:?}"
        );
    }
}

fn input(orders: &Orders) -> Vec<Record> {
    let mut ends = [0; PARTITIONS as usize];
    let mut input: Vec<Record> = (0..COUNT)
        .map(|sequence| {
            let sent = orders.record(sequence);
            let partition = partition_of(&sent, PARTITIONS);
            let end = &mut ends[usize::try_from(partition.0).expect("a partition")];
            *end += 1;
            Record {
                partition,
                offset: Offset(*end - 1),
                timestamp_ms: 0,
                key: sent.key,
                fingerprint: sent.value.as_deref().map(Fingerprint::of),
                value: None,
                headers: vec![(SEQUENCE.into(), Some(sequence.to_string().into_bytes()))],
            }
        })
        .collect();
    input.sort_by_key(|record| (record.partition, record.offset));
    input
}

fn ends(input: &[Record]) -> Vec<(Partition, Offset)> {
    let mut ends = BTreeMap::new();
    for record in input {
        ends.insert(record.partition, record.offset.next());
    }
    ends.into_iter().collect()
}

fn with_headers(order: &Record, more: &[(&str, &str)]) -> Record {
    let mut record = order.clone();
    for (name, value) in more {
        record
            .headers
            .push(((*name).to_owned(), Some(value.as_bytes().to_vec())));
    }
    record
}

fn source(order: &Record) -> String {
    format!("{TOPIC}/{}@{}", order.partition, order.offset)
}

#[test]
fn faultless_run_has_no_violation() {
    let world = World::faultless();
    let (counts, violations) = world.check();
    assert_eq!(violations, []);
    assert_eq!(counts.exactly_once, world.pending.len() as u64);
    assert!(counts.dead_letters[&Reason::Conflict] > 0);
}

#[test]
fn order_twice_in_the_outbox_is_found() {
    let mut world = World::faultless();
    world.pending.push(world.pending[0].clone());
    world.check_finds(Guarantee::G1, Anomaly::Duplicated, "is in the outbox 2 times");
}

/// Returns a deferred copy of the first pending call, at the tail of the outbox.
fn deferred(world: &World) -> Record {
    let first = &world.pending[0];
    let call = format!("pending/{}@{}", first.partition, first.offset);
    let continuation = Continuation::new(call.parse().expect("a position"), Timestamp(1));
    let mut copy = first.clone();
    copy.offset = Offset(1_000_000);
    copy.headers
        .push((CONTINUES.into(), Some(continuation.to_json())));
    copy
}

#[test]
fn deferred_copy_is_no_second_call() {
    let mut world = World::faultless();
    world.pending.push(deferred(&world));
    let (counts, violations) = world.check();
    assert_eq!(violations, []);
    assert_eq!(counts.exactly_once + 1, world.pending.len() as u64);
}

#[test]
fn copy_without_its_header_is_found() {
    let mut world = World::faultless();
    let mut copy = deferred(&world);
    copy.headers.pop();
    world.pending.push(copy);
    world.check_finds(Guarantee::G1, Anomaly::Duplicated, "is in the outbox 2 times");
}

#[test]
fn two_equal_copies_are_found() {
    let mut world = World::faultless();
    let copy = deferred(&world);
    world.pending.extend([copy.clone(), copy]);
    world.check_finds(Guarantee::G1, Anomaly::Duplicated, "is copy 2 of");
}

#[test]
fn copy_without_its_call_is_found() {
    let mut world = World::faultless();
    let copy = deferred(&world);
    world.pending[0] = copy;
    world.check_finds(Guarantee::G1, Anomaly::Wrong, "which starts no call");
    world.check_finds(Guarantee::G2, Anomaly::Lost, "is not in the outbox");
}

#[test]
fn lost_order_is_found() {
    let mut world = World::faultless();
    world.pending.pop();
    world.check_finds(Guarantee::G2, Anomaly::Lost, "is not in the outbox");
}

#[test]
fn pending_call_without_order_is_found() {
    let mut world = World::faultless();
    world.pending[0].key = Some(b"stranger".to_vec());
    world.check_finds(Guarantee::G1, Anomaly::Wrong, "no valid order has");
}

#[test]
fn changed_pending_call_is_found() {
    let changes: [Change<Record>; 7] = [
        ("has another value", |call| {
            call.fingerprint = Some(Fingerprint::of(b"other"));
        }),
        ("partition", |call| call.partition = Partition(9)),
        ("headers of its order", |call| {
            call.headers.remove(0);
        }),
        ("has source", |call| {
            call.headers[1].1 = Some(b"orders/0@999999".to_vec());
        }),
        ("has source None", |call| {
            call.headers.remove(1);
        }),
        ("no valid admission time", |call| {
            call.headers.remove(2);
        }),
        ("trace context", |call| {
            call.headers.remove(3);
        }),
    ];
    for (words, change) in changes {
        let mut world = World::faultless();
        change(&mut world.pending[0]);
        world.check_finds(Guarantee::G1, Anomaly::Wrong, words);
    }
}

#[test]
fn wrong_dead_letters_are_found() {
    use Anomaly::{Duplicated, Lost, Wrong};
    let changes: [(Anomaly, Change<Vec<Record>>); 5] = [
        (
            Lost,
            ("0 dead letters", |letters| {
                letters.pop();
            }),
        ),
        (
            Duplicated,
            ("2 dead letters", |letters| letters.push(letters[0].clone())),
        ),
        (
            Wrong,
            ("its dead letter has reason", |letters| {
                letters[0].headers[1].1 = Some(b"too-large".to_vec());
            }),
        ),
        (
            Wrong,
            ("differs from it in key", |letters| {
                letters[0].key = Some(b"other".to_vec());
            }),
        ),
        (
            Wrong,
            ("must not be refused", |letters| {
                letters[0].headers[2].1 = Some(b"orders/0@999999".to_vec());
            }),
        ),
    ];
    for (anomaly, (words, change)) in changes {
        let mut world = World::faultless();
        change(&mut world.dead_letters);
        world.check_finds(Guarantee::G2, anomaly, words);
    }
}

#[test]
fn changelog_that_differs_is_found() {
    let changes: [Change<Vec<Record>>; 6] = [
        ("0 times in the changelog", |entries| {
            entries.pop();
        }),
        ("2 times in the changelog", |entries| {
            entries.push(entries[0].clone());
        }),
        ("which is not in the outbox", |entries| {
            entries[0].key = Some(b"other".to_vec());
        }),
        ("cannot be decoded", |entries| entries[0].value = None),
        ("another payload", |entries| {
            entries[0].value.as_mut().expect("a value")[5] ^= 1;
        }),
        ("unlike the pending call", |entries| {
            entries[0].value.as_mut().expect("a value")[30] ^= 1;
        }),
    ];
    for (words, change) in changes {
        let mut world = World::faultless();
        change(&mut world.changelog);
        world.check_finds(Guarantee::G3, Anomaly::Torn, words);
    }
}

#[test]
fn committed_offset_not_at_the_end_is_found() {
    let mut world = World::faultless();
    world.committed.insert(Partition(1), Offset(1));
    world.check_finds(Guarantee::G2, Anomaly::Torn, "committed offset is 1");
    world.committed.clear();
    world.check_finds(Guarantee::G2, Anomaly::Torn, "committed offset is 0");
}

#[test]
fn order_missing_from_the_input_voids_the_run() {
    let mut world = World::faultless();
    world.input.remove(5);
    assert!(expected(&world.input, &world.orders, COUNT).is_err());
}
