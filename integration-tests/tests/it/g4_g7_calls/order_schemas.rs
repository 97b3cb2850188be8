//! G1, G4: orders whose schema is in a registry are admitted by it, called and have their outcome.
//!
//! Set-up: one validator, one caller, and a stand-in for the registry. In the first scenario there are orders in Avro,
//! Protobuf and JSON, with references, and values that no schema reads. In the second the registry is down when the
//! orders come, then it refuses the credentials, then a proxy answers in its place; validator and caller are killed with
//! `kill -9` meanwhile, and the caller cannot go on where it has waited for the schema.
//!
//! Must hold: each valid order is charged once and has an outcome with its id; its bytes are in the outbox unchanged; an
//! order of an unknown schema, and one that its schema does not read, becomes a dead letter that names the schema. While the
//! registry does not answer, nothing is admitted, refused, called or lost, and the programs say what they wait for. So does
//! the caller if the registry comes back without the schema of an order that was admitted: with `EndsWait::AnyAnswer`
//! in its place, the call becomes a dead letter.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::api::Api;
use harness::http::Http;
use harness::orders::manual::{InputRecord, send};
use harness::pipeline::Pipeline;
use harness::read_back::topics::{Keep, read_topic};
use harness::schema_registry::{Behaviour, SchemaRegistry};
use harness::wait::pause;
use records::Partition;
use records::dead_letter::{DETAIL, REASON};
use serde_json::{Value, json};

use super::fixture::DRAIN_MAX;
use super::order_forms::process;
use crate::assertions::{await_outcomes, await_unready, await_verdicts};
use crate::run;

const AVRO: &str = r#"{"type":"record","name":"Order","namespace":"shop.example","fields":[
    {"name":"order_id","type":"string"},{"name":"amount","type":"long"},
    {"name":"currency","type":"shop.example.Currency"},{"name":"customer_id","type":["null","string"]}]}"#;
const AVRO_CURRENCY: &str =
    r#"{"type":"enum","name":"Currency","namespace":"shop.example","symbols":["USD","EUR"]}"#;
const PROTOBUF: &str = r#"syntax = "proto3";
import "shop/customer.proto";
message Refund { string reason = 1; }
message Order {
  string order_id = 1; uint64 amount = 2; string currency = 3; string customer_id = 4; shop.Customer customer = 5;
}"#;
const PROTOBUF_CUSTOMER: &str = "syntax = \"proto3\"; package shop; message Customer { string name = 1; }";
const JSON: &str =
    r#"{"type":"object","required":["order_id","amount"],"properties":{"amount":{"maximum":5000}}}"#;

/// Variable with the URL of a real registry, empty but for this scenario, for the first scenario.
const REAL_REGISTRY: &str = "OUTBOX_TEST_SCHEMA_REGISTRY";

/// Interval at which a caller takes in that its position has passed the end of the outbox.
const MARKERS_INTERVAL: Duration = Duration::from_secs(1);

fn framed(id: u32, encoded: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], encoded].concat()
}

/// Avro's string, and Protobuf's field with a string; both of less than 64 bytes.
fn avro_string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() * 2).expect("a short text");
    [&[length], text.as_bytes()].concat()
}

fn protobuf_string(field: u8, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text");
    [&[field << 3 | 2, length], text.as_bytes()].concat()
}

/// Order of 12.50 EUR in Avro.
fn avro(schema: u32, id: &str) -> Vec<u8> {
    // The amount in zigzag, the second symbol, and the second branch of the union.
    let encoded = [avro_string(id), vec![0xc4, 0x13, 2, 2], avro_string("c-1")].concat();
    framed(schema, &encoded)
}

/// The same in Protobuf: the second message of the file.
fn protobuf(schema: u32, id: &str) -> Vec<u8> {
    let encoded = [
        vec![2, 2],
        protobuf_string(1, id),
        vec![0x10, 0xe2, 0x09],
        protobuf_string(3, "EUR"),
        protobuf_string(4, "c-1"),
    ];
    framed(schema, &encoded.concat())
}

fn json_order(schema: u32, id: &str, amount: u32) -> Vec<u8> {
    let order = format!(r#"{{"order_id":"{id}","amount":{amount},"currency":"EUR","customer_id":"c-1"}}"#);
    framed(schema, order.as_bytes())
}

fn registry(behaviour: Behaviour) -> Result<SchemaRegistry> {
    let registry = SchemaRegistry::start(behaviour)?;
    registry.register_subject("currency", AVRO_CURRENCY);
    registry.register(1, None, AVRO, &[("shop.example.Currency", "currency")]);
    registry.register_subject("customer", PROTOBUF_CUSTOMER);
    registry.register(
        2,
        Some("PROTOBUF"),
        PROTOBUF,
        &[("shop/customer.proto", "customer")],
    );
    registry.register(3, Some("JSON"), JSON, &[]);
    registry.register(4, Some("AVRO"), r#"{"type":"record"}"#, &[]);
    Ok(registry)
}

/// Registers the schemas at a real registry, and returns their ids: those of Avro, Protobuf and JSON.
fn register(url: &str) -> Result<[u32; 3]> {
    let http = Http::new()?;
    let post = |subject: &str, schema: Value| -> Result<u32> {
        let (status, body) =
            http.post_json(&format!("{url}/subjects/{subject}/versions"), &schema.to_string())?;
        ensure!(status == 200, "{subject}: {status} {body}");
        let id = serde_json::from_str::<Value>(&body)?["id"].as_u64();
        Ok(u32::try_from(id.context("an id")?)?)
    };
    post("currency", json!({"schema": AVRO_CURRENCY}))?;
    post(
        "customer",
        json!({"schema": PROTOBUF_CUSTOMER, "schemaType": "PROTOBUF"}),
    )?;
    let referring = |name: &str, subject: &str| json!([{"name": name, "subject": subject, "version": 1}]);
    Ok([
        post(
            "orders-avro",
            json!({"schema": AVRO, "references": referring("shop.example.Currency", "currency")}),
        )?,
        post(
            "orders-protobuf",
            json!({"schema": PROTOBUF, "schemaType": "PROTOBUF", "references": referring("shop/customer.proto", "customer")}),
        )?,
        post("orders-json", json!({"schema": JSON, "schemaType": "JSON"}))?,
    ])
}

#[test]
fn orders_of_a_registry_are_called() {
    run(|| {
        let registry = registry(Behaviour::Up)?;
        let (url, [a, p, j], unusable) = match std::env::var(REAL_REGISTRY) {
            Ok(url) => {
                let ids = register(&url)?;
                (url, ids, None)
            }
            Err(_) => (registry.url, [1, 2, 3], Some(("unusable", avro(4, "unusable")))),
        };
        let named = |(id, value): (&str, Vec<u8>)| (id.to_owned(), value);
        let valid = [
            ("avro", avro(a, "avro")),
            ("protobuf", protobuf(p, "protobuf")),
            ("json", json_order(j, "json", 1_250)),
        ];
        let refused = [
            ("unknown", avro(999_999, "unknown")),
            ("violation", json_order(j, "violation", 5_001)),
            ("cut", avro(a, "cut")[..9].to_vec()),
            ("other", avro(p, "other")),
            ("plain", json_order(j, "plain", 1)[5..].to_vec()),
        ];
        let letters = process(
            "orders-of-a-registry",
            |validator| {
                validator
                    .with("schema_registry.urls", [&url])
                    .with("schema_registry.unknown_after", "300ms")
            },
            |caller| {
                caller
                    .with("schema_registry.urls", [&url])
                    // What only the schema can find.
                    .with(
                        "api.headers",
                        [("X-Customer", "{/customer_id}")]
                            .into_iter()
                            .collect::<std::collections::BTreeMap<_, _>>(),
                    )
            },
            valid.into_iter().map(named).collect(),
            refused.into_iter().chain(unusable).map(named).collect(),
        )?;
        for letter in letters {
            let (reason, detail) = (letter.header(REASON), letter.header(DETAIL).unwrap_or_default());
            let (expected, words) = match &*letter.key_text() {
                "unknown" => ("unknown-schema", "40403".to_owned()),
                "unusable" => ("unusable-schema", "schema 4".to_owned()),
                "violation" => ("not-an-order", format!("schema {j}")),
                "cut" => ("not-an-order", format!("schema {a}")),
                "other" => ("not-an-order", format!("schema {p}")),
                _ => ("not-an-order", "schema_registry.urls".to_owned()),
            };
            ensure!(
                reason == Some(expected) && detail.contains(&words) && !detail.contains("5001"),
                "{}: {reason:?}, {detail}",
                letter.key_text()
            );
        }
        Ok(())
    });
}

#[test]
fn registry_that_is_down_is_waited_for() {
    run(|| {
        let token = tempfile::NamedTempFile::new()?;
        std::fs::write(token.path(), "right")?;
        let secret = format!("file:{}", token.path().display());
        let registry = registry(Behaviour::Down)?;
        let mut pipeline = Pipeline::create("registry-down", 1)?;
        pipeline.begin_caller_group(&pipeline.caller_group, "beginning")?;
        let api = Api::start(&pipeline, &["--seed=1".into()])?;
        let with_registry = |settings: harness::process::settings::Settings| {
            settings
                .with("schema_registry.urls", [&registry.url])
                .with("schema_registry.auth.kind", "bearer")
                .with("schema_registry.auth.secret", &secret)
                .with("schema_registry.unknown_after", "300ms")
        };
        let settings = with_registry(pipeline.validator_settings(1));
        let mut validator = pipeline.service("validator", 1, settings)?;
        let settings =
            with_registry(pipeline.caller_settings(1, &api.url)).with("caller.on_ambiguous", "park");
        let mut caller = pipeline.service("caller", 1, settings)?;

        let record = |id: &str, value: Vec<u8>| InputRecord {
            partition: Partition(0),
            key: Some(id.into()),
            value: Some(value),
        };
        let orders = [
            record("a-1", avro(1, "a-1")),
            record("p-1", protobuf(2, "p-1")),
            // A duplicate of the first, and one more.
            record("a-1", avro(1, "a-1")),
            record("a-2", avro(1, "a-2")),
        ];
        send(&pipeline.kafka, &pipeline.topics.orders, &orders)?;
        let nothing_is_decided = || -> Result<()> {
            let topics = &pipeline.topics;
            for topic in [&topics.pending, &topics.order_dead_letters, &topics.changelog] {
                let records = read_topic(&pipeline.kafka, topic, Keep::Fingerprints)?;
                ensure!(records.is_empty(), "{topic} has {} records", records.len());
            }
            Ok(())
        };

        // Down at the start, and over a kill.
        for _ in 0..2 {
            validator.process.start()?;
            let reason = await_unready(&mut validator, &["schema registry", "offset 0 for schema 1"])?;
            ensure!(!reason.contains("right"), "the secret is shown: {reason}");
            pause(MARKERS_INTERVAL * 2)?;
            nothing_is_decided()?;
            validator.process.kill()?;
        }
        validator.process.start()?;
        // A registry that refuses, and what stands before it.
        for (behaviour, words) in [
            (Behaviour::Token("other".into()), "responded 401"),
            (Behaviour::Status(404), "responded 404 without an error code"),
            (Behaviour::Status(200), "responded 200 without a schema"),
            (Behaviour::Status(503), "responded 503"),
        ] {
            registry.set(behaviour);
            await_unready(&mut validator, &["schema registry", words])?;
            nothing_is_decided()?;
        }
        registry.set(Behaviour::Token("right".into()));
        await_verdicts(&pipeline)?;
        let outbox = read_topic(&pipeline.kafka, &pipeline.topics.pending, Keep::Values)?;
        let keys: Vec<String> = outbox
            .iter()
            .map(harness::read_back::topics::Record::key_text)
            .collect();
        ensure!(keys == ["a-1", "p-1", "a-2"], "the outbox has {keys:?}");

        // The caller: nothing is sent, over a kill, and no intent makes a call ambiguous.
        registry.set(Behaviour::Down);
        for _ in 0..2 {
            caller.process.start()?;
            await_unready(&mut caller, &["schema registry", "for schema 1"])?;
            pause(MARKERS_INTERVAL * 2)?;
            let stats = api.stats()?;
            ensure!(stats.charges == 0, "called without its schema: {stats:?}");
            caller.process.kill()?;
        }
        // With the schema the partition is to be read again from its first call on, which fails once.
        let fails = ("FAILPOINTS", "start-after-schema-wait=1*return->off");
        caller.process.start_with(&[fails])?;
        await_unready(&mut caller, &["schema registry", "for schema 1"])?;
        // It comes back without its schemas, by which the validator has admitted these orders.
        let lost = registry.lose();
        registry.set(Behaviour::Up);
        await_unready(&mut caller, &["which is missing or unusable here", "40403"])?;
        pause(MARKERS_INTERVAL * 2)?;
        let stats = api.stats()?;
        ensure!(stats.charges == 0, "called without its schema: {stats:?}");
        registry.restore(lost);
        await_outcomes(&pipeline, 3)?;

        // Down in the middle: known schemas go on, and an unknown one waits for its turn.
        registry.set(Behaviour::Down);
        send(
            &pipeline.kafka,
            &pipeline.topics.orders,
            &[
                record("a-3", avro(1, "a-3")),
                record("j-1", json_order(3, "j-1", 1_250)),
                record("a-4", avro(1, "a-4")),
            ],
        )?;
        await_unready(&mut validator, &["for schema 3"])?;
        await_outcomes(&pipeline, 4)?;
        validator.process.kill()?;
        validator.process.start()?;
        await_unready(&mut validator, &["schema registry"])?;
        registry.set(Behaviour::Up);
        await_verdicts(&pipeline)?;
        await_outcomes(&pipeline, 6)?;

        let stats = api.stats()?;
        ensure!(
            (stats.charges, stats.orders_charged_more_than_once) == (6, 0),
            "6 orders: {stats:?}"
        );
        for topic in [
            &pipeline.topics.order_dead_letters,
            &pipeline.topics.call_dead_letters,
            &pipeline.topics.parked,
        ] {
            let records = read_topic(&pipeline.kafka, topic, Keep::Fingerprints)?;
            ensure!(records.is_empty(), "{topic} has {} records", records.len());
        }
        ensure!(
            caller
                .process
                .log()?
                .contains("partition not read again, membership lost"),
            "the caller could read its partition again at once, so that nothing was tested"
        );
        let log = validator.process.log()?;
        ensure!(
            log.contains("schema registry does not answer, orders wait")
                && log.contains("schema registry answers again"),
            "the log says neither when the registry was lost nor when it came back"
        );
        for service in [&mut validator, &mut caller] {
            service.process.terminate(DRAIN_MAX)?;
        }
        pipeline.passed();
        Ok(())
    });
}
