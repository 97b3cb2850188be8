//! Records whose schema is not known: their partition waits, and nothing is decided or passed meanwhile.

use std::convert::Infallible;

use records::{AmountForm, Selection};
use schemas::{Answer, CacheLimits, Format, Schema, SchemaText, Unusable};

use super::*;
use crate::admission::{KeySource, OrderForm, Partitioner, RecordKey};

const LIMITS: TransactionLimits = TransactionLimits {
    commit_interval: Duration::from_millis(10),
    backlog_interval: Duration::from_millis(10),
    orders_max: 100,
    bytes_max: 1 << 20,
};

struct Fixture {
    admission: Admission<()>,
    now: Instant,
}

impl Fixture {
    /// Two running partitions.
    fn new() -> Self {
        let rules = Rules {
            form: OrderForm::BuiltIn(AmountForm::MinorUnits),
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            fingerprint: Selection::Order,
            partitioner: Partitioner::Any,
            partitions: 2,
            record_bytes_max: 1 << 20,
        };
        let now = Instant::now();
        let schemas = Schemas::new(CacheLimits {
            ids_max: 9,
            unknown_for: Duration::from_secs(60),
        });
        let mut fixture = Self {
            admission: Admission::new(rules, LIMITS, now).with_schemas(Some(schemas)),
            now,
        };
        fixture.on(Event::Tick);
        fixture.on(Event::ProducerOpened);
        let membership = Membership {
            member_id: "member".into(),
            metadata: (),
        };
        fixture.on(Event::Assigned(vec![Partition(0), Partition(1)], membership));
        fixture.restored(0, 1);
        fixture.restored(1, 2);
        fixture
    }

    fn restored(&mut self, partition: i32, id: u64) {
        self.on(Event::Restored {
            partition: Partition(partition),
            id: RestoreId(id),
            next: Offset(0),
            checkpoint: Offset(0),
            window: Window::default(),
        });
    }

    fn on(&mut self, event: Event<()>) -> Vec<Action<()>> {
        self.admission.on(event, self.now)
    }

    /// Does what is due until nothing is, and returns the actions.
    fn ticks(&mut self) -> String {
        let mut actions = Vec::new();
        while self.admission.due().is_some_and(|due| due <= self.now) {
            let next = self.on(Event::Tick);
            assert!(!next.is_empty(), "due, and nothing to do");
            if matches!(next[..], [Action::EndTransaction(..)]) {
                self.on(Event::Committed(
                    [(Partition(0), Offset(9)), (Partition(1), Offset(9))].into(),
                ));
            }
            actions.extend(next);
        }
        format!("{actions:?}")
    }

    fn order(&mut self, partition: i32, offset: i64, schema: u8, id: &str) -> AdmitResult {
        let order = format!(r#"{{"order_id":"{id}","amount":1,"currency":"EUR","customer_id":"c"}}"#);
        let value = [&[0, 0, 0, 0, schema], order.as_bytes()].concat();
        let input = Input {
            partition: Partition(partition),
            offset: Offset(offset),
            at: Some(Timestamp(1)),
            key: Some(id.as_bytes()),
            value: Some(&value),
            headers: &[],
            unreadable_header: None,
        };
        let taken: Result<_, Infallible> = self
            .admission
            .admit(&input, Timestamp(1), self.now, |_, _| Ok(None));
        let Ok(taken) = taken;
        taken
    }

    fn answer(&mut self, schema: u32, answer: Answer) -> String {
        let actions = self.on(Event::SchemaAnswered(SchemaId(schema), answer));
        format!("{actions:?}")
    }
}

fn any_json() -> Answer {
    let text = SchemaText {
        format: Format::Json,
        text: "true".into(),
        references: Vec::new(),
    };
    Answer::Known(Schema::parse(&text).expect("a schema").into())
}

fn is_admitted(taken: &AdmitResult) -> bool {
    matches!(
        taken,
        AdmitResult::Decided {
            verdict: Verdict::Admit { .. },
            ..
        }
    )
}

fn refused(taken: &AdmitResult) -> Option<Reason> {
    match taken {
        AdmitResult::Decided {
            verdict: Verdict::Refuse(refusal),
            ..
        } => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn partition_waits_for_a_schema_in_order() {
    let mut fixture = Fixture::new();
    fixture
        .admission
        .schemas
        .as_mut()
        .expect("schemas")
        .insert(SchemaId(1), any_json(), fixture.now);
    assert!(is_admitted(&fixture.order(0, 0, 1, "a")));
    assert!(matches!(
        fixture.order(0, 1, 7, "b"),
        AdmitResult::AwaitsSchema(SchemaId(7))
    ));
    // Behind it nothing is decided, also what could be; other partitions go on.
    assert!(matches!(fixture.order(0, 2, 1, "c"), AdmitResult::NotRunning));
    assert!(is_admitted(&fixture.order(1, 0, 1, "d")));
    // What was decided before is committed, and not kept open for the wait.
    fixture.now += LIMITS.commit_interval;
    let actions = fixture.ticks();
    assert!(actions.contains("Pause([Partition(0)])"), "{actions}");
    assert!(
        actions.contains("EndTransaction([NextOffset { partition: Partition(0), offset: Offset(1)"),
        "{actions}"
    );
    assert_eq!(fixture.admission.due(), None);
    assert_eq!(fixture.admission.wanted_schemas(), [SchemaId(7)].into());

    assert_eq!(fixture.answer(8, any_json()), "[]", "an answer for nobody");
    assert_eq!(fixture.answer(7, any_json()), "[Start(Partition(0), Offset(1))]");
    assert!(is_admitted(&fixture.order(0, 1, 7, "b")));
    assert!(is_admitted(&fixture.order(0, 2, 1, "c")));
    assert!(fixture.admission.wanted_schemas().is_empty());
}

#[test]
fn waiting_record_is_not_passed() {
    let mut fixture = Fixture::new();
    let now = fixture.now;
    assert!(matches!(
        fixture.order(0, 0, 7, "a"),
        AdmitResult::AwaitsSchema(_)
    ));
    assert!(!fixture.admission.reached_end(Partition(0), Offset(3), now));
    assert!(fixture.admission.reached_end(Partition(1), Offset(3), now));
}

#[test]
fn unknown_and_unusable_schemas_refuse() {
    let mut fixture = Fixture::new();
    fixture.order(0, 0, 7, "a");
    fixture.order(1, 0, 8, "b");
    assert_eq!(fixture.admission.schema_waits().count(), 2);
    fixture.answer(7, Answer::Unknown("no such schema".into()));
    fixture.answer(8, Answer::Unusable(Unusable("no JSON".into())));
    assert_eq!(refused(&fixture.order(0, 0, 7, "a")), Some(Reason::UnknownSchema));
    assert_eq!(
        refused(&fixture.order(1, 0, 8, "b")),
        Some(Reason::UnusableSchema)
    );
    // Asked for again after a while: it may have been registered.
    fixture.now += Duration::from_secs(60);
    assert!(matches!(
        fixture.order(0, 1, 7, "c"),
        AdmitResult::AwaitsSchema(_)
    ));
}

#[test]
fn wait_ends_with_the_partition() {
    let mut fixture = Fixture::new();
    fixture.order(0, 0, 7, "a");
    fixture.on(Event::Lost(vec![Partition(0)]));
    assert!(fixture.admission.wanted_schemas().is_empty());
    assert_eq!(fixture.answer(7, any_json()), "[]", "read by another member now");

    // After a failure it starts at its committed offset, and not at the record that waited.
    fixture.order(1, 4, 9, "b");
    fixture.on(Event::TransactionFailed);
    assert!(fixture.admission.wanted_schemas().is_empty());
    assert_eq!(fixture.answer(9, any_json()), "[]", "restored first");
}

#[test]
fn fingerprint_is_of_the_document_or_the_bytes() {
    let mut fixture = Fixture::new();
    let schemas = fixture.admission.schemas.as_mut().expect("schemas");
    schemas.insert(SchemaId(1), any_json(), fixture.now);
    schemas.insert(SchemaId(2), any_json(), fixture.now);
    assert!(is_admitted(&fixture.order(0, 0, 1, "a")));
    // Another schema id, and so other bytes: the same order by its fields.
    assert!(matches!(
        fixture.order(0, 1, 2, "a"),
        AdmitResult::Decided {
            verdict: Verdict::Duplicate { .. },
            ..
        }
    ));
    fixture.admission.rules.fingerprint = Selection::Payload;
    assert!(is_admitted(&fixture.order(0, 2, 1, "b")));
    assert_eq!(refused(&fixture.order(0, 3, 2, "b")), Some(Reason::Conflict));
    fixture.admission.rules.fingerprint = Selection::pointers(vec!["/amount".into()]).expect("a pointer");
    assert!(is_admitted(&fixture.order(0, 4, 1, "c")));
    assert!(matches!(
        fixture.order(0, 5, 2, "c"),
        AdmitResult::Decided {
            verdict: Verdict::Duplicate { .. },
            ..
        }
    ));
}
