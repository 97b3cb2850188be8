//! Breaks each rule once and expects its violation.

use super::*;
use crate::check::expected::expected;
use crate::orders::{Mix, Orders, SEQUENCE, partition_of};
use records::continuation::{CONTINUES, Continuation};
use records::{Fingerprint, Timestamp, entry::Status, fingerprint::SelectionId};

const TOPIC: &str = "orders";
const COUNT: u64 = 400;
const PARTITIONS: i32 = 3;

/// Words of the expected finding, and the change that causes it.
type Change<T> = (&'static str, fn(&mut T));

/// Topics after a faultless run.
struct Fixture {
    orders: Orders,
    input: Vec<Record>,
    pending: Vec<Record>,
    changelog: Vec<Record>,
    dead_letters: Vec<Record>,
    committed: HashMap<Partition, Offset>,
    lost_group: bool,
}

impl Fixture {
    fn faultless() -> Self {
        let orders = Orders::Generated(Mix::with_seed(3));
        let mut fixture = Self {
            input: input(&orders),
            orders,
            pending: Vec::new(),
            changelog: Vec::new(),
            dead_letters: Vec::new(),
            committed: HashMap::new(),
            lost_group: false,
        };
        let expected = expected(&fixture.input, &fixture.orders, COUNT).expect("what was sent");
        for order in expected.admitted.values() {
            fixture.pending.push(with_headers(
                order,
                &[
                    (pending::SOURCE, &source(order)),
                    (pending::ADMITTED_AT, "1790000000000"),
                    (pending::TRACEPARENT, "00-1-1-01"),
                ],
            ));
            let entry = Entry {
                status: Status::Pending,
                selection: SelectionId::Order,
                fingerprint: expected.fingerprints[order.key.as_deref().expect("a key")],
                admitted_at: Timestamp(1_790_000_000_000),
                source: order.offset,
            };
            fixture.changelog.push(Record {
                value: Some(entry.encode().to_vec()),
                headers: Vec::new(),
                ..(*order).clone()
            });
        }
        for (order, reason) in expected.refused.values() {
            fixture.dead_letters.push(with_headers(
                order,
                &[
                    (dead_letter::REASON, reason.as_str()),
                    (dead_letter::SOURCE, &source(order)),
                ],
            ));
        }
        fixture.committed = ends(&fixture.input).into_iter().collect();
        fixture
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
            lost_group: self.lost_group,
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
    let fixture = Fixture::faultless();
    let (counts, violations) = fixture.check();
    assert_eq!(violations, []);
    assert_eq!(counts.exactly_once, fixture.pending.len() as u64);
    assert!(counts.dead_letters[&Reason::Conflict] > 0);
}

#[test]
fn order_twice_in_the_outbox_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.pending.push(fixture.pending[0].clone());
    fixture.check_finds(Guarantee::G1, Anomaly::Duplicated, "is in the outbox 2 times");
}

/// Returns a deferred copy of the first pending call, at the tail of the outbox.
fn deferred(fixture: &Fixture) -> Record {
    let first = &fixture.pending[0];
    let call = format!("pending/{}@{}", first.partition, first.offset);
    let continuation = Continuation::new(
        call.parse().expect("a position"),
        "api-caller".into(),
        Timestamp(1),
    );
    let mut copy = first.clone();
    copy.offset = Offset(1_000_000);
    copy.headers
        .push((CONTINUES.into(), Some(continuation.to_json())));
    copy
}

#[test]
fn deferred_copy_is_no_second_call() {
    let mut fixture = Fixture::faultless();
    fixture.pending.push(deferred(&fixture));
    let (counts, violations) = fixture.check();
    assert_eq!(violations, []);
    assert_eq!(counts.exactly_once + 1, fixture.pending.len() as u64);
}

#[test]
fn copy_without_its_header_is_found() {
    let mut fixture = Fixture::faultless();
    let mut copy = deferred(&fixture);
    copy.headers.pop();
    fixture.pending.push(copy);
    fixture.check_finds(Guarantee::G1, Anomaly::Duplicated, "is in the outbox 2 times");
}

#[test]
fn two_equal_copies_are_found() {
    let mut fixture = Fixture::faultless();
    let copy = deferred(&fixture);
    fixture.pending.extend([copy.clone(), copy]);
    fixture.check_finds(Guarantee::G1, Anomaly::Duplicated, "is copy 2 of");
}

#[test]
fn copy_without_its_call_is_found() {
    let mut fixture = Fixture::faultless();
    let copy = deferred(&fixture);
    fixture.pending[0] = copy;
    fixture.check_finds(Guarantee::G1, Anomaly::Wrong, "which starts no call");
    fixture.check_finds(Guarantee::G2, Anomaly::Lost, "is not in the outbox");
}

#[test]
fn lost_order_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.pending.pop();
    fixture.check_finds(Guarantee::G2, Anomaly::Lost, "is not in the outbox");
}

#[test]
fn pending_call_without_order_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.pending[0].key = Some(b"stranger".to_vec());
    fixture.check_finds(Guarantee::G1, Anomaly::Wrong, "no valid order has");
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
        ("more than one trace context", |call| {
            call.headers.push(call.headers[3].clone());
        }),
    ];
    for (words, change) in changes {
        let mut fixture = Fixture::faultless();
        change(&mut fixture.pending[0]);
        fixture.check_finds(Guarantee::G1, Anomaly::Wrong, words);
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
        let mut fixture = Fixture::faultless();
        change(&mut fixture.dead_letters);
        fixture.check_finds(Guarantee::G2, anomaly, words);
    }
}

#[test]
fn changelog_that_differs_is_found() {
    let changes: [Change<Vec<Record>>; 7] = [
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
        ("another order", |entries| {
            entries[0].value.as_mut().expect("a value")[12] ^= 1;
        }),
        ("unlike the pending call", |entries| {
            entries[0].value.as_mut().expect("a value")[38] ^= 1;
        }),
        ("a fingerprint of none", |entries| {
            entries[0].value.as_mut().expect("a value")[2] = 3;
        }),
    ];
    for (words, change) in changes {
        let mut fixture = Fixture::faultless();
        change(&mut fixture.changelog);
        fixture.check_finds(Guarantee::G3, Anomaly::Torn, words);
    }
}

#[test]
fn committed_offset_not_at_the_end_is_found() {
    let mut fixture = Fixture::faultless();
    fixture.committed.insert(Partition(1), Offset(1));
    fixture.check_finds(Guarantee::G2, Anomaly::Torn, "committed offset is 1");
    fixture.committed.clear();
    fixture.check_finds(Guarantee::G2, Anomaly::Torn, "committed offset is 0");
}

#[test]
fn order_missing_from_the_input_voids_the_run() {
    let mut fixture = Fixture::faultless();
    fixture.input.remove(5);
    assert!(expected(&fixture.input, &fixture.orders, COUNT).is_err());
}

#[test]
fn resubmission_is_no_dead_letter() {
    let mut fixture = Fixture::faultless();
    let mut resubmission = fixture.dead_letters[0].clone();
    resubmission.headers = vec![(resubmission::RESUBMITS.into(), Some(b"dead/0@4".to_vec()))];
    fixture.dead_letters.push(resubmission);
    assert_eq!(fixture.check().1, []);
}

#[test]
fn lost_group_repeats_dead_letters_alone() {
    let mut fixture = Fixture::faultless();
    fixture.lost_group = true;
    let again = fixture.dead_letters.clone();
    fixture.dead_letters.extend(again);
    assert_eq!(fixture.check().1, []);
    fixture.pending.push(fixture.pending[0].clone());
    fixture.check_finds(Guarantee::G1, Anomaly::Duplicated, "is in the outbox 2 times");
}
