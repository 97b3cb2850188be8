use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::*;
use crate::fuzz::{PROTOBUF_MONEY, PROTOBUF_ORDER, bytes_of_hex};
use crate::schema::{Format, Reference, SchemaText};

fn text(proto: &str) -> SchemaText {
    SchemaText {
        format: Format::Protobuf,
        text: proto.into(),
        references: vec![Reference {
            name: "shop/money.proto".into(),
            text: PROTOBUF_MONEY.into(),
        }],
    }
}

fn schema(proto: &str) -> ProtobufSchema {
    ProtobufSchema::parse(&text(proto)).unwrap_or_else(|error| panic!("{error}"))
}

/// Indexes of the message `Batch.Order`: the second of the file, and the first that is declared in it.
const INDEXES: &[u8] = &[4, 2, 0];

/// Written by Python's protobuf 7.36.2 (`SerializeToString(deterministic=True)`), with the files in `fuzz.rs` and the
/// values that the document shows.
const ORDER: &str = "0a036f2d3110ffffffffffffffffff011a034555522203632d31288180808080808020319a9999999999b93f3a0d01ffff\
ffffffffffffff01ac02420e0a017810ffffffffffffffffff014a0808e209120345555252060880f2d6ca0660016a0200ff7a0444453032890101\
000000000020009501cdcccc3d9a01050a036f2d32";

#[test]
fn order_of_another_implementation_is_read() {
    let value = [INDEXES, &bytes_of_hex(ORDER)].concat();
    let read = schema(PROTOBUF_ORDER).read(&value).expect("an order");
    let expected = concat!(
        r#"{"order_id":"o-1","amount":18446744073709551615,"currency":"EUR","customer_id":"c-1","#,
        r#""balance":-9007199254740993,"rate":0.1,"lines":[1,-1,300],"tags":{"x":-1},"#,
        r#""price":{"amount":1250,"currency":"EUR"},"at":"2026-01-01T00:00:00Z","kind":"MONTHLY","raw":"AP8=","#,
        r#""defaulted":0,"iban":"DE02","big":9007199254740993,"share":0.1}"#,
    );
    let expected: BTreeMap<&str, &RawValue> = serde_json::from_str(expected).expect("JSON");
    let document: BTreeMap<&str, &RawValue> = serde_json::from_str(&read).expect("JSON");
    for (name, value) in expected {
        assert_eq!(document[name].get(), value.get(), "{name}");
    }
    // Its other fields are the defaults.
    assert!(document["next"].get().contains(r#""order_id":"o-2""#), "{read}");
    assert!(!read.contains("note") && !read.contains("card"), "{read}");
}

/// A duplicate has the fingerprint of its order, and a repeated request the body of the first.
#[test]
fn map_is_read_in_one_order() {
    let schema = schema("syntax = \"proto3\"; message Order { map<string, string> tags = 1; }");
    let value = bytes_of_hex(
        "000a060a0161120178 0a060a0162120179 0a060a016312017a"
            .replace(' ', "")
            .as_str(),
    );
    for _ in 0..100 {
        let read = schema.read(&value).expect("an order");
        assert_eq!(read, r#"{"tags":{"a":"x","b":"y","c":"z"}}"#);
    }
}

/// Written by Python's protobuf 7.36.2, as `ORDER` is.
const ORDER_OF_KNOWN_TYPES: &str = "0a036f2d31120d0a03455552100c1880cab5ee011a080a0204e210061802221608ea0f10014a0f0a0d457572\
6f70652f4265726c696e";

#[test]
fn known_files_are_imported_without_a_reference() {
    let proto = "syntax = \"proto3\"; import \"confluent/meta.proto\"; import \"confluent/type/decimal.proto\"; \
                 import \"google/type/money.proto\"; import \"google/type/datetime.proto\"; \
                 message Order { string order_id = 1 [(confluent.field_meta).doc = \"Unique\"]; google.type.Money total = 2; \
                 confluent.type.Decimal tax = 3; google.type.DateTime at = 4; }";
    let read = schema(proto).read(&[&[0], &bytes_of_hex(ORDER_OF_KNOWN_TYPES)[..]].concat());
    assert_eq!(
        read.expect("an order"),
        concat!(
            r#"{"at":{"day":0,"hours":0,"minutes":0,"month":1,"nanos":0,"seconds":0,"#,
            r#""time_zone":{"id":"Europe/Berlin","version":""},"year":2026},"order_id":"o-1","#,
            r#""tax":{"precision":6,"scale":2,"value":"BOI="},"#,
            r#""total":{"currency_code":"EUR","nanos":500000000,"units":12}}"#,
        )
    );
}

#[test]
fn each_known_file_compiles() {
    let names = [
        "calendar_period",
        "color",
        "date",
        "datetime",
        "dayofweek",
        "decimal",
        "expr",
        "fraction",
        "interval",
        "latlng",
        "money",
        "month",
        "phone_number",
        "postal_address",
        "quaternion",
        "timeofday",
    ];
    let imports: String = names
        .iter()
        .map(|name| format!("import \"google/type/{name}.proto\";"))
        .collect();
    schema(&format!(
        "syntax = \"proto3\"; {imports} message A {{ string a = 1; }}"
    ));
    for unknown in [
        "google/type/other.proto",
        "google/type/",
        "confluent/other.proto",
        "money.proto",
    ] {
        let proto = format!("syntax = \"proto3\"; import \"{unknown}\"; message A {{ string a = 1; }}");
        ProtobufSchema::parse(&text(&proto)).expect_err(unknown);
    }
}

/// A registry may have its own version of a known file.
#[test]
fn reference_comes_before_a_known_file() {
    let proto =
        "syntax = \"proto3\"; import \"google/type/money.proto\"; message A { google.type.Money m = 1; }";
    let mut of_registry = text(proto);
    of_registry.references = vec![Reference {
        name: "google/type/money.proto".into(),
        text: "syntax = \"proto3\"; package google.type; message Money { string other = 1; }".into(),
    }];
    let schema = ProtobufSchema::parse(&of_registry).expect("a schema");
    let read = schema.read(b"\x00\x0a\x03\x0a\x01x").expect("a message");
    assert_eq!(read, r#"{"m":{"other":"x"}}"#);
}

#[test]
fn indexes_name_the_message() {
    let proto = "syntax = \"proto3\"; message A { string a = 1; } message B { message C { string c = 1; } string b = 1; }";
    let schema = schema(proto);
    let read = |indexes: &[u8]| schema.read(&[indexes, b"\x0a\x01x"].concat());
    for (indexes, name) in [(&[0][..], "a"), (&[2, 0], "a"), (&[2, 2], "b"), (&[4, 2, 0], "c")] {
        assert_eq!(read(indexes).expect("a message"), format!(r#"{{"{name}":"x"}}"#));
    }
    for indexes in [&[2, 4][..], &[4, 0, 0], &[1], &[2, 1], &[0x80, 0x01]] {
        read(indexes).expect_err("no such message");
    }
}

/// A group declares a type, and is a field.
#[test]
fn groups_are_not_counted() {
    let proto = "syntax = \"proto2\"; message A { optional group G = 1 { optional string g = 1; } \
                 oneof o { group H = 2 { optional string h = 1; } } extensions 9 to 10; \
                 extend A { optional group I = 9 { optional string i = 1; } } \
                 message B { optional string b = 1; } }";
    let schema = schema(proto);
    let read = |indexes: &[u8]| schema.read(&[indexes, b"\x0a\x01x"].concat());
    assert_eq!(read(&[4, 0, 0]).expect("a message"), r#"{"b":"x"}"#);
    read(&[4, 0, 2]).expect_err("no such message");
}

/// It is one of the declared messages for serializers, and none of them in the compiled schema.
#[test]
fn map_entry_by_hand_is_unusable() {
    let with = |option: &str| {
        format!(
            "syntax = \"proto3\"; message A {{ message TagsEntry {{ {option} string key = 1; string value = 2; }} \
             repeated TagsEntry tags = 1; message B {{ string b = 1; }} map<string, B> more = 2; }}"
        )
    };
    let by_hand = with("option map_entry = true;");
    let imports = SchemaText {
        references: vec![Reference {
            name: "shop/tags.proto".into(),
            text: by_hand.clone(),
        }],
        ..text("syntax = \"proto3\"; import \"shop/tags.proto\"; message Order { A a = 1; }")
    };
    for schema in [text(&by_hand), imports] {
        let error = ProtobufSchema::parse(&schema).expect_err("a map's entry");
        assert!(
            error
                .0
                .contains("the message TagsEntry sets the option map_entry"),
            "{error}"
        );
        assert!(error.0.ends_with("in its place"), "{error}");
    }
    for option in ["", "option map_entry = false;", "option deprecated = true;"] {
        let read = schema(&with(option)).read(b"\x04\x00\x02\x0a\x01x");
        assert_eq!(read.expect("a message"), r#"{"b":"x"}"#);
    }
}

#[test]
fn edition_is_unusable_by_name() {
    let proto = "// Orders.\nedition = \"2023\";\nmessage A { string a = 1; }";
    let error = ProtobufSchema::parse(&text(proto)).expect_err("an edition");
    assert!(error.0.contains("edition of Protobuf"), "{error}");
}

#[test]
fn value_that_is_no_message_is_refused() {
    let schema = schema(PROTOBUF_ORDER);
    for value in [
        &b""[..],
        b"\x04\x02",
        b"\x04\x02\x00\x0a\x05o-1",
        b"\x04\x02\x00\x0a\x02\xff\xfe",
    ] {
        schema.read(value).expect_err("no order");
    }
}

#[test]
fn small_value_stays_small() {
    let proto = "syntax = \"proto3\"; message E {} message A { repeated E e = 1; repeated bool b = 2; A a = 3; bytes z = 4; }";
    let schema = schema(proto);
    let read = |message: &[u8]| schema.read(&[&[2, 2], message].concat()).expect_err("too much").0;
    // A million empty messages in two million bytes, each of which would take some hundred.
    let error = read(&[0x0a, 0].repeat(1 << 20));
    assert!(error.contains("100000 values"), "{error}");
    let packed = [&[0x12, 0x80, 0x80, 0x40], &vec![1; 1 << 20][..]].concat();
    let error = read(&packed);
    assert!(error.contains("100000 values"), "{error}");
    let mut nested = Vec::new();
    for _ in 0..60 {
        let length = u8::try_from(nested.len()).expect("a short message");
        nested = [&[0x1a, length], &nested[..]].concat();
    }
    let error = read(&nested);
    assert!(error.contains("levels"), "{error}");
    // One large field is only that.
    let long = [&[0x22, 0x80, 0x80, 0x40], &vec![1; 1 << 20][..]].concat();
    schema.read(&[&[2, 2], &long[..]].concat()).expect("a message");
}

#[test]
fn schema_that_is_none_is_unusable() {
    let imports_unknown = PROTOBUF_ORDER.replace("shop/money.proto", "shop/other.proto");
    for proto in ["", "syntax", "message A {", &imports_unknown] {
        let parsed = ProtobufSchema::parse(&text(proto));
        // An empty file is one without messages.
        match proto {
            "" => drop(parsed.expect("a file").read(&[0]).expect_err("no message")),
            _ => drop(parsed.expect_err(proto)),
        }
    }
}
