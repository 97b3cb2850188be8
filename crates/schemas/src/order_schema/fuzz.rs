//! Fuzz target: schemas whose definitions refer to one another, and orders that are nested deeply.

use std::cell::Cell;

use jsonschema::Keyword;

use super::*;

/// Maximum number of definitions: enough for more ways than there is time for.
const DEFINITIONS_MAX: usize = 40;

/// Choices that bytes make, and 0 when there are no more.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % limit
    }
}

/// Returns a schema of small definitions. Each has the keyword `visit`, by which its checks are counted.
fn schema(choices: &mut Choices<'_>) -> String {
    let count = 1 + choices.below(DEFINITIONS_MAX);
    let definitions: Vec<String> = (0..count)
        .map(|number| {
            // Mostly to one of the next, as the others lead back to where they come from.
            let reference = |choices: &mut Choices<'_>| match choices.below(8) {
                0 => r##"{"visit":1,"$dynamicRef":"#any"}"##.to_owned(),
                1 => r#"{"visit":1,"type":"object"}"#.to_owned(),
                2 => r##"{"visit":1,"$ref":"#"}"##.to_owned(),
                step => format!(
                    r##"{{"visit":1,"$ref":"#/$defs/{}"}}"##,
                    (number + step.min(4) - 2) % count
                ),
            };
            let mut keywords = vec![r#""visit":1"#.to_owned()];
            // An object has each keyword once.
            let first = choices.below(12);
            for keyword in (first..first + 1 + choices.below(3)).map(|keyword| keyword % 12) {
                let (a, b) = (reference(choices), reference(choices));
                keywords.push(match keyword {
                    0 => format!(r#""allOf":[{a},{b}]"#),
                    1 => format!(r#""anyOf":[{a},{b}]"#),
                    2 => format!(r#""oneOf":[{a},{b},{{"visit":1,"minProperties":1}}]"#),
                    3 => format!(r#""if":{a},"then":{b},"else":{a}"#),
                    4 => format!(r#""not":{a}"#),
                    5 => format!(r#""dependentSchemas":{{"a":{a},"b":{b}}}"#),
                    6 => format!(r#""properties":{{"a":{a},"b":{b}}}"#),
                    7 => format!(r#""items":{a},"contains":{b}"#),
                    8 => format!(r#""additionalProperties":{a}"#),
                    9 => format!(r#""unevaluatedProperties":{a}"#),
                    10 => r#""minProperties":0"#.to_owned(),
                    _ => r#""maxProperties":1"#.to_owned(),
                });
            }
            format!(r#""{number}":{{{}}}"#, keywords.join(","))
        })
        .collect();
    format!(
        r##"{{"$schema":"https://json-schema.org/draft/2020-12/schema","visit":1,"$ref":"#/$defs/0",
            "$defs":{{"any":{{"visit":1,"$dynamicAnchor":"any","items":{{"visit":1,"$ref":"#/$defs/0"}}}},{}}}}}"##,
        definitions.join(",")
    )
}

/// Returns an order of many levels.
fn order(choices: &mut Choices<'_>) -> String {
    let (mut open, mut close) = (String::new(), String::new());
    for _ in 0..choices.below(100) {
        let level = match choices.below(3) {
            0 => (r#"{"a":"#, "}"),
            1 => (r#"{"b":{},"a":"#, "}"),
            _ => ("[{},", "]"),
        };
        open.push_str(level.0);
        close.insert_str(0, level.1);
    }
    format!("{open}{{}}{close}")
}

thread_local! {
    static VISITS: Cell<u64> = const { Cell::new(0) };
}

/// Keyword that counts how often it is checked.
struct Visit;

impl<'i> Keyword<'i> for Visit {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        VISITS.set(VISITS.get() + 1);
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        VISITS.set(VISITS.get() + 1);
        true
    }
}

/// Each schema is refused or compiled, each order refused or checked, and none holds up the thread or overflows its
/// stack. At one value the library looks at no more subschemas than the bounds say, and what is counted has the verdict
/// of what is not.
#[test]
fn schema_graph() {
    const TOKENS: &[&str] = &["\0\u{3}\u{4}", "\u{1}\0\u{3}\u{4}", "\u{5}\u{6}", "\u{2}", "'"];
    fuzzing::check!("schema_graph", TOKENS, |bytes| {
        let mut choices = Choices(bytes.iter());
        let text = schema(&mut choices);
        let Ok(compiled) = OrderSchema::compile(&text) else {
            return;
        };
        let tree = parse_tree(text.as_bytes()).expect("JSON");
        let uncounted = jsonschema::options()
            .with_keyword("visit", |_, _, _| Ok(Box::new(Visit)))
            .build(&tree)
            .expect("a schema");
        for value in [serde_json::json!({}), serde_json::json!(1)] {
            VISITS.set(0);
            let is_valid = uncounted.is_valid(&value);
            assert!(
                VISITS.get() <= compiled.bounds.applied,
                "{} > {:?}: {text}",
                VISITS.get(),
                compiled.bounds
            );
            assert_eq!(compiled.check(&value).is_ok(), is_valid, "{value}: {text}");
        }
        let order = parse_tree(order(&mut choices).as_bytes()).expect("JSON");
        match compiled.check(&order) {
            // The other would not end.
            Err(why) if why.contains("cannot be checked") => {}
            checked => assert_eq!(checked.is_ok(), uncounted.is_valid(&order), "{order}: {text}"),
        }
    });
}
