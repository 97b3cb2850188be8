//! Schemas and orders that ask for more work than there is time for.

use std::time::{Duration, Instant};

use super::tests::violation;
use super::*;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Far more than any check may take, and far less than these would take without a bound.
const SOON: Duration = Duration::from_secs(20);

/// Returns a schema of definitions `0` to `links`, each made of a reference to the next, and the last one.
fn chain(links: usize, link: impl Fn(&str) -> String, last: &str) -> String {
    let reference = |to: usize| format!(r##"{{"$ref":"#/$defs/{to}"}}"##);
    let definitions: String = (0..links)
        .map(|number| format!(r#""{number}":{},"#, link(&reference(number + 1))))
        .collect();
    format!(
        r#"{{"$schema":"{DRAFT}","allOf":[{}],"$defs":{{{definitions}"{links}":{last}}}}}"#,
        reference(0)
    )
}

fn nested(open: &str, leaf: &str, close: &str, levels: usize) -> String {
    format!("{}{leaf}{}", open.repeat(levels), close.repeat(levels))
}

fn refused(text: &str) -> String {
    let at = Instant::now();
    let refused = OrderSchema::compile(text).expect_err("a schema that is refused");
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
    assert!(matches!(refused, InvalidSchema::Work(_)), "{refused}");
    let shown = crate::schema::unusable(&refused).0;
    assert_eq!(shown, refused.to_string(), "too long to be shown");
    shown
}

fn compile(text: &str) -> OrderSchema {
    let at = Instant::now();
    let schema = OrderSchema::compile(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
    schema
}

fn checked(schema: &OrderSchema, order: &str) -> Option<String> {
    let at = Instant::now();
    let violation = violation(schema, order);
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
    violation
}

/// Doubles the work with each of forty definitions.
#[test]
fn schema_with_too_many_ways_at_a_value_is_refused() {
    for link in ["allOf", "anyOf", "oneOf"] {
        let twice = |next: &str| format!(r#"{{"{link}":[{next},{next}]}}"#);
        let error = refused(&chain(40, twice, r#"{"minProperties":9}"#));
        assert!(
            error.contains("more than 10000 subschemas to one value"),
            "{error}"
        );
    }
    let branches = |next: &str| format!(r#"{{"if":{next},"then":{next},"else":{next}}}"#);
    refused(&chain(40, branches, "true"));
    let dependent = |next: &str| format!(r#"{{"dependentSchemas":{{"a":{next},"b":{next}}}}}"#);
    refused(&chain(40, dependent, "true"));
    // Each level asks again what all the others have checked.
    let unevaluated = |next: &str| format!(r#"{{"allOf":[{next}],"unevaluatedProperties":false}}"#);
    refused(&chain(20, unevaluated, "true"));
    // Not those of an alternative that takes the same for its members.
    let twice = |next: &str| format!(r#"{{"properties":{{"a":{next},"b":{next}}}}}"#);
    compile(&chain(40, twice, "true"));
}

/// Each part is harmless, and the library follows all of them as it compiles.
#[test]
fn schema_with_too_many_parts_is_refused() {
    let parts = |count: usize, part: &dyn Fn(usize) -> String| {
        let parts: Vec<String> = (0..count)
            .map(|number| format!(r#""{number}":{}"#, part(number)))
            .collect();
        format!(r#"{{"$schema":"{DRAFT}","properties":{{{}}}}}"#, parts.join(","))
    };
    let error = refused(&parts(100_001, &|_| "{}".into()));
    assert!(error.contains("more than 100000 subschemas"), "{error}");
    compile(&parts(20_000, &|_| r#"{"type":"string"}"#.into()));

    let chains: Vec<String> = (0..100)
        .map(|chain| {
            let links = (0..11).map(|link| {
                let next = format!(r##"{{"$ref":"#/$defs/{chain}-{}"}}"##, link + 1);
                format!(r#""{chain}-{link}":{{"allOf":[{next},{next}]}},"#)
            });
            let first = format!(r##""at{chain}":{{"properties":{{"a":{{"$ref":"#/$defs/{chain}-0"}}}}}},"##);
            format!(r#"{first}{}"{chain}-11":true"#, links.collect::<String>())
        })
        .collect();
    let all: Vec<String> = (0..100)
        .map(|chain| format!(r##"{{"$ref":"#/$defs/at{chain}"}}"##))
        .collect();
    let error = refused(&format!(
        r#"{{"$schema":"{DRAFT}","items":{{"prefixItems":[{}]}},"$defs":{{{}}}}}"#,
        all.join(","),
        chains.join(",")
    ));
    assert!(error.contains("in more than 1000000 ways"), "{error}");
}

/// Each takes a part of the stack, which ends the process when it is used up.
#[test]
fn schema_with_too_long_a_chain_is_refused() {
    let same = |next: &str| next.to_owned();
    let error = refused(&chain(40_000, same, "true"));
    assert!(error.contains("more than 100 of its subschemas"), "{error}");
    for link in ["not", "if"] {
        refused(&chain(100, |next| format!(r#"{{"{link}":{next}}}"#), "true"));
    }
    compile(&chain(90, same, "true"));
    // Of members of members, it is as long as the order is deep.
    compile(&chain(
        10_000,
        |next| format!(r#"{{"properties":{{"a":{next}}}}}"#),
        "true",
    ));
}

#[test]
fn schema_that_leads_back_at_one_value_is_refused() {
    for text in [
        r##"{"$ref":"#"}"##,
        r##"{"not":{"$ref":"#"}}"##,
        r##"{"properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},
            "b":{"if":true,"then":{"$ref":"#/$defs/a"}}}}"##,
        r##"{"$dynamicAnchor":"node","allOf":[{"$dynamicRef":"#node"}]}"##,
        r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"anyOf":[true,
            {"$recursiveRef":"#"}]}"##,
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":{"$ref":"#"}}}"##,
    ] {
        let error = refused(text);
        assert!(error.contains("no check would end"), "{error}");
    }
    // A sibling that its draft ignores leads nowhere, and a member is another value.
    for text in [
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"$ref":"#/definitions/b",
            "allOf":[{"$ref":"#/definitions/a"}]},"b":true},"$ref":"#/definitions/a"}"##,
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"next":{"$ref":"#"}},
            "dependencies":{"a":["b"]}}"##,
        r##"{"$dynamicAnchor":"node","properties":{"next":{"$dynamicRef":"#node"}}}"##,
    ] {
        compile(text);
    }
}

/// The library compiles a subschema for each way through other schemas that leads there.
#[test]
fn schema_with_too_many_ways_through_others_is_refused() {
    let layers = |count: usize| {
        let parts: String = (0..count)
            .map(|number| {
                let next = number + 1;
                format!(
                    r#""a{number}":{{"$id":"a{number}","properties":{{"x":{{"$ref":"b{number}"}},"y":{{"$ref":"c{number}"}}}}}},
                       "b{number}":{{"$id":"b{number}","items":{{"$ref":"a{next}"}}}},
                       "c{number}":{{"$id":"c{number}","items":{{"$ref":"a{next}"}}}},"#
                )
            })
            .collect();
        format!(
            r#"{{"$schema":"{DRAFT}","$id":"https://shop.example/order","$ref":"a0",
                "$defs":{{{parts}"a{count}":{{"$id":"a{count}"}}}}}}"#
        )
    };
    let error = refused(&layers(11));
    assert!(error.contains("too many ways"), "{error}");
    compile(&layers(6));
}

/// A producer needs no hostile schema, only one that refers to itself in alternatives.
#[test]
fn order_that_takes_too_many_steps_is_refused() {
    let same = r##"{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}"##;
    let array = compile(&format!(
        r#"{{"$schema":"{DRAFT}","type":"array","items":{same}}}"#
    ));
    assert_eq!(checked(&array, &nested("[", "[]", "]", 100)), None);
    let error = checked(&array, &nested("[", "1", "]", 20)).expect("no array at the end");
    assert!(error.contains("too many alternatives"), "{error}");
    // One that is not as deep is explained.
    let error = checked(&array, "[[1]]").expect("no array at the end");
    assert!(error.contains("at \"/0\" (anyOf)"), "{error}");

    // In few steps too, there can be more violations than are kept.
    let null = vec![r#"{"type":"null"}"#; 3_000].join(",");
    let wide = |members: &str| {
        let members = members.split(' ');
        let ways: Vec<String> = members
            .map(|name| format!(r##"{{"properties":{{"{name}":{{"$ref":"#/$defs/null"}}}}}}"##))
            .collect();
        compile(&format!(
            r#"{{"$schema":"{DRAFT}","anyOf":[{}],"$defs":{{"null":{{"anyOf":[{null}]}}}}}}"#,
            ways.join(",")
        ))
    };
    let order = r#"{"a":1,"b":1,"c":1,"d":1}"#;
    let error = checked(&wide("a b c d"), order).expect("no null");
    assert!(error.contains("too many alternatives"), "{error}");
    let error = checked(&wide("a b"), order).expect("no null");
    assert!(error.contains("(anyOf)"), "{error}");

    // The library remembers no verdict here.
    let twice = |next: &str| format!(r#"{{"properties":{{"a":{{"allOf":[{next},{next}]}}}}}}"#);
    let members = compile(&chain(26, twice, "true"));
    assert_eq!(checked(&members, &nested("{\"a\":", "1", "}", 12)), None);
    let error = checked(&members, &nested("{\"a\":", "1", "}", 26)).expect("too many steps");
    assert!(
        error.contains("cannot be checked in ") && error.contains(" steps"),
        "{error}"
    );
}

/// What is looked at as a whole counts by its size.
#[test]
fn long_values_count_by_their_length() {
    let often = |check: &str| {
        let twice = |next: &str| format!(r#"{{"allOf":[{next},{next}]}}"#);
        compile(&chain(11, twice, &format!(r#"{{"items":{check}}}"#)))
    };
    let text = format!("[\"{}\"]", "é".repeat(2 << 20));
    let numbers: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let array = format!("[[{}]]", numbers.join(","));
    let names = format!("[{{\"{}\":1}}]", "x".repeat(4 << 20));
    for (check, order) in [
        (r#"{"pattern":"x*y?$"}"#, &text),
        (r#"{"maxLength":3000000}"#, &text),
        (r#"{"not":{"const":"x"}}"#, &text),
        (r#"{"not":{"enum":[[1],[2]]}}"#, &array),
        (r#"{"uniqueItems":true}"#, &array),
        (r#"{"propertyNames":{"pattern":"x*y?$"}}"#, &names),
        (r#"{"items":{"minimum":0}}"#, &array),
    ] {
        let schema = often(check);
        let error = checked(&schema, order).unwrap_or_else(|| panic!("{check}: accepted"));
        assert!(error.contains("cannot be checked"), "{check}: {error}");
    }
}

/// An order with many lines takes as many steps.
#[test]
fn large_order_is_checked() {
    let schema = compile(
        r##"{"type":"object","properties":{"lines":{"type":"array","uniqueItems":true,"items":{"$ref":"#/$defs/line"}}},
            "$defs":{"line":{"oneOf":[{"$ref":"#/$defs/goods"},{"$ref":"#/$defs/fee"}]},
            "goods":{"properties":{"kind":{"const":"goods"},"sku":{"type":"string","pattern":"^[a-z0-9]+$"}},
                "required":["kind","sku"],"unevaluatedProperties":false},
            "fee":{"properties":{"kind":{"const":"fee"},"sku":{"maxLength":0}},"required":["kind"]}}}"##,
    );
    let lines: Vec<String> = (0..50_000)
        .map(|number| format!(r#"{{"kind":"goods","sku":"n{number}"}}"#))
        .collect();
    let order = |last: &str| format!(r#"{{"lines":[{},{last}]}}"#, lines.join(","));
    assert_eq!(checked(&schema, &order(r#"{"kind":"fee"}"#)), None);
    let error = checked(&schema, &order("{}")).expect("no kind");
    assert!(error.contains("at \"/lines/50000\" (oneOf)"), "{error}");
}

/// On a test's thread, which has as much stack as the smallest of the programs' threads.
#[test]
fn deepest_check_fits_the_stack() {
    // Of all combinations, this one takes most of the stack.
    let link = |next: &str| format!(r#"{{"oneOf":[false,{next}]}}"#);
    let inner = r##"{"type":"array","items":{"$ref":"#"}}"##;
    let schema = compile(&chain(48, link, inner));
    assert_eq!(schema.bounds.chain, 100);
    let order = |levels| nested("[", "1", "]", levels);
    let error = checked(&schema, &order(19)).expect("no array at the end");
    assert!(error.contains("(oneOf)"), "{error}");
    let error = checked(&schema, &order(20)).expect("too deep");
    assert!(error.contains("cannot be checked: it has 20 levels"), "{error}");
    // The more levels an order has, the less each may take.
    let schema = compile(&chain(6, link, inner));
    assert_eq!(schema.bounds.chain, 16);
    assert_eq!(checked(&schema, &nested("[", "[]", "]", 123)), None);
    let error = checked(&schema, &order(124)).expect("no array at the end");
    assert!(!error.contains("cannot be checked"), "{error}");
}

/// What is published and large: the schemas of schemas, and definitions that hundreds of others share.
#[test]
fn ordinary_schemas_are_accepted() {
    for uri in [
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-04/schema#",
    ] {
        let schema = compile(&format!(r#"{{"$schema":"{uri}","$ref":"{uri}"}}"#));
        assert!(schema.bounds.applied < 100, "{:?}", schema.bounds);
        assert_eq!(
            checked(&schema, r#"{"properties":{"a":{"items":{"type":"string"}}}}"#),
            None
        );
        assert!(checked(&schema, r#"{"properties":{"a":{"items":{"type":"text"}}}}"#).is_some());
    }
    // 150 kinds of records that share four levels of types, each a part of the one below.
    let kinds: Vec<String> = (0..150)
        .map(|kind| format!(r##"{{"$ref":"#/$defs/kind{kind}"}}"##))
        .collect();
    let definitions: String = (0..150)
        .map(|kind| {
            format!(
                r##""kind{kind}":{{"allOf":[{{"$ref":"#/$defs/record"}}],"properties":{{"kind":{{"const":"k{kind}"}},
                    "contained":{{"type":"array","items":{{"$ref":"#/$defs/any"}}}},"who":{{"$ref":"#/$defs/party"}}}},
                    "required":["kind"],"unevaluatedProperties":false}},"##
            )
        })
        .collect();
    let schema = compile(&format!(
        r##"{{"$schema":"{DRAFT}","$ref":"#/$defs/any","$defs":{{{definitions}
            "any":{{"oneOf":[{}]}},
            "record":{{"allOf":[{{"$ref":"#/$defs/element"}}],"properties":{{"id":{{"type":"string"}}}}}},
            "element":{{"allOf":[{{"$ref":"#/$defs/base"}}],"properties":{{"extension":{{"items":{{"$ref":"#/$defs/any"}}}}}}}},
            "base":{{"type":"object","properties":{{"note":{{"type":["string","null"]}}}}}},
            "party":{{"allOf":[{{"$ref":"#/$defs/element"}}],"properties":{{"name":{{"type":"string"}},
                "of":{{"$ref":"#/$defs/party"}}}}}}}}}}"##,
        kinds.join(",")
    ));
    let order = |name: &str| {
        format!(
            r#"{{"kind":"k7","id":"1","who":{{"of":{{"of":{{"name":{name}}}}}}},
                "contained":[{{"kind":"k149","contained":[{{"kind":"k0","note":null}}]}},{{"kind":"k3"}}]}}"#
        )
    };
    assert_eq!(checked(&schema, &order("\"A\"")), None);
    let error = checked(&schema, &order("1")).expect("no name");
    assert!(error.contains("(oneOf)"), "{error}");
}
