use std::sync::Arc;

use records::{AmountForm, Offset, Partition, Selection};

use crate::admission::{Input, KeySource, OrderForm, OrderSchema, Partitioner, RecordKey, Rules};
use crate::delivery::{
    Field, HttpResponse, Response, ResponseClass, ResponseClassifier, StatusClass, Statuses,
};

const SCHEMA: &str = r##"{
    "type": "object",
    "required": ["order_id", "amount"],
    "properties": {
        "order_id": {"type": "string", "pattern": "^o-[0-9]+$", "maxLength": 40},
        "amount": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01},
        "payer": {"$ref": "#/$defs/party"},
        "lines": {"type": "array", "items": {"type": "object", "minProperties": 1}, "uniqueItems": true}
    },
    "$defs": {"party": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "integer"]}}}
}"##;
/// Maximum length of an explanation in a header, in bytes.
const EXPLANATION_BYTES_MAX: usize = 1_024;

/// A record is an order with a valid key, or is refused with a short reason, whatever the form: the first line is the
/// record key, the rest the value.
#[test]
fn record_of_an_order() {
    const TOKENS: &[&str] = &[
        "\\u0000",
        "null",
        "1e400",
        "0.005",
        "\"order_id\":\"o-1\"",
        "\"amount\":",
        "\"payer\":{}",
        "\"lines\":[{}]",
        "\n",
        "o-1",
    ];
    let schema = Arc::new(OrderSchema::compile(SCHEMA).expect("a schema"));
    SCHEMA_COMPILED.set(schema).expect("once");
    fuzzing::check!("record_of_an_order", &[fuzzing::JSON, TOKENS].concat(), |bytes| {
        let line = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(bytes.len());
        let (key, value) = (&bytes[..line], bytes.get(line + 1..));
        let schema = SCHEMA_COMPILED.get().expect("compiled");
        for form in [
            OrderForm::BuiltIn(AmountForm::MinorUnits),
            OrderForm::BuiltIn(AmountForm::Decimal),
            OrderForm::KeyOnly,
            OrderForm::JsonSchema(Arc::clone(schema)),
        ] {
            for source in [
                KeySource::Pointer("/order_id".into()),
                KeySource::RecordKey,
                KeySource::Header("id".into()),
            ] {
                identified(form.clone(), source, key, value);
            }
        }
    });
}

static SCHEMA_COMPILED: std::sync::OnceLock<Arc<OrderSchema>> = std::sync::OnceLock::new();

fn identified(form: OrderForm, source: KeySource, key: &[u8], value: Option<&[u8]>) {
    let rules = Rules {
        form,
        key: source,
        record_key: RecordKey::IsIdempotencyKey,
        fingerprint: Selection::Order,
        partitioner: Partitioner::Any,
        partitions: 1,
        record_bytes_max: 1024 * 1024,
    };
    let headers = [("id", Some(key))];
    let input = Input {
        partition: Partition(0),
        offset: Offset(0),
        at: None,
        key: Some(key),
        value,
        headers: &headers,
        unreadable_header: None,
    };
    let identify = || {
        rules
            .value(&input)
            .and_then(|value| rules.identify(&input, value))
    };
    let outcome = identify();
    match &outcome {
        Ok((found, order)) => {
            assert_eq!(
                found.as_bytes(),
                key,
                "admitted under another key than the record's"
            );
            assert!(
                value.is_some_and(|value| !value.is_empty()),
                "an order of nothing"
            );
            assert_eq!(order.is_some(), matches!(rules.form, OrderForm::BuiltIn(_)));
            // The caller gets these bytes: it must not refuse what was admitted.
            let value = value.unwrap_or_default();
            assert!(records::order_id(value).is_ok() || rules.form == OrderForm::KeyOnly);
        }
        Err(refusal) => {
            assert!(!refusal.detail.is_empty(), "refused without an explanation");
            assert!(
                refusal.detail.len() <= EXPLANATION_BYTES_MAX,
                "{} bytes",
                refusal.detail.len()
            );
        }
    }
    assert_eq!(identify(), outcome, "two verdicts on one record");
}

/// A schema of an operator is compiled, or refused with an explanation.
#[test]
fn schema() {
    const TOKENS: &[&str] = &[
        "{",
        "}",
        "\"type\":",
        "\"$ref\":\"#\"",
        "\"$ref\":\"#/$defs/a\"",
        "\"$defs\":{\"a\":",
        "\"pattern\":\"(a*)*$\"",
        "\"allOf\":[",
        "\"not\":",
        "\"properties\":{",
        "\"multipleOf\":0",
        "\"$schema\":",
        "\"$id\":\"http://h/\"",
        ",",
        "\"a{9999}{9999}\"",
        "\"maxLength\":-1",
        "\"$dynamicRef\":\"#a\"",
    ];
    fuzzing::check!("schema", TOKENS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Ok(schema) = OrderSchema::compile(text) {
            for order in [
                "{}",
                "[]",
                "null",
                r#"{"order_id":"o-1","amount":1,"payer":{"a":{"a":{}}}}"#,
            ] {
                let tree = records::parse_tree(order.as_bytes()).expect("JSON");
                let first = schema.check(&tree);
                assert_eq!(schema.check(&tree), first, "two verdicts on one order");
                if let Err(explanation) = first {
                    assert!(
                        explanation.len() <= EXPLANATION_BYTES_MAX,
                        "{} bytes",
                        explanation.len()
                    );
                }
            }
        }
    });
}

/// A status is in one class, and only the class that says so means accepted: three bytes are the number of the
/// status and whether the API asks for a wait, the rest an entry of the settings.
#[test]
fn statuses() {
    fuzzing::check!(
        "statuses",
        &["2xx", "5xx", "200", "-", "600", "+", "099"],
        |bytes| {
            let Ok(text) = std::str::from_utf8(bytes.get(3..).unwrap_or_default()) else {
                return;
            };
            // An operator names a few.
            let entries = text.split(' ').take(16);
            let parsed: Vec<Statuses> = entries.filter_map(|entry| entry.parse().ok()).collect();
            for (at, entry) in parsed.iter().enumerate() {
                let shown = entry.to_string();
                assert_eq!(
                    shown.trim_matches('"').parse::<Statuses>().ok(),
                    Some(*entry),
                    "{shown}"
                );
                let status = u16::from_be_bytes([bytes[0], bytes[1]]);
                let settings = parsed[..=at].iter().map(|entry| (*entry, StatusClass::Accepted));
                let Ok(classifier) = ResponseClassifier::new(settings) else {
                    continue;
                };
                let response = Response::Status(HttpResponse {
                    status,
                    retry_after: (bytes[2] & 1 == 1).then_some(std::time::Duration::MAX),
                    body: Vec::new(),
                    body_cut: false,
                    field: Field::NotAsked,
                    transaction_id: None,
                });
                let class = classifier.class_of(&response);
                let is_named = parsed[..=at].iter().any(|entry| entry.contain(status));
                assert_eq!(
                    class == ResponseClass::Accepted,
                    is_named,
                    "{status} of {text:?} is {class:?}"
                );
            }
        }
    );
}
