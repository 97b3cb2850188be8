//! Fuzz targets, and the schemas that they and other tests read values by.

use std::time::{Duration, Instant};

use records::parse_tree;

use crate::document::DOCUMENT_BYTES_MAX;
use crate::{Answer, CacheLimits, Format, Reference, Schema, SchemaId, SchemaText, Schemas, Unread};

pub(crate) const AVRO_ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop.example","fields":[
    {"name":"order_id","type":"string"},
    {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":30,"scale":2}},
    {"name":"fee","type":{"type":"fixed","name":"Fee","size":8,"logicalType":"decimal","precision":18,"scale":3}},
    {"name":"units","type":"long"},
    {"name":"small","type":"int"},
    {"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR","JPY"]}},
    {"name":"customer_id","type":["null","string"]},
    {"name":"note","type":["null","string"]},
    {"name":"rate","type":"double"},
    {"name":"share","type":"float"},
    {"name":"is_gift","type":"boolean"},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"sku","type":"string"},{"name":"next","type":["null","Line"]}]}}},
    {"name":"tags","type":{"type":"map","values":"long"}},
    {"name":"raw","type":"bytes"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"on","type":{"type":"int","logicalType":"date"}},
    {"name":"trace","type":{"type":"string","logicalType":"uuid"}}]}"#;

pub(crate) const PROTOBUF_MONEY: &str = r#"syntax = "proto3";
package shop;
message Money { uint64 amount = 1; string currency = 2; }"#;

pub(crate) const PROTOBUF_ORDER: &str = r#"syntax = "proto3";
package shop;
import "shop/money.proto";
import "google/protobuf/timestamp.proto";
message Ignored { string x = 1; }
message Batch {
  map<string, string> labels = 1;
  message Order {
    string order_id = 1;
    uint64 amount = 2;
    string currency = 3;
    string customer_id = 4;
    sint64 balance = 5;
    double rate = 6;
    repeated int32 lines = 7;
    map<string, int64> tags = 8;
    Money price = 9;
    google.protobuf.Timestamp at = 10;
    optional string note = 11;
    Kind kind = 12;
    bytes raw = 13;
    int32 defaulted = 14;
    oneof payer { string iban = 15; string card = 16; }
    fixed64 big = 17;
    float share = 18;
    Order next = 19;
  }
  enum Kind { ONCE = 0; MONTHLY = 1; }
}"#;

const JSON_ORDER: &str =
    r#"{"type":"object","required":["order_id"],"properties":{"amount":{"type":"integer"}}}"#;

pub(crate) fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn schema(format: Format, text: &str) -> SchemaText {
    SchemaText {
        format,
        text: text.into(),
        references: vec![match format {
            Format::Protobuf => Reference {
                name: "shop/money.proto".into(),
                text: PROTOBUF_MONEY.into(),
            },
            Format::Avro => Reference {
                name: "shop.Money".into(),
                text: r#"{"type":"fixed","name":"shop.Money","size":8}"#.into(),
            },
            Format::Json => Reference {
                name: "money.json".into(),
                text: "{}".into(),
            },
        }],
    }
}

thread_local! {
    static SCHEMAS: Schemas = {
        let limits = CacheLimits { ids_max: 9, unknown_for: Duration::MAX };
        let mut schemas = Schemas::new(limits);
        for (id, format, text) in [
            (1, Format::Avro, AVRO_ORDER),
            (2, Format::Protobuf, PROTOBUF_ORDER),
            (3, Format::Json, JSON_ORDER),
        ] {
            let parsed = Schema::parse(&schema(format, text)).expect("a schema");
            schemas.insert(SchemaId(id), Answer::Known(parsed.into()), Instant::now());
        }
        schemas
    };
}

/// A value is read as JSON of a bounded size, twice the same, or refused with a short explanation.
#[test]
fn registry_value() {
    fuzzing::check!(
        "registry_value",
        &["\0\0\0\0\u{1}", "\0\0\0\0\u{2}", "\0\0\0\0\u{3}", "{", "\u{4}"],
        |bytes| {
            SCHEMAS.with(|schemas| {
                let now = Instant::now();
                let read = schemas.read(bytes, false, now);
                assert_eq!(read, schemas.read(bytes, false, now), "two readings");
                match read {
                    Ok(document) => {
                        assert!(document.len() <= DOCUMENT_BYTES_MAX.max(bytes.len()));
                        // A map of the value may have a name twice, which is refused later.
                        if let Err(error) = parse_tree(document.as_bytes()) {
                            assert!(error.detail.contains("twice"), "{error}: {document}");
                        }
                    }
                    Err(Unread::Needs(id)) => assert!(![1, 2, 3].contains(&id.0), "{id} is known"),
                    Err(Unread::Invalid(why)) => assert!(why.len() <= 1_024, "{} bytes", why.len()),
                    Err(other) => panic!("{other:?}"),
                }
            });
        }
    );
}

/// A text is a schema or none, and no parser fails.
#[test]
fn registry_schema() {
    const TOKENS: &[&str] = &[
        "record",
        "fields",
        "message ",
        "import ",
        "= 1;",
        "\"type\":",
        "$ref",
        "repeated ",
    ];
    fuzzing::check!("registry_schema", &[fuzzing::JSON, TOKENS].concat(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        for format in [Format::Avro, Format::Protobuf, Format::Json] {
            match Schema::parse(&schema(format, text)) {
                Ok(parsed) => drop(parsed.read(bytes)),
                Err(error) => {
                    assert!(error.0.chars().count() <= 512, "{error}");
                    assert!(!error.0.contains("its parser failed"), "{format:?} {text}");
                }
            }
        }
    });
}
