//! The verdict: stage one's decision on an input record.

use records::dead_letter::Reason;
use records::entry::Status;
use records::{Entry, Fingerprint, IdempotencyKey, Timestamp};

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
    },
    /// The same order again: counted and dropped.
    Duplicate {
        /// Idempotency key of the order.
        key: IdempotencyKey,
        /// Entry of the order that was admitted.
        first: Entry,
    },
    /// Invalid record, or a conflict (admitted key, another payload): written to the dead letters.
    Refuse(Refusal),
}

/// Decides on a record. `known` looks a key up among all keys admitted on this partition, whether committed or
/// in the open transaction.
///
/// # Errors
/// Returns the error of the look-up; the record is not decided.
pub fn decide<E>(
    rules: &Rules,
    input: &Input<'_>,
    now: Timestamp,
    known: impl FnOnce(&IdempotencyKey) -> Result<Option<Entry>, E>,
) -> Result<Verdict, E> {
    let key = match rules.identify(input) {
        Ok(key) => key,
        Err(refusal) => return Ok(Verdict::Refuse(refusal)),
    };
    // Over the bytes, not the parsed order: fields that this program does not know count, too.
    let fingerprint = Fingerprint::of(input.value.unwrap_or_default());
    Ok(match known(&key)? {
        None => {
            let entry = Entry {
                status: Status::Pending,
                fingerprint,
                admitted_at: now,
                source: input.offset,
            };
            Verdict::Admit { key, entry }
        }
        Some(first) if first.fingerprint == fingerprint => Verdict::Duplicate { key, first },
        // Two payments under one key: which of them is meant, only the producer can say.
        Some(first) => Verdict::Refuse(Refusal {
            reason: Reason::Conflict,
            detail: format!(
                "order {:?} was admitted with another payload at offset {} of this partition (fingerprint {}, \
                 now {fingerprint}); this record causes no call",
                key.as_str(),
                first.source,
                first.fingerprint,
            ),
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use records::{AmountForm, Offset, Partition};

    use super::super::{KeySource, OrderForm, Partitioner, RecordKey};
    use super::*;

    const ORDER: &str =
        r#"{"order_id":"o-1","amount":150,"currency":"EUR","customer_id":"c-1","ref":{"n":7}}"#;

    fn rules() -> Rules {
        Rules {
            form: OrderForm::BuiltIn(AmountForm::MinorUnits),
            key: KeySource::Pointer("/order_id".into()),
            record_key: RecordKey::IsIdempotencyKey,
            partitioner: Partitioner::Any,
            partitions: 10,
            record_bytes_max: 4096,
        }
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
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: &[("idempotency", Some(b"h-1"))],
            unreadable_header: None,
        };
        let looked_up: Result<_, Infallible> = decide(rules, &input, Timestamp(9), |key| {
            Ok(known.get(key.as_str()).copied())
        });
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
            key: Some(b"o-1"),
            value: Some(ORDER.as_bytes()),
            headers: &[],
            unreadable_header: Some(1),
        };
        let refused = rules().identify(&input).expect_err("unreadable");
        assert_eq!(refused.reason, Reason::HeaderUnreadable);
    }

    #[test]
    fn key_is_read_from_the_configured_source() {
        let with = |key, record_key| Rules {
            key,
            record_key,
            ..rules()
        };
        let pointer = |text: &str| with(KeySource::Pointer(text.into()), RecordKey::Ignored);
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
            &with(KeySource::Header("idempotency".into()), RecordKey::Ignored),
            None,
            Some(ORDER),
            Ok("h-1"),
        );
        check(
            &with(KeySource::Header("other".into()), RecordKey::Ignored),
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
            record_key: RecordKey::Ignored,
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
            record_key: RecordKey::Ignored,
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

    #[test]
    fn same_payload_is_duplicate_another_is_conflict() {
        let Verdict::Admit { key, entry } = verdict(&rules(), Some("o-1"), Some(ORDER), &HashMap::new())
        else {
            panic!("a new order was not admitted");
        };
        assert_eq!((entry.source, entry.admitted_at), (Offset(5), Timestamp(9)));
        let known = HashMap::from([(key.to_string(), entry)]);
        let again = verdict(&rules(), Some("o-1"), Some(ORDER), &known);
        assert_eq!(again, Verdict::Duplicate { key, first: entry });
        let other = verdict(&rules(), Some("o-1"), Some(&ORDER.replace("150", "151")), &known);
        assert!(
            matches!(
                other,
                Verdict::Refuse(Refusal {
                    reason: Reason::Conflict,
                    ..
                })
            ),
            "{other:?}"
        );
    }
}
