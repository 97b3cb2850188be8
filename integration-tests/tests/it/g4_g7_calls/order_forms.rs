//! G1, G4: orders of each form that the settings allow are admitted, called and have their outcome.
//!
//! Set-up: one validator and one caller. In the first scenario amounts are decimals, as numbers and strings; two
//! orders have more decimal places than their currency. In the second orders are plain text and other bytes,
//! under their record keys, and the body of the requests is a template. In the third they conform to a JSON Schema,
//! with their key in a nested object, and some violate it.
//!
//! Must hold: each valid order is charged once and has an outcome with its id, or with its key if it has none; its
//! bytes are in the outbox unchanged; an amount with too many decimal places, and an order that violates the schema,
//! becomes a dead letter that names the field and what was expected, and has no value of the order in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::api::Api;
use harness::orders::manual::{InputRecord, send};
use harness::pipeline::Pipeline;
use harness::process::settings::Settings;
use harness::read_back::topics::{Keep, Record, read_topic};
use records::Partition;
use records::dead_letter::{DETAIL, REASON};

use super::fixture::DRAIN_MAX;
use crate::assertions::{await_outcomes, await_verdicts};
use crate::run;

/// Bytes by record key.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

#[test]
fn decimal_orders_are_called() {
    run(|| {
        let decimal = |id: &str, amount: &str, currency: &str| {
            let order = format!(
                r#"{{"order_id":"{id}","amount":{amount},"currency":"{currency}","customer_id":"c-1"}}"#
            );
            (id.to_owned(), order.into_bytes())
        };
        let valid = [
            decimal("number", "12.50", "EUR"),
            decimal("string", "\"12.50\"", "EUR"),
            decimal("whole", "12", "JPY"),
            decimal("small", "0.001", "BHD"),
        ];
        let refused = [
            decimal("finer", "12.505", "EUR"),
            decimal("places", "\"12.0\"", "JPY"),
        ];
        let letters = process(
            "decimal-orders",
            |validator| validator.with("order.amount", "decimal"),
            |caller| caller,
            valid.into(),
            refused.into(),
        )?;
        for letter in letters {
            let (reason, detail) = (letter.header(REASON), letter.header(DETAIL).unwrap_or_default());
            ensure!(
                reason == Some("not-an-order")
                    && detail.contains("/amount")
                    && detail.contains("decimal places"),
                "{}: {reason:?}, {detail}",
                letter.key_text()
            );
        }
        Ok(())
    });
}

#[test]
fn orders_of_any_bytes_are_called() {
    run(|| {
        let valid = [
            ("text".to_owned(), b"12.50 EUR to C-7".to_vec()),
            ("binary".to_owned(), b"\xff\x00\xfe".to_vec()),
            ("names".to_owned(), br#"{"a":1,"a":2}"#.to_vec()),
        ];
        let refused = [("empty".to_owned(), Vec::new())];
        let letters = process(
            "key-only-orders",
            |validator| {
                validator
                    .with("order.form", "key-only")
                    .with("validator.idempotency_key", "record-key")
            },
            // The stand-in API reads JSON.
            |caller| caller.with("api.body", r#"{"order_id":{order_id}}"#),
            valid.into(),
            refused.into(),
        )?;
        for letter in letters {
            let reason = letter.header(REASON);
            ensure!(reason == Some("not-json"), "{}: {reason:?}", letter.key_text());
        }
        Ok(())
    });
}

#[test]
fn orders_of_a_schema_are_admitted() {
    run(|| {
        let schema = tempfile::NamedTempFile::new().context("creating a file for the schema")?;
        std::fs::write(
            schema.path(),
            r##"{
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "required": ["payment", "iban"],
                "properties": {
                    "payment": {"$ref": "#/$defs/payment"},
                    "iban": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{20}$"}
                },
                "$defs": {
                    "payment": {
                        "type": "object",
                        "required": ["id", "value"],
                        "properties": {"value": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01}}
                    }
                }
            }"##,
        )
        .context("writing the schema")?;
        let order = |id: &str, value: &str, iban: &str| {
            let order =
                format!(r#"{{"payment":{{"id":"{id}","value":{value}}},"iban":"{iban}","note":[1.0]}}"#);
            (id.to_owned(), order.into_bytes())
        };
        let iban = "DE02120300000000202051";
        let valid = [
            order("cents", "12.50", iban),
            order("whole", "3", iban),
            order("exponent", "1.25e1", iban),
        ];
        let twice = format!(r#"{{"payment":{{"id":"twice","id":"other","value":1}},"iban":"{iban}"}}"#);
        let refused = [
            order("finer", "12.505", iban),
            order("zero", "0", iban),
            order("string", "\"12.50\"", iban),
            order("pattern", "1", "4111111111111111"),
            (
                "missing".to_owned(),
                br#"{"payment":{"id":"missing","value":1}}"#.to_vec(),
            ),
            ("twice".to_owned(), twice.into_bytes()),
        ];
        let letters = process(
            "orders-of-a-schema",
            |validator| {
                validator
                    .with("order.form", "json-schema")
                    .with("order.schema", schema.path())
                    .with("validator.idempotency_key", "/payment/id")
            },
            // The stand-in API reads JSON.
            |caller| caller.with("api.body", r#"{"order_id":{order_id},"amount":{/payment/value}}"#),
            valid.into(),
            refused.into(),
        )?;
        for letter in letters {
            let (reason, detail) = (letter.header(REASON), letter.header(DETAIL).unwrap_or_default());
            let expected = match &*letter.key_text() {
                "finer" => "\"/payment/value\" (multipleOf)",
                "zero" => "\"/payment/value\" (exclusiveMinimum)",
                "string" => "\"/payment/value\" (type)",
                "pattern" => "\"/iban\" (pattern)",
                "missing" => "\"\" (required): \"iban\"",
                _ => "\"id\" occurs twice",
            };
            ensure!(
                reason == Some("not-an-order")
                    && detail.contains(expected)
                    && !["12.5", "4111"].iter().any(|value| detail.contains(value)),
                "{}: {reason:?}, {detail}",
                letter.key_text()
            );
        }
        Ok(())
    });
}

/// Sends the orders under their keys, and returns the dead letters of those that must be refused.
pub(super) fn process(
    name: &str,
    validator: impl FnOnce(Settings) -> Settings,
    caller: impl FnOnce(Settings) -> Settings,
    valid: Values,
    refused: Values,
) -> Result<Vec<Record>> {
    let mut pipeline = Pipeline::create(name, 1)?;
    pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
    let api = Api::start(&pipeline, &["--seed=1".into()])?;
    let mut validator = pipeline.service("validator", 1, validator(pipeline.validator_settings(1)))?;
    let mut caller = pipeline.service("caller", 1, caller(pipeline.caller_settings(1, &api.url)))?;
    let sent: Vec<_> = valid
        .iter()
        .chain(&refused)
        .map(|(key, value)| InputRecord {
            partition: Partition(0),
            key: Some(key.clone().into()),
            value: Some(value.clone()),
        })
        .collect();
    send(&pipeline.kafka, &pipeline.topics.orders, &sent)?;
    validator.process.start()?;
    caller.process.start()?;
    await_verdicts(&pipeline)?;
    await_outcomes(&pipeline, valid.len())?;
    for service in [&mut validator, &mut caller] {
        service.process.terminate(DRAIN_MAX)?;
    }

    let values = |topic: &str| -> Result<Values> {
        let records = read_topic(&pipeline.kafka, topic, Keep::Values)?;
        let count = records.len();
        let values: Values = records
            .into_iter()
            .map(|record| (record.key_text(), record.value.unwrap_or_default()))
            .collect();
        ensure!(values.len() == count, "{topic} has two records of one key");
        Ok(values)
    };
    let topics = &pipeline.topics;
    ensure!(
        values(&topics.pending)? == valid,
        "the outbox does not hold exactly the valid orders' bytes"
    );
    for (key, value) in values(&topics.processed)? {
        let outcome: serde_json::Value = serde_json::from_slice(&value).context("parsing an outcome")?;
        ensure!(
            outcome["order_id"] == key.as_str(),
            "the outcome of {key:?} is {outcome}"
        );
    }
    let stats = api.stats()?;
    ensure!(
        (stats.charges, stats.orders_charged_more_than_once) == (valid.len() as u64, 0),
        "{} valid orders: {stats:?}",
        valid.len()
    );
    ensure!(
        values(&topics.call_dead_letters)?.is_empty(),
        "calls became dead letters"
    );
    ensure!(
        values(&topics.order_dead_letters)? == refused,
        "the dead letters are not exactly the refused orders"
    );
    let letters = read_topic(&pipeline.kafka, &topics.order_dead_letters, Keep::Fingerprints)?;
    pipeline.passed();
    Ok(letters)
}
