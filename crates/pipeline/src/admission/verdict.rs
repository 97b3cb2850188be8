//! The verdict: stage one's decision on an input record.

use std::borrow::Cow;

use records::dead_letter::Reason;
use records::entry::Status;
use records::fingerprint::SelectionId;
use records::{Entry, Fingerprint, IdempotencyKey, Order, Selection, Timestamp};

use super::input::Input;
use super::rules::{Refusal, Rules};

/// Decision on an input record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New order: written to the outbox and the changelog.
    Admit {
        /// Idempotency key of the order.
        key: IdempotencyKey,
        /// Entry for the changelog and the store.
        entry: Entry,
        /// Time at which the key is recorded: the timestamp of its changelog record.
        recorded: Timestamp,
    },
    /// The same order again: counted and dropped.
    Duplicate {
        /// Idempotency key of the order.
        key: IdempotencyKey,
        /// Entry of the order that was admitted.
        first: Entry,
    },
    /// Invalid record, or a conflict (admitted key, another order): written to the dead letters.
    Refuse(Refusal),
}

impl Verdict {
    /// Returns the name of the verdict in metrics and traces.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Admit { .. } => "admit",
            Self::Duplicate { .. } => "duplicate",
            // Apart from malformed records: a conflict is a producer that uses one key for two payments, which has
            // another remedy.
            Self::Refuse(Refusal {
                reason: Reason::Conflict | Reason::FingerprintChanged,
                ..
            }) => "conflict",
            Self::Refuse(_) => "refuse",
        }
    }
}

/// Value of a record.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// Bytes of the record.
    pub bytes: &'a [u8],
    /// JSON document that a schema of a registry has read them as; `None` if the bytes themselves are checked.
    pub document: Option<Cow<'a, str>>,
}

impl Payload<'_> {
    /// Returns what is checked.
    fn checked(&self) -> &[u8] {
        self.document.as_deref().map_or(self.bytes, str::as_bytes)
    }

    fn fingerprint(&self, selection: &Selection, order: Option<&Order<'_>>) -> (SelectionId, Fingerprint) {
        match selection {
            Selection::Pointers(_) => selection.fingerprint(order, self.checked()),
            Selection::Payload | Selection::Order | Selection::None => {
                selection.fingerprint(order, self.bytes)
            }
        }
    }
}

/// Decides on a record. `payload` is its value, or the reason why it has none that can be read. `known` looks a key up
/// among all keys admitted on this partition, whether committed or in the open transaction. `record` returns the time to
/// record an unknown one at, or refuses it.
///
/// # Errors
/// Returns the error of the look-up; the record is not decided.
pub fn decide<E>(
    rules: &Rules,
    input: &Input<'_>,
    payload: Result<Payload<'_>, Refusal>,
    now: Timestamp,
    record: impl FnOnce(Option<Timestamp>) -> Result<Timestamp, Refusal>,
    known: impl FnOnce(&IdempotencyKey) -> Result<Option<Entry>, E>,
) -> Result<Verdict, E> {
    let payload = match payload {
        Ok(payload) => payload,
        Err(refusal) => return Ok(Verdict::Refuse(refusal)),
    };
    let (key, order) = match rules.identify(input, payload.checked()) {
        Ok(found) => found,
        Err(refusal) => return Ok(Verdict::Refuse(refusal)),
    };
    let selection = &rules.fingerprint;
    Ok(match known(&key)? {
        // A known key stays known, whatever the time of its record.
        None => {
            let recorded = match record(input.at) {
                Ok(recorded) => recorded,
                Err(refusal) => return Ok(Verdict::Refuse(refusal)),
            };
            let (selection, fingerprint) = payload.fingerprint(selection, order.as_ref());
            let entry = Entry {
                status: Status::Pending,
                selection,
                fingerprint,
                admitted_at: now,
                source: input.offset,
            };
            Verdict::Admit { key, entry, recorded }
        }
        // Never admitted again, whatever the fingerprints are.
        Some(first) => match compare(selection, &first, order.as_ref(), &payload) {
            Ok(()) => Verdict::Duplicate { key, first },
            Err(difference) => Verdict::Refuse(refuse(&key, &first, &difference)),
        },
    })
}

/// Difference between an order and the one that was admitted with its key.
struct Difference {
    /// Fingerprint under the selection of the entry; `None` if it cannot be computed.
    fingerprint: Option<Fingerprint>,
    /// Selection that counts now, if it is not that of the entry.
    changed_to: Option<String>,
}

/// Compares an order with the entry of its key: in the part of the order that the entry was made of, since nothing
/// else is known of the first one.
fn compare(
    selection: &Selection,
    first: &Entry,
    order: Option<&Order<'_>>,
    payload: &Payload<'_>,
) -> Result<(), Difference> {
    if *selection == Selection::None {
        return Ok(());
    }
    let (id, now) = payload.fingerprint(selection, order);
    let is_changed = id != first.selection;
    let fingerprint = match is_changed {
        false => Some(now),
        true => first.selection.fingerprint(order, payload.bytes),
    };
    if fingerprint == Some(first.fingerprint) {
        return Ok(());
    }
    // The list of pointers says more than its id.
    let shown = if id == selection.id() {
        selection.to_string()
    } else {
        id.to_string()
    };
    Err(Difference {
        fingerprint,
        changed_to: is_changed.then_some(shown),
    })
}

// Two payments under one key: which of them is meant, only the producer can say.
fn refuse(key: &IdempotencyKey, first: &Entry, difference: &Difference) -> Refusal {
    let place = match first.source {
        Entry::MOVED => "on another partition, before the topics grew".to_owned(),
        offset => format!("at offset {offset} of this partition"),
    };
    let admitted = format!("order {:?} was admitted {place}", key.as_str());
    let was = first.selection;
    let differs = difference.fingerprint.map_or_else(
        || "which leaves nothing to compare this record with".to_owned(),
        |now| {
            format!(
                "and this record differs from it in that (fingerprint {}, now {now})",
                first.fingerprint
            )
        },
    );
    let (reason, detail) = match &difference.changed_to {
        None => (
            Reason::Conflict,
            format!("{admitted} and is compared by {was}, {differs}; it causes no call"),
        ),
        Some(selection) => (
            Reason::FingerprintChanged,
            format!(
                "{admitted} while validator.fingerprint was {was} (it is {selection} now), {differs}; it causes no \
                 call"
            ),
        ),
    };
    Refusal { reason, detail }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::sync::Arc;

    use records::{AmountForm, Offset, Partition};

    use super::super::{KeySource, OrderForm, OrderSchema, Partitioner, RecordKey};
    use super::*;

    const ORDER: &str =
        r#"{"order_id":"o-1","amount":150,"currency":"EUR","customer_id":"c-1","ref":{"n":7}}"#;

    fn rules() -> Rules {
        Rules {
            form: OrderForm::BuiltIn(AmountForm::MinorUnits),
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            fingerprint: Selection::Order,
            partitioner: Partitioner::Any,
            partitions: 10,
            record_bytes_max: 4096,
        }
    }

    fn plain<'a>(rules: &Rules, input: &Input<'a>) -> Result<Payload<'a>, Refusal> {
        let bytes = rules.value(input)?;
        Ok(Payload {
            bytes,
            document: None,
        })
    }

    fn verdict(
        rules: &Rules,
        key: Option<&str>,
        value: Option<&str>,
        known: &HashMap<String, Entry>,
    ) -> Verdict {
        let input = Input {
            partition: Partition(0),
            offset: Offset(5),
            at: Some(Timestamp(3)),
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: &[("idempotency", Some(b"h-1"))],
            unreadable_header: None,
        };
        let looked_up: Result<_, Infallible> = decide(
            rules,
            &input,
            plain(rules, &input),
            Timestamp(9),
            |at| Ok(at.unwrap_or(Timestamp(0))),
            |key| Ok(known.get(key.as_str()).copied()),
        );
        let Ok(verdict) = looked_up;
        verdict
    }

    fn check(rules: &Rules, key: Option<&str>, value: Option<&str>, expected: Result<&str, Reason>) {
        let outcome = match verdict(rules, key, value, &HashMap::new()) {
            Verdict::Admit { key, .. } => Ok(key.to_string()),
            Verdict::Refuse(refusal) => Err(refusal.reason),
            Verdict::Duplicate { .. } => panic!("duplicate without a known key"),
        };
        assert_eq!(outcome, expected.map(str::to_owned), "{key:?} {value:?}");
    }

    #[test]
    fn new_order_is_admitted_and_invalid_ones_refused() {
        let long = ORDER.replace("o-1", &"k".repeat(300));
        check(&rules(), Some("o-1"), Some(ORDER), Ok("o-1"));
        check(&rules(), Some("o-2"), Some(ORDER), Err(Reason::KeyMismatch));
        check(&rules(), None, Some(ORDER), Err(Reason::KeyMismatch));
        check(&rules(), Some("o-1"), None, Err(Reason::NotJson));
        check(&rules(), Some("o-1"), Some("{"), Err(Reason::NotJson));
        check(
            &rules(),
            Some("o-1"),
            Some(&ORDER.replace("EUR", "EURO")),
            Err(Reason::UnknownCurrency),
        );
        check(&rules(), Some("o-1"), Some(&long), Err(Reason::KeyInvalid));
    }

    #[test]
    fn record_that_the_outbox_cannot_hold_is_refused() {
        let padded = |bytes: usize| ORDER.replace("c-1", &"c".repeat(bytes));
        check(&rules(), Some("o-1"), Some(&padded(2900)), Ok("o-1"));
        check(&rules(), Some("o-1"), Some(&padded(3100)), Err(Reason::TooLarge));
        let input = Input {
            partition: Partition(0),
            offset: Offset(5),
            at: None,
            key: Some(b"o-1"),
            value: Some(ORDER.as_bytes()),
            headers: &[],
            unreadable_header: Some(1),
        };
        let refused = rules().value(&input).expect_err("unreadable");
        assert_eq!(refused.reason, Reason::HeaderUnreadable);
    }

    #[test]
    fn key_is_read_from_the_configured_source() {
        let with = |key, record_key| Rules {
            key,
            record_key,
            ..rules()
        };
        let pointer = |text: &str| with(KeySource::Pointer(text.into()), RecordKey::Any);
        check(&pointer("/ref/n"), None, Some(ORDER), Ok("7"));
        check(&pointer("/ref/m"), None, Some(ORDER), Err(Reason::KeyMissing));
        check(&pointer("/ref"), None, Some(ORDER), Err(Reason::KeyMissing));
        check(
            &with(KeySource::RecordKey, RecordKey::IsIdempotencyKey),
            Some("r"),
            Some(ORDER),
            Ok("r"),
        );
        check(
            &with(KeySource::RecordKey, RecordKey::IsIdempotencyKey),
            None,
            Some(ORDER),
            Err(Reason::KeyMissing),
        );
        check(
            &with(KeySource::Header("idempotency".into()), RecordKey::Any),
            None,
            Some(ORDER),
            Ok("h-1"),
        );
        check(
            &with(KeySource::Header("other".into()), RecordKey::Any),
            None,
            Some(ORDER),
            Err(Reason::KeyMissing),
        );
    }

    #[test]
    fn key_that_occurs_twice_is_refused() {
        let order = ORDER.replace(r#"{"n":7}"#, r#"{"n":7,"n":8}"#);
        let rules = Rules {
            key: KeySource::Pointer("/ref/n".into()),
            record_key: RecordKey::Any,
            ..rules()
        };
        check(&rules, None, Some(&order), Err(Reason::NotAnOrder));
    }

    #[test]
    fn decimal_order_is_admitted_where_configured() {
        let decimal = Rules {
            form: OrderForm::BuiltIn(AmountForm::Decimal),
            ..rules()
        };
        for amount in ["1.5", "\"1.50\"", "150"] {
            let order = ORDER.replace("150", amount);
            check(&decimal, Some("o-1"), Some(&order), Ok("o-1"));
        }
        for amount in ["1.505", "0", "-1.50", "15e-1"] {
            let order = ORDER.replace("150", amount);
            check(&decimal, Some("o-1"), Some(&order), Err(Reason::NotAnOrder));
        }
        check(
            &rules(),
            Some("o-1"),
            Some(&ORDER.replace("150", "1.50")),
            Err(Reason::NotAnOrder),
        );
    }

    #[test]
    fn order_of_any_form_needs_only_its_key() {
        let with = |key| Rules {
            form: OrderForm::KeyOnly,
            record_key: RecordKey::Any,
            key,
            ..rules()
        };
        let by_record_key = with(KeySource::RecordKey);
        for value in ["12.50 EUR to C-7", "{\"n\":1,\"n\":2}", "{", "\0", " "] {
            check(&by_record_key, Some("r"), Some(value), Ok("r"));
            check(
                &with(KeySource::Header("idempotency".into())),
                None,
                Some(value),
                Ok("h-1"),
            );
        }
        check(&by_record_key, Some("r"), Some(""), Err(Reason::NotJson));
        check(&by_record_key, Some("r"), None, Err(Reason::NotJson));
        check(&by_record_key, None, Some("x"), Err(Reason::KeyMissing));
        let by_pointer = with(KeySource::Pointer("/ref/n".into()));
        check(&by_pointer, None, Some(r#"{"ref":{"n":"k"}}"#), Ok("k"));
        check(&by_pointer, None, Some("{}"), Err(Reason::KeyMissing));
        check(&by_pointer, None, Some("pay"), Err(Reason::NotJson));
        check(
            &by_pointer,
            None,
            Some(r#"{"ref":{"n":"k","n":"l"}}"#),
            Err(Reason::NotAnOrder),
        );
    }

    fn by_schema() -> OrderForm {
        let schema = OrderSchema::compile(
            r#"{"required":["ref"],"properties":{"ref":{"required":["n"]},"amount":{"minimum":1}}}"#,
        );
        OrderForm::JsonSchema(Arc::new(schema.expect("a schema")))
    }

    #[test]
    fn order_that_conforms_to_the_schema_is_admitted() {
        let with = |key| Rules {
            form: by_schema(),
            record_key: RecordKey::Any,
            key,
            ..rules()
        };
        let by_pointer = with(KeySource::Pointer("/ref/n".into()));
        let by_record_key = with(KeySource::RecordKey);
        check(&by_pointer, None, Some(ORDER), Ok("7"));
        check(&by_record_key, Some("r"), Some(ORDER), Ok("r"));
        check(
            &with(KeySource::Header("idempotency".into())),
            None,
            Some(ORDER),
            Ok("h-1"),
        );
        check(
            &by_pointer,
            None,
            Some(r#"{"ref":{"n":null}}"#),
            Err(Reason::KeyMissing),
        );
        check(&by_record_key, None, Some(ORDER), Err(Reason::KeyMissing));
        for (value, expected) in [
            (r#"{"ref":{}}"#, Reason::NotAnOrder),
            (r#"{"ref":{"n":"k"},"amount":0}"#, Reason::NotAnOrder),
            (r#"{"ref":{"n":"k"},"amount":1e400}"#, Reason::NotAnOrder),
            (r#"{"ref":{"n":"k","n":"k"}}"#, Reason::NotAnOrder),
            (r#"{"ref":{"n":"k"},"x":[{"y":1,"y":1}]}"#, Reason::NotAnOrder),
            (r#"{"ref":{"n":"k"}"#, Reason::NotJson),
            ("pay", Reason::NotJson),
            ("", Reason::NotJson),
        ] {
            for rules in [&by_pointer, &by_record_key] {
                check(rules, Some("r"), Some(value), Err(expected));
            }
        }
        let refused = verdict(&by_pointer, None, Some(r#"{"ref":{}}"#), &HashMap::new());
        let Verdict::Refuse(refusal) = refused else {
            panic!("admitted: {refused:?}");
        };
        assert_eq!(
            refusal.detail,
            "the order does not conform to the schema at \"/ref\" (required): \"n\" is a required property"
        );
    }

    #[test]
    fn order_on_the_wrong_partition_is_refused() {
        for partitioner in [Partitioner::Murmur2, Partitioner::Crc32] {
            let belongs = partitioner.partition(b"o-1", 10).expect("one");
            let rules = Rules {
                partitioner,
                ..rules()
            };
            let expected = if belongs == 0 {
                Ok("o-1")
            } else {
                Err(Reason::WrongPartition)
            };
            check(&rules, Some("o-1"), Some(ORDER), expected);
        }
    }

    /// Decides on an order, and then on another one with its key under a changed setting.
    fn again(first: &Selection, then: &Selection, order: &str) -> Result<(), Refusal> {
        let under = |selection: &Selection| Rules {
            fingerprint: selection.clone(),
            ..rules()
        };
        let admitted = verdict(&under(first), Some("o-1"), Some(ORDER), &HashMap::new());
        let Verdict::Admit { key, entry, .. } = admitted else {
            panic!("a new order was not admitted");
        };
        assert_eq!((entry.source, entry.admitted_at), (Offset(5), Timestamp(9)));
        let known = HashMap::from([(key.to_string(), entry)]);
        match verdict(&under(then), Some("o-1"), Some(order), &known) {
            Verdict::Duplicate { first, .. } => {
                assert_eq!(first, entry);
                Ok(())
            }
            Verdict::Refuse(refusal) => Err(refusal),
            Verdict::Admit { .. } => panic!("a known key was admitted again"),
        }
    }

    fn pointers(pointer: &str) -> Selection {
        Selection::pointers(vec![pointer.to_owned()]).expect("a pointer")
    }

    #[test]
    fn same_order_is_duplicate_another_is_conflict() {
        let other = ORDER.replace("150", "151");
        for selection in [Selection::Order, Selection::Payload, pointers("/amount")] {
            assert_eq!(again(&selection, &selection, ORDER), Ok(()));
            let refusal = again(&selection, &selection, &other).expect_err("another order");
            assert_eq!(refusal.reason, Reason::Conflict, "{refusal:?}");
        }
        assert_eq!(again(&Selection::None, &Selection::None, &other), Ok(()));
    }

    #[test]
    fn resend_with_a_new_timestamp_is_a_duplicate() {
        let resent = ORDER.replace("\"ref\"", "\"created_at\":2,\"ref\"");
        assert_eq!(again(&Selection::Order, &Selection::Order, &resent), Ok(()));
        assert_eq!(again(&pointers("/ref/n"), &pointers("/ref/n"), &resent), Ok(()));
        let refusal = again(&Selection::Payload, &Selection::Payload, &resent).expect_err("other bytes");
        assert_eq!(refusal.reason, Reason::Conflict);
    }

    #[test]
    fn order_of_any_form_is_compared_by_its_bytes() {
        let rules = |form: &OrderForm| Rules {
            form: form.clone(),
            key: KeySource::RecordKey,
            ..rules()
        };
        let known = |form: &OrderForm| match verdict(&rules(form), Some("o-1"), Some(ORDER), &HashMap::new())
        {
            Verdict::Admit { key, entry, .. } => HashMap::from([(key.to_string(), entry)]),
            other => panic!("a new order was not admitted: {other:?}"),
        };
        let built_in = &OrderForm::BuiltIn(AmountForm::MinorUnits);
        let schema = &by_schema();
        let resent = ORDER.replace("\"ref\"", " \"ref\"");
        for (first, then, order, expected) in [
            (&OrderForm::KeyOnly, &OrderForm::KeyOnly, ORDER, None),
            (
                &OrderForm::KeyOnly,
                &OrderForm::KeyOnly,
                &*resent,
                Some(Reason::Conflict),
            ),
            (&OrderForm::KeyOnly, built_in, ORDER, None),
            (
                &OrderForm::KeyOnly,
                built_in,
                &*resent,
                Some(Reason::FingerprintChanged),
            ),
            (
                built_in,
                &OrderForm::KeyOnly,
                ORDER,
                Some(Reason::FingerprintChanged),
            ),
            // The pipeline knows no fields of an order that a schema describes.
            (schema, schema, ORDER, None),
            (schema, schema, &resent, Some(Reason::Conflict)),
            (&OrderForm::KeyOnly, schema, ORDER, None),
            (schema, built_in, ORDER, None),
            (built_in, schema, &resent, Some(Reason::FingerprintChanged)),
        ] {
            let found = match verdict(&rules(then), Some("o-1"), Some(order), &known(first)) {
                Verdict::Duplicate { .. } => None,
                Verdict::Refuse(refusal) => Some(refusal.reason),
                Verdict::Admit { .. } => panic!("a known key was admitted again"),
            };
            assert_eq!(found, expected, "{first:?} {then:?} {order}");
        }
    }

    #[test]
    fn changed_setting_admits_no_key_again() {
        let all = || {
            [
                Selection::Order,
                Selection::Payload,
                pointers("/ref/n"),
                pointers("/amount"),
                Selection::None,
            ]
        };
        let (resent, other) = (ORDER.replace("\"ref\"", " \"ref\""), ORDER.replace("150", "151"));
        for (first, then) in all()
            .iter()
            .flat_map(|first| all().map(|then| (first.clone(), then)))
        {
            if first == then {
                continue;
            }
            // What the first selection tells of the same bytes, of other bytes, and of another amount.
            let expected = match (&first, &then) {
                (_, Selection::None) => [true; 3],
                (Selection::Order, _) => [true, true, false],
                (Selection::Payload, _) => [true, false, false],
                (Selection::Pointers(_) | Selection::None, _) => [false; 3],
            };
            for (order, is_duplicate) in [ORDER, &resent, &other].into_iter().zip(expected) {
                let outcome = again(&first, &then, order);
                assert_eq!(
                    outcome.is_ok(),
                    is_duplicate,
                    "{first} {then} {order}: {outcome:?}"
                );
                if let Err(refusal) = outcome {
                    assert_eq!(refusal.reason, Reason::FingerprintChanged);
                    for word in [&*first.id().to_string(), &then.to_string(), "at offset 5"] {
                        assert!(refusal.detail.contains(word), "{word}: {}", refusal.detail);
                    }
                }
            }
        }
    }
}
