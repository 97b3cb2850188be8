use serde_json::Value;

use super::*;
use crate::document::DOCUMENT_BYTES_MAX;
use crate::fuzz::{AVRO_ORDER, bytes_of_hex};
use crate::schema::{Format, Reference, Schema, SchemaText};

fn schema(text: &str, references: &[(&str, &str)]) -> AvroSchema {
    let references = references.iter().map(|(name, text)| Reference {
        name: (*name).into(),
        text: (*text).into(),
    });
    let text = SchemaText {
        format: Format::Avro,
        text: text.into(),
        references: references.collect(),
    };
    AvroSchema::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Written by Python's fastavro 1.13.1: `schemaless_writer`, with the schema in `fuzz.rs` and the values that the
/// document shows.
const ORDER: &str = "106f2d223122c3a90a100c80000000000069fffffffffffffffbfeffffffffffffffff01ffffffff0f020206632d31009a\
9999999999b93fcdcccc3d01040261020262000263000002027801000400ff80a0d5edee66ccbf024866383164346661652d376465632d31316430\
2d613736352d303061306339316536626636";

#[test]
fn order_of_another_implementation_is_read() {
    let read = schema(AVRO_ORDER, &[])
        .read(&bytes_of_hex(ORDER))
        .expect("an order");
    // As text: a float would have other digits.
    assert_eq!(
        read,
        concat!(
            r#"{"order_id":"o-\"1\"é\n","amount":"9007199254740993.05","fee":"-0.005","units":9223372036854775807,"#,
            r#""small":-2147483648,"currency":"JPY","customer_id":"c-1","note":null,"rate":0.1,"share":0.1,"#,
            r#""is_gift":true,"lines":[{"sku":"a","next":{"sku":"b","next":null}},{"sku":"c","next":null}],"#,
            r#""tags":{"x":-1},"raw":"AP8=","at":1767225600000,"on":20454,"#,
            r#""trace":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}"#
        )
    );
}

#[test]
fn types_of_references_are_followed() {
    let order = r#"{"type":"record","name":"Order","namespace":"shop.example","fields":[
        {"name":"order_id","type":"string"},{"name":"price","type":"shop.example.Money"}]}"#;
    let money = r#"{"type":"record","name":"Money","namespace":"shop.example","fields":[
        {"name":"amount","type":"long"},{"name":"currency","type":"string"}]}"#;
    let schema = schema(order, &[("shop.example.Money", money)]);
    // By fastavro, as above.
    let read = schema.read(&bytes_of_hex("066f2d31c41306455552"));
    assert_eq!(
        read.expect("an order"),
        r#"{"order_id":"o-1","price":{"amount":1250,"currency":"EUR"}}"#
    );
    let alone = SchemaText {
        format: Format::Avro,
        text: order.into(),
        references: Vec::new(),
    };
    AvroSchema::parse(&alone).expect_err("a type that nothing defines");
}

/// The parser once took references in a random order, and found a nested type in some of them.
#[test]
fn references_are_usable_in_each_process() {
    let money = r#"{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"amount","type":"long"},
        {"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR","JPY"]}}]}"#;
    let fee = r#"{"type":"record","name":"Fee","namespace":"shop","fields":[{"name":"in","type":"shop.Currency"}]}"#;
    let tax = r#"{"type":"record","name":"Tax","namespace":"shop","fields":[{"name":"fee","type":"Fee"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"price","type":"Money"},{"name":"fee","type":"Fee"},{"name":"tax","type":"Tax"}]}"#;
    for _ in 0..100 {
        let schema = schema(
            order,
            &[("shop.Money", money), ("shop.Fee", fee), ("shop.Tax", tax)],
        );
        assert_eq!(
            schema.read(&[4, 2, 0, 2]).expect("an order"),
            r#"{"price":{"amount":2,"currency":"JPY"},"fee":{"in":"EUR"},"tax":{"fee":{"in":"JPY"}}}"#
        );
    }
}

/// Registries accept each of them; a value is read by its own schema, without defaults.
#[test]
fn default_of_another_type_is_no_matter() {
    for field in [
        r#"{"name":"a","type":"string","default":null}"#,
        r#"{"name":"a","type":"long","default":""}"#,
        r#"{"name":"a","type":{"type":"fixed","name":"F","size":12,"logicalType":"duration"},"default":"x"}"#,
        r#"{"name":"a","type":{"type":"enum","name":"E","symbols":["A"],"default":"B"}}"#,
        r#"{"name":"default","type":["null","string"],"default":"x"}"#,
    ] {
        schema(
            &format!(r#"{{"type":"record","name":"O","fields":[{field}]}}"#),
            &[],
        );
    }
    let alias = r#"{"type":"record","name":"O","fields":[
        {"name":"a","type":{"type":"enum","name":"Old","symbols":["A"]}},
        {"name":"b","type":{"type":"fixed","name":"New","size":1,"aliases":["Old"]}},{"name":"c","type":"Old"}]}"#;
    let read = schema(alias, &[]).read(&[0, 0, 0]).expect("a record");
    assert_eq!(read, r#"{"a":"A","b":"AA==","c":"A"}"#);
}

#[test]
fn null_namespace_is_not_the_enclosing_one() {
    let two = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"a","type":{"type":"record","name":"Money","namespace":"","fields":[{"name":"amount","type":"long"}]}},
        {"name":"b","type":{"type":"record","name":"Money","fields":[{"name":"amount","type":"string"}]}}]}"#;
    let read = schema(two, &[]).read(&[1, 2, b'x']).expect("an order");
    assert_eq!(read, r#"{"a":{"amount":-1},"b":{"amount":"x"}}"#);
    let within = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"a","type":{"type":"record","name":"Prices","namespace":"","fields":[
            {"name":"net","type":{"type":"fixed","name":"Money","size":1}},{"name":"gross","type":"Money"}]}}]}"#;
    let read = schema(within, &[]).read(&[0, 0]).expect("an order");
    assert_eq!(read, r#"{"a":{"net":"AA==","gross":"AA=="}}"#);
}

#[test]
fn name_of_two_types_is_refused() {
    let twice = |size: usize| {
        let fixed = |size| format!(r#"{{"type":"fixed","name":"F","size":{size}}}"#);
        let (first, second) = (fixed(1), fixed(size));
        let text = format!(
            r#"{{"type":"record","name":"O","fields":[{{"name":"a","type":{first}}},{{"name":"b","type":{second}}}]}}"#
        );
        AvroSchema::parse(&SchemaText {
            format: Format::Avro,
            text,
            references: Vec::new(),
        })
    };
    twice(1).expect("one definition, written twice");
    let error = twice(2).expect_err("two definitions");
    assert!(error.0.contains("\"F\" more than once"), "{error}");
}

#[test]
fn value_that_is_cut_or_longer_is_refused() {
    let (schema, order) = (schema(AVRO_ORDER, &[]), bytes_of_hex(ORDER));
    for length in 0..order.len() {
        schema.read(&order[..length]).expect_err("a part of an order");
    }
    let error = schema
        .read(&[&order[..], b"\0"].concat())
        .expect_err("one more byte");
    assert!(error.0.contains("1 bytes follow"), "{error}");
}

#[test]
fn values_outside_their_type_are_refused() {
    let check = |text: &str, payload: &[u8], why: &str| {
        let error = schema(text, &[]).read(payload).expect_err(why);
        assert!(error.0.contains(why), "{text}: {error}");
    };
    check("\"boolean\"", &[2], "neither 0 nor 1");
    check("\"int\"", &[0x80, 0x80, 0x80, 0x80, 0x10], "32 bits");
    check("\"long\"", &[0xff; 10], "64 bits");
    check("\"string\"", &[1], "negative");
    check("\"string\"", &[4, 0xff, 0xfe], "UTF-8");
    check("\"double\"", &f64::NAN.to_le_bytes(), "JSON cannot express");
    check(r#"["null","string"]"#, &[4], "no such branch");
    check(r#"["null","string"]"#, &[1], "no such branch");
    check(
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        &[2],
        "no such symbol",
    );
}

/// A value of some bytes must not take the memory, the stack or the time of a large one.
#[test]
fn small_value_stays_small() {
    // An array whose first block has a billion nulls.
    let nulls = [0x80, 0xa8, 0xd6, 0xb9, 0x07];
    let error = schema(r#"{"type":"array","items":"null"}"#, &[])
        .read(&nulls)
        .expect_err("too large");
    assert!(error.0.contains(&DOCUMENT_BYTES_MAX.to_string()), "{error}");
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let error = schema(list, &[]).read(&vec![2; 1 << 20]).expect_err("too deep");
    assert!(error.0.contains("levels"), "{error}");
    // Its text would take minutes.
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":9000000,"scale":2}"#;
    let value = [&[0x80, 0x80, 0x80, 0x01], &vec![0x7f; 1 << 20][..]].concat();
    schema(decimal, &[]).read(&value).expect_err("too many digits");
    let zeros = r#"{"type":"bytes","logicalType":"decimal","precision":9000000,"scale":8000000}"#;
    let text = SchemaText {
        format: Format::Avro,
        text: zeros.into(),
        references: Vec::new(),
    };
    AvroSchema::parse(&text).expect_err("a scale of millions");
    // A decimal of a byte that says itself that it has millions of places.
    let big = r#"{"type":"bytes","logicalType":"big-decimal"}"#;
    let value = [&[12, 2, 1][..], &[0x80, 0xa4, 0xe8, 0x07]].concat();
    let error = schema(big, &[]).read(&value).expect_err("too many places");
    assert!(error.0.contains("scale"), "{error}");
}

/// A text of some kilobytes that would end the process where its parser, or the walk through what it has parsed, overflows
/// the stack.
#[test]
fn deep_schema_is_refused() {
    let nested = |levels: usize| {
        let (open, close) = (r#"{"type":"array","items":"#.repeat(levels), "}".repeat(levels));
        SchemaText {
            format: Format::Avro,
            text: format!("{open}\"null\"{close}"),
            references: Vec::new(),
        }
    };
    Schema::parse(&nested(120)).expect("a schema");
    Schema::parse(&nested(150)).expect_err("deeper than the parser goes");
    let error = Schema::parse(&nested(100_000)).expect_err("too deep");
    assert!(error.0.contains("200 levels"), "{error}");
}

#[test]
fn decimals_have_all_their_digits() {
    let decimal = |scale: usize, unscaled: &[u8]| {
        let text = format!(r#"{{"type":"bytes","logicalType":"decimal","precision":300,"scale":{scale}}}"#);
        let length = u8::try_from(unscaled.len() * 2).expect("a short one");
        schema(&text, &[])
            .read(&[&[length], unscaled].concat())
            .expect("a decimal")
    };
    for (scale, unscaled, expected) in [
        (2, &[0x04, 0xe2][..], "12.50"),
        (2, &[5], "0.05"),
        (2, &[0xfb], "-0.05"),
        (2, &[], "0.00"),
        (0, &[0x04, 0xe2], "1250"),
        (3, &[0xff, 0xff, 0x9c], "-0.100"),
    ] {
        assert_eq!(decimal(scale, unscaled), format!("\"{expected}\""));
    }
    let digits = decimal(1, &[0x7f; 40]);
    let value: Value = serde_json::from_str(&digits).expect("JSON");
    assert_eq!(value.as_str().map(str::len), Some(98));
}
