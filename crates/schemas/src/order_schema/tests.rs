use super::*;

const SCHEMA: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://shop.example/order.schema.json",
    "type": "object",
    "required": ["order_id", "amount", "payer"],
    "properties": {
        "order_id": {"type": "string", "pattern": "^o-[0-9]+$"},
        "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": 100000, "multipleOf": 0.01},
        "currency": {"enum": ["EUR", "USD"]},
        "payer": {"$ref": "#/$defs/party"},
        "count": {"type": "integer"},
        "tags": {"propertyNames": {"maxLength": 8}, "additionalProperties": {"minLength": 1}},
        "on": {"format": "date"}
    },
    "$defs": {
        "party": {
            "type": "object",
            "properties": {"account": {"$ref": "#/$defs/account"}},
            "additionalProperties": false
        },
        "account": {"anyOf": [{"type": "null"}, {"minLength": 15}]}
    }
}"##;
const ORDER: &str = r#"{
    "order_id":"o-1","amount":12.50,"currency":"EUR","payer":{"account":"DE02120300000000202051"},"note":1
}"#;

fn compile(text: &str) -> OrderSchema {
    OrderSchema::compile(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(super) fn violation(schema: &OrderSchema, order: &str) -> Option<String> {
    let tree = parse_tree(order.as_bytes()).unwrap_or_else(|error| panic!("{error}: {order}"));
    schema.check(&tree).err()
}

#[test]
fn order_that_conforms_is_accepted() {
    let schema = compile(SCHEMA);
    assert_eq!(violation(&schema, ORDER), None);
    for (from, to) in [
        ("12.50", "0.01"),
        ("12.50", "1e3"),
        ("\"note\":1", "\"count\":1.0"),
        ("\"note\":1", "\"tags\":{\"gift\":\"x\"}"),
        // Formats are annotations in this draft.
        ("\"note\":1", "\"on\":\"soon\""),
        ("\"DE02120300000000202051\"", "null"),
    ] {
        let order = ORDER.replace(from, to);
        assert_eq!(violation(&schema, &order), None, "{order}");
    }
}

#[test]
fn violation_names_place_and_keyword() {
    let schema = compile(SCHEMA);
    for (from, to, place, keyword) in [
        ("\"order_id\":\"o-1\",", "", "\"\"", "\"order_id\" is a required"),
        ("\"o-1\"", "1", "\"/order_id\"", "(type)"),
        ("\"o-1\"", "\"x-1\"", "\"/order_id\"", "(pattern)"),
        ("12.50", "\"12.50\"", "\"/amount\"", "(type)"),
        ("12.50", "12.505", "\"/amount\"", "(multipleOf)"),
        ("12.50", "0", "\"/amount\"", "(exclusiveMinimum)"),
        ("12.50", "1e300", "\"/amount\"", "(maximum)"),
        (
            "12.50",
            "123456789012345678901234567890",
            "\"/amount\"",
            "(maximum)",
        ),
        ("EUR", "GBP", "\"/currency\"", "(enum)"),
        ("DE02120300000000202051", "DE02", "\"/payer/account\"", "(anyOf)"),
        ("\"account\"", "\"a/b\"", "\"/payer\"", "'a/b' was unexpected"),
        ("\"note\":1", "\"count\":1.5", "\"/count\"", "(type)"),
        (
            "\"note\":1",
            "\"tags\":{\"too-long-a-name\":\"x\"}",
            "\"/tags\"",
            "longer than 8",
        ),
        (
            "\"note\":1",
            "\"tags\":{\"~/\":\"\"}",
            "\"/tags/~0~1\"",
            "(minLength)",
        ),
    ] {
        let order = ORDER.replace(from, to);
        let violation = violation(&schema, &order).unwrap_or_else(|| panic!("accepted: {order}"));
        assert!(
            violation.contains(&format!("at {place} (")) && violation.contains(keyword),
            "{place} {keyword}: {violation}"
        );
    }
    let other = violation(&schema, "[]").expect("no object");
    assert!(other.contains("at \"\" (type)"), "{other}");
}

#[test]
fn explanation_has_no_value_and_a_limit() {
    let secret = "4111111111111111";
    let schema = compile(
        r#"{"properties":{
            "a":{"type":"null"},"b":{"pattern":"^x"},"c":{"const":1},"d":{"enum":[1]},"e":{"maxLength":1},
            "f":{"uniqueItems":true},"g":{"not":{"type":"string"}},"h":{"oneOf":[true,true]},"i":false,
            "j":{"contains":{"const":1}},"k":{"items":{"maximum":1}},"l":{"anyOf":[{"const":1}]},
            "m":{"prefixItems":[true],"items":false},"n":{"dependentRequired":{"x":["y"]}},
            "o":{"prefixItems":[true],"unevaluatedItems":false},"p":{"maxItems":1},
            "q":{"propertyNames":{"const":"z"}},"r":{"multipleOf":3},"s":{"if":true,"then":{"const":1}}
        }}"#,
    );
    let text = format!("\"{secret}\"");
    for (name, value) in [
        ("a", &*text),
        ("b", &text),
        ("c", &text),
        ("d", &text),
        ("e", &text),
        ("f", &format!("[{secret},{secret}]")),
        ("g", &text),
        ("h", &text),
        ("i", &text),
        ("j", &format!("[{secret}]")),
        ("k", &format!("[{secret}]")),
        ("l", &text),
        ("m", &format!("[{secret},{secret}]")),
        ("n", &format!("{{\"x\":{secret}}}")),
        ("o", &format!("[{secret},{secret}]")),
        ("p", &format!("[{secret},{secret}]")),
        ("q", &format!("{{\"x\":{secret}}}")),
        ("r", secret),
        ("s", &text),
    ] {
        let order = format!("{{\"{name}\":{value}}}");
        let violation = violation(&schema, &order).unwrap_or_else(|| panic!("accepted: {order}"));
        assert!(!violation.contains(secret), "{violation}");
    }
    let schema = compile(r#"{"additionalProperties":{"additionalProperties":false}}"#);
    let name = "n\\n".repeat(1_000);
    let long = violation(&schema, &format!("{{\"{name}\":{{\"{name}\":1}}}}")).expect("refused");
    assert!(
        long.len() <= 512 && !long.contains('\n'),
        "{}: {long}",
        long.len()
    );
}

#[test]
fn schema_that_cannot_be_used_is_refused() {
    let refused = |text: &str| {
        OrderSchema::compile(text)
            .err()
            .unwrap_or_else(|| panic!("compiled: {text}"))
            .to_string()
    };
    for (text, words) in [
        ("", "not valid JSON"),
        ("type: object", "not valid JSON"),
        (r#"{"minimum":1,"minimum":2}"#, "\"minimum\" occurs twice"),
        ("[]", "invalid"),
        (
            r#"{"properties":{"a":{"type":"text"}}}"#,
            "\"/properties/a/type\"",
        ),
        (r#"{"required":"order_id"}"#, "\"/required\""),
        (
            r#"{"$ref":"https://shop.example/order.json"}"#,
            "nothing is loaded",
        ),
        (
            r#"{"properties":{"a":{"$ref":"order.json"}}}"#,
            "nothing is loaded",
        ),
        (
            r#"{"properties":{"a":{"$ref":"file:///etc/passwd"}}}"#,
            "nothing is loaded",
        ),
        (r##"{"$ref":"#/$defs/none"}"##, "nothing is loaded"),
        (
            r#"{"$schema":"https://shop.example/schema"}"#,
            "nothing is loaded",
        ),
        (
            r#"{"properties":{"a":{"pattern":"("}}}"#,
            "regular expression \"(\"",
        ),
        (
            r#"{"properties":{"a":{"pattern":"(?<=a)b"}}}"#,
            "\"/properties/a/pattern\"",
        ),
        (r#"{"pattern":"(a)\\1"}"#, "linear time"),
        (r#"{"patternProperties":{"^(a|b\\1)$":true}}"#, "linear time"),
        (r#"{"pattern":"((a{200}){200}){200}"}"#, "too large"),
        (&"[".repeat(100_000), "not valid JSON"),
    ] {
        let error = refused(text);
        assert!(error.contains(words), "{words}: {error}");
        assert!(error.len() < 1_000, "{error}");
    }
    assert!(compile("{}") == compile("{}") && compile("{}") != compile("true"));
}

#[test]
fn draft_is_the_one_of_the_schema() {
    let draft_7 = compile(r#"{"$schema":"http://json-schema.org/draft-07/schema#","format":"date"}"#);
    assert_eq!(violation(&draft_7, "\"2026-11-28\""), None);
    let violation = violation(&draft_7, "\"2026-11-31\"").expect("no date");
    assert!(violation.contains("(format)"), "{violation}");
    assert!(!violation.contains("2026"), "{violation}");
}

/// As the serializers of registries do.
#[test]
fn schema_of_a_registry_is_of_draft_7() {
    let registry =
        |text: &str| OrderSchema::compile_with(text, &[]).unwrap_or_else(|error| panic!("{error}"));
    let tuple = registry(r#"{"items":[{"type":"string"}],"additionalItems":false}"#);
    assert_eq!(violation(&tuple, r#"["a"]"#), None);
    assert!(violation(&tuple, r#"["a",1]"#).is_some());
    let anchor = r##"{"definitions":{"money":{"$id":"#money","type":"integer"}},"$ref":"#money"}"##;
    assert!(violation(&registry(anchor), "\"1\"").is_some());
    let newest =
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[{"type":"string"}]}"#;
    assert!(violation(&registry(newest), "[1]").is_some());
    // That of the settings is of the newest.
    assert!(violation(&compile(r#"{"prefixItems":[{"type":"string"}]}"#), "[1]").is_some());
}

#[test]
fn names_of_references_are_relative_to_the_schema() {
    let check = |schema: &str, names: &[&str], found: usize| {
        let reference = |(number, name): (usize, &&str)| Reference {
            name: (*name).into(),
            text: format!(r#"{{"const":{number}}}"#),
        };
        let references: Vec<_> = names.iter().enumerate().map(reference).collect();
        let schema = OrderSchema::compile_with(schema, &references)
            .unwrap_or_else(|error| panic!("{error}: {schema} {names:?}"));
        assert_eq!(
            violation(&schema, &found.to_string()),
            None,
            "{schema:?} {names:?}"
        );
        assert!(violation(&schema, "9").is_some(), "{schema:?} {names:?}");
    };
    check(r#"{"$ref":"party.json"}"#, &["party.json"], 0);
    check(r#"{"$ref":"./party.json"}"#, &["./party.json"], 0);
    let with_id =
        |name: &str| format!(r#"{{"$id":"https://shop.example/order.json","allOf":[{{"$ref":"{name}"}}]}}"#);
    check(&with_id("/schemas/party.json"), &["/schemas/party.json"], 0);
    check(&with_id("../party.json"), &["../party.json"], 0);
    let other = "https://other.example/a/party.json";
    check(&with_id("party.json"), &[other, "a/party.json", "party.json"], 2);
    check(&with_id("a/party.json"), &["a/party.json", other], 0);
    check(&with_id(other), &["a/party.json", other], 1);
    check(
        &with_id("https://shop.example/a/b.json"),
        &["/x/../a/b.json", "/b.json"],
        0,
    );
}

/// A schema with the same file name on another host, or in another folder, is another schema.
#[test]
fn end_of_a_name_is_not_enough() {
    let compile = |text: &str, references: &[(&str, &str)]| {
        let reference = |(name, text): &(&str, &str)| Reference {
            name: (*name).into(),
            text: (*text).into(),
        };
        let references: Vec<_> = references.iter().map(reference).collect();
        OrderSchema::compile_with(text, &references)
    };
    let root = |reference: &str| {
        format!(
            r#"{{"$id":"https://shop.example/v2/order.json","properties":{{"a":{{"$ref":"{reference}"}}}}}}"#
        )
    };
    let text = r#"{"const":1}"#;
    for reference in [
        "https://other.example/party.json",
        "https://shop.example/party.json",
        "/v1/party.json",
        "https://shop.example:8443/v2/party.json",
    ] {
        let error = compile(&root(reference), &[("party.json", text)]).expect_err(reference);
        assert!(error.to_string().contains("no reference has a name"), "{error}");
    }
    let error = compile(
        r#"{"$ref":"https://shop.example/party.json"}"#,
        &[("party.json", text)],
    );
    assert!(error.is_err(), "{error:?}");

    let accepted = |root: &str, references: &[(&str, &str)]| {
        let schema =
            compile(root, references).unwrap_or_else(|error| panic!("{error}: {root} {references:?}"));
        assert_eq!(violation(&schema, r#"{"a":1}"#), None);
        assert!(
            violation(&schema, r#"{"a":2}"#).is_some(),
            "{root} {references:?}"
        );
    };
    accepted(&root("party.json"), &[("party.json", text)]);
    accepted(
        &root("https://shop.example/v2/party.json"),
        &[("party.json", text)],
    );
    // By the URI that it gives itself.
    let own = r#"{"$id":"https://other.example/party.json","const":1}"#;
    accepted(&root("https://other.example/party.json"), &[("party.json", own)]);
    // The name in this schema comes first.
    let other = r#"{"$id":"https://shop.example/v2/party.json","const":3}"#;
    accepted(
        &root("party.json"),
        &[("https://other.example/x.json", other), ("party.json", text)],
    );
    // What it refers to is relative to itself, by its name or by the URI that it gives itself.
    let party = ("common/party.json", r#"{"$ref":"types/money.json"}"#);
    let money = ("types/money.json", r#"{"$ref":"coin.json"}"#);
    accepted(&root("common/party.json"), &[("coin.json", text), money, party]);
    let refers = r#"{"$id":"https://other.example/a/party.json","allOf":[{"$ref":"money.json"}]}"#;
    accepted(
        &root("party.json"),
        &[("money.json", text), ("party.json", refers)],
    );

    // Each time it is another one, without an end.
    let endless = [("a/party.json", r#"{"items":{"$ref":"a/party.json"}}"#)];
    let error = compile(&root("a/party.json"), &endless).expect_err("no end");
    assert!(error.to_string().contains("cannot be followed"), "{error}");

    // Of two that differ none is guessed.
    let references = [("./party.json", text), ("party.json", r#"{"const":2}"#)];
    let error = compile(&root("party.json"), &references).expect_err("two schemas");
    assert!(error.to_string().contains("several references"), "{error}");
    accepted(
        &root("party.json"),
        &[("./party.json", text), ("party.json", text)],
    );
}

#[test]
fn pattern_takes_linear_time() {
    let schema = compile(r#"{"pattern":"^(a|a)*(a|aa)+$"}"#);
    let text = format!("\"{}!\"", "a".repeat(100_000));
    let violation = violation(&schema, &text).expect("no match");
    assert!(violation.contains("(pattern)"), "{violation}");
}

/// On a test's thread, whose stack is a quarter of the main one's.
#[test]
fn deepest_order_is_checked_without_overflow() {
    // For each level of the order, fifteen levels of the schema.
    let chain: String = (0..6)
        .map(|link| {
            format!(
                "\"{link}\":{{\"allOf\":[{{\"$ref\":\"#/$defs/{}\"}}]}},",
                link + 1
            )
        })
        .collect();
    let schema = compile(&format!(
        r##"{{"$ref":"#/$defs/0","$defs":{{{chain}
            "6":{{"anyOf":[
                {{"type":"array","items":{{"$ref":"#/$defs/0"}}}},
                {{"type":"object","additionalProperties":{{"$ref":"#/$defs/0"}}}}
            ]}}
        }}}}"##
    ));
    for (open, leaf, close) in [("[", "[]", "]"), ("{\"a\":", "{}", "}")] {
        let order = |leaf: &str| format!("{}{leaf}{}", open.repeat(126), close.repeat(126));
        assert_eq!(violation(&schema, &order(leaf)), None);
        assert!(violation(&schema, &order("1")).is_some());
    }
}
