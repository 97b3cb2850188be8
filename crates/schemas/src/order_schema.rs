//! JSON Schema that orders must conform to, and the explanation of a violation.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationError, Validator, uri};
use records::parse_tree;
use serde_json::Value;

use crate::schema::Reference;

/// JSON Schema of an order.
pub struct OrderSchema {
    text: Box<str>,
    validator: Validator,
}

/// Text that is no JSON Schema, or one that cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchema {
    /// Not JSON, or one object has two members of one name.
    #[error("the schema is not valid JSON: {0}")]
    Json(String),
    /// Leads to nothing in the text.
    #[error(
        "a $ref or $schema of the schema cannot be followed: {0}. It can lead to another part of the schema, or \
         to a published meta-schema; nothing is loaded"
    )]
    Reference(String),
    /// Regular expression that is none, or takes more than linear time, or too much memory.
    #[error(
        "the schema has at {place:?} the regular expression {pattern}, which is invalid, too large, or needs \
         backtracking (a look-around, a back-reference), so that no linear time is certain"
    )]
    Pattern {
        /// JSON pointer into the schema.
        place: String,
        /// JSON string.
        pattern: String,
    },
    /// JSON, and no schema of its draft.
    #[error("the schema is invalid at {place:?}: {message}")]
    Invalid {
        /// JSON pointer into the schema.
        place: String,
        /// What is wrong there.
        message: String,
    },
}

/// Maximum size of a compiled regular expression, and of the cache of its automaton, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Maximum length of a JSON pointer in an explanation, in characters.
// With the message it stays below 512 characters, as the explanations of the other forms.
const PLACE_MAX: usize = 128;
/// Maximum length of what is wrong at a place, in characters.
const MESSAGE_MAX: usize = 256;

impl OrderSchema {
    /// Compiles a JSON Schema. Its draft is the one that `$schema` names, and 2020-12 if there is none.
    ///
    /// # Errors
    /// The text is no schema, refers to anything outside itself, or has a regular expression that is not certain to
    /// take linear time.
    pub fn compile(text: &str) -> Result<Self, InvalidSchema> {
        Self::compile_as(text, &[], None)
    }

    /// Compiles a JSON Schema of a registry, which may refer to these other ones, by their names. Without `$schema` it is
    /// one of draft 7.
    ///
    /// # Errors
    /// As [`Self::compile`], for each of them.
    pub(crate) fn compile_with(text: &str, references: &[Reference]) -> Result<Self, InvalidSchema> {
        // As the serializers of registries take it, so that what they check is what is checked here.
        Self::compile_as(text, references, Some(Draft::Draft7))
    }

    /// Compiles a JSON Schema, with its draft if it names none.
    fn compile_as(
        text: &str,
        references: &[Reference],
        default: Option<Draft>,
    ) -> Result<Self, InvalidSchema> {
        let named = |reference: &Reference| {
            let schema = parse_tree(reference.text.as_bytes());
            schema.map(|schema| (reference.name.clone(), schema))
        };
        let references: Result<Vec<(String, Value)>, _> = references.iter().map(named).collect();
        let references = references.map_err(|error| InvalidSchema::Json(error.to_string()))?;
        // Of two keywords of one name the parsers keep one, and the other check would be missing.
        let schema = parse_tree(text.as_bytes()).map_err(|error| InvalidSchema::Json(error.to_string()))?;
        let mut options = jsonschema::options();
        if let Some(draft) = default.filter(|_| schema.get("$schema").is_none()) {
            options = options.with_draft(draft);
        }
        let validator = options
            // A schema that is loaded anew at each start could change between two of them, and the network or the
            // other host would decide on whether a validator starts.
            .with_retriever(References::new(&schema, references))
            // The default engine backtracks: one order could hold up its partition for as long as it liked.
            .with_pattern_options(
                PatternOptions::regex()
                    .size_limit(PATTERN_BYTES_MAX)
                    .dfa_size_limit(PATTERN_BYTES_MAX),
            )
            .build(&schema)
            .map_err(|error| invalid(&error))?;
        Ok(Self {
            text: text.into(),
            validator,
        })
    }

    /// Checks an order.
    ///
    /// # Errors
    /// Explains the first violation: the place in the order, the keyword of the schema, and what it asks for. It has
    /// names of the order and no values, which may be a customer's data.
    pub fn check(&self, order: &Value) -> Result<(), String> {
        self.validator.validate(order).map_err(|error| {
            format!(
                "the order does not conform to the schema at {:?} ({}): {}",
                shown(error.instance_path().as_str(), PLACE_MAX),
                error.kind().keyword(),
                shown(&expected(&error), MESSAGE_MAX),
            )
        })
    }
}

/// Schemas that a schema may refer to. Nothing else is loaded.
struct References(Vec<Named>);

/// Schema with a name.
struct Named {
    /// URI that the name is in the schema that refers to it.
    uri: Option<Uri<String>>,
    name: String,
    schema: Value,
}

/// Base of the names in a schema without an `$id`, as the library has it.
const DEFAULT_BASE: &str = "json-schema:///";

impl References {
    fn new(root: &Value, references: Vec<(String, Value)>) -> Self {
        let id = root.get("$id").or_else(|| root.get("id")).and_then(Value::as_str);
        let base = uri::from_str(id.unwrap_or(DEFAULT_BASE)).ok();
        let named = |(name, schema): (String, Value)| Named {
            uri: base
                .as_ref()
                .and_then(|base| uri::resolve_against(&base.borrow(), &name).ok()),
            name,
            schema,
        };
        Self(references.into_iter().map(named).collect())
    }
}

impl Retrieve for References {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let by_uri = |named: &&Named| named.uri.as_ref() == Some(uri);
        let uri = uri.as_str();
        // Of a schema that has a URI of its own, or is referred to by a reference.
        let is_named = |name: &str| {
            uri.strip_suffix(name)
                .is_some_and(|base| base.is_empty() || base.ends_with('/'))
        };
        let by_name = || {
            let found = self.0.iter().filter(|named| is_named(&named.name));
            found.max_by_key(|named| named.name.len())
        };
        self.0
            .iter()
            .find(by_uri)
            .or_else(by_name)
            .map(|named| named.schema.clone())
            .ok_or_else(|| format!("{uri} is no part of it").into())
    }
}

/// Returns what a keyword asks for, without the value that it refuses.
fn expected(error: &ValidationError<'_>) -> String {
    match error.kind() {
        // The library masks the outer value alone, and here it is the name that is refused.
        ValidationErrorKind::PropertyNames { error } => expected(error),
        // Free text, which may quote anything.
        ValidationErrorKind::Custom { .. } | ValidationErrorKind::FromUtf8 { .. } => {
            "value is not valid".to_owned()
        }
        _ => error.masked().to_string(),
    }
}

fn invalid(error: &ValidationError<'_>) -> InvalidSchema {
    // An error of compilation has the place as the path of the keyword, one of the meta-schema as that of the value.
    let path = match error.instance_path().as_str() {
        "" => error.schema_path().as_str(),
        path => path,
    };
    let place = shown(path, PLACE_MAX);
    match error.kind() {
        ValidationErrorKind::Referencing(error) => {
            InvalidSchema::Reference(shown(&error.to_string(), MESSAGE_MAX))
        }
        ValidationErrorKind::Format { format } if format == "regex" => InvalidSchema::Pattern {
            place,
            pattern: shown(&error.instance().to_string(), MESSAGE_MAX),
        },
        _ => InvalidSchema::Invalid {
            place,
            message: shown(&error.to_string(), MESSAGE_MAX),
        },
    }
}

/// Returns the start of a text, on one line.
fn shown(text: &str, max: usize) -> String {
    let printable = |char: char| if char.is_control() { '\u{fffd}' } else { char };
    text.chars().take(max).map(printable).collect()
}

/// By the text.
impl PartialEq for OrderSchema {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for OrderSchema {}

impl fmt::Debug for OrderSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OrderSchema").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
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

    fn violation(schema: &OrderSchema, order: &str) -> Option<String> {
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
        let with_id = |name: &str| {
            format!(r#"{{"$id":"https://shop.example/order.json","allOf":[{{"$ref":"{name}"}}]}}"#)
        };
        check(&with_id("/schemas/party.json"), &["/schemas/party.json"], 0);
        check(&with_id("../party.json"), &["../party.json"], 0);
        let other = "https://other.example/a/party.json";
        check(&with_id("party.json"), &[other, "a/party.json", "party.json"], 2);
        check(&with_id("a/party.json"), &["a/party.json", other], 0);
        // The more exact name, where the longer one is a suffix as well.
        check(
            &with_id("https://shop.example/a/b.json"),
            &["/x/../a/b.json", "a/b.json"],
            0,
        );
        // A schema may be referred to by a URI that only it has.
        check(
            r#"{"$ref":"https://shop.example/party.json"}"#,
            &["party.json"],
            0,
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
        // For each level of the order, twenty levels of the schema.
        let chain: String = (0..20)
            .map(|link| {
                format!(
                    "\"{link}\":{{\"allOf\":[{{\"$ref\":\"#/$defs/{}\"}}]}},",
                    link + 1
                )
            })
            .collect();
        let schema = compile(&format!(
            r##"{{"$ref":"#/$defs/0","$defs":{{{chain}
                "20":{{"anyOf":[
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
}
