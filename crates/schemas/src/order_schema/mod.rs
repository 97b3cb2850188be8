//! JSON Schema that orders must conform to, and the explanation of a violation.
//!
//! | file | does |
//! | --- | --- |
//! | `references.rs` | finds the schemas that a schema may refer to |
//! | `graph.rs`, `bounds.rs` | refuse a schema that asks for too much work at one value |
//! | `counted.rs` | ends a check of an order that takes too much work in sum |

mod bounds;
mod counted;
mod graph;
mod references;

use std::fmt;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Registry, Retrieve, ValidationError, Validator, uri};
use records::parse_tree;
use serde_json::Value;

use self::bounds::Bounds;
use self::counted::{Allowance, Counted, Exhausted};
use self::graph::{Graph, TooLarge};
use self::references::{DEFAULT_BASE, References};
use crate::schema::Reference;

/// JSON Schema of an order.
pub struct OrderSchema {
    text: Box<str>,
    validator: Validator<Counted>,
    bounds: Bounds,
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
    /// One whose checks could take for ever, or overflow the stack.
    #[error("the schema asks for too much work: {0}")]
    Work(String),
}

/// Maximum number of steps of a check, besides those for each value of the order.
const STEPS_MAX: u64 = 1_000_000;
/// Maximum number of steps of a check for each value of the order.
const STEPS_PER_VALUE_MAX: u64 = 100;
/// Subschemas at one value that count as one step.
const APPLIED_PER_STEP: u64 = 256;
/// Maximum number of violations that are kept to explain one of them.
const VIOLATIONS_MAX: u64 = 10_000;
/// Maximum number of subschemas that a check is within at a time: each takes up to 500 bytes of the stack, and a
/// thread has two megabytes.
const NESTING_MAX: u64 = 2_000;

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
        let default = default.filter(|_| schema.get("$schema").is_none());
        let references = References::new(&schema, references);
        let bounds = bounds(&schema, &references, default)?;
        let mut options = jsonschema::options_for::<Counted>();
        if let Some(draft) = default {
            options = options.with_draft(draft);
        }
        let validator = options
            // A schema that is loaded anew at each start could change between two of them, and the network or the
            // other host would decide on whether a validator starts.
            .with_retriever(references)
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
            bounds,
        })
    }

    /// Checks an order.
    ///
    /// # Errors
    /// Explains the first violation: the place in the order, the keyword of the schema, and what it asks for. It has
    /// names of the order and no values, which may be a customer's data.
    pub fn check(&self, order: &Value) -> Result<(), String> {
        let size = Size::of(order);
        // The parts of the order are within one another, and at each the schema applies subschemas within one another.
        let nesting = self.bounds.chain.saturating_mul(size.levels + 1);
        if nesting > NESTING_MAX {
            return Err(format!(
                "the order cannot be checked: it has {} levels, and at each of them up to {} subschemas lead to one \
                 another, in sum more than {NESTING_MAX}",
                size.levels, self.bounds.chain
            ));
        }
        let steps = STEPS_MAX.saturating_add(size.values.saturating_mul(STEPS_PER_VALUE_MAX));
        let allowance = Allowance {
            steps,
            steps_per_value: 1 + self.bounds.applied / APPLIED_PER_STEP,
            violations: VIOLATIONS_MAX,
        };
        match counted::is_valid(&self.validator, order, allowance) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Exhausted) => {
                return Err(format!(
                    "the order cannot be checked in {steps} steps: at each of its levels the schema leads to the next \
                     in several ways (anyOf, oneOf, allOf, $ref)"
                ));
            }
        }
        // Only now, as the explanation of alternatives takes the library much more time and memory than the verdict.
        match counted::explain(&self.validator, order, allowance, violation) {
            Ok(Some(violation)) => Err(violation),
            Ok(None) | Err(Exhausted) => Err(
                "the order does not conform to the schema, which has too many alternatives for it to say where".into(),
            ),
        }
    }
}

/// Returns what a schema asks for at one value, with its draft if it names none.
fn bounds(schema: &Value, references: &References, default: Option<Draft>) -> Result<Bounds, InvalidSchema> {
    let draft = default.unwrap_or_else(|| Draft::default().detect(schema));
    let unchecked = Bounds { applied: 1, chain: 1 };
    let resource = referencing::ResourceRef::new(schema, draft);
    let Ok(base) = uri::from_str(resource.id().unwrap_or(DEFAULT_BASE)) else {
        // Which the library refuses, and says why.
        return Ok(unchecked);
    };
    let retriever: Arc<dyn Retrieve> = Arc::new(references.clone());
    let registry = Registry::new()
        .retriever(retriever)
        .draft(draft)
        .retrieve_known_draft_meta_schemas(default.is_none())
        .add(base.as_str(), resource)
        .and_then(jsonschema::RegistryBuilder::prepare);
    let Ok(registry) = registry else {
        // As above.
        return Ok(unchecked);
    };
    Graph::of(&registry, base, draft)
        .and_then(|graph| Bounds::of(&graph))
        .map_err(|TooLarge(why)| InvalidSchema::Work(why))
}

/// Size of an order.
struct Size {
    /// Number of values, with those in others; long texts are several.
    values: u64,
    /// Number of objects and arrays that are nested in one another.
    levels: u64,
}

impl Size {
    /// Of a tree from [`parse_tree`], which is not deep.
    fn of(value: &Value) -> Self {
        let mut of = Self { values: 1, levels: 0 };
        let mut add = |inner: &Value| {
            let inner = Self::of(inner);
            of.values += inner.values;
            of.levels = of.levels.max(inner.levels);
        };
        match value {
            Value::Array(elements) => elements.iter().for_each(&mut add),
            Value::Object(members) => members.values().for_each(&mut add),
            Value::String(text) => {
                of.values += counted::steps_of(text);
                return of;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => return of,
        }
        of.levels += 1;
        of
    }
}

/// Explains a violation.
fn violation(error: &ValidationError<'_>) -> String {
    format!(
        "the order does not conform to the schema at {:?} ({}): {}",
        shown(error.instance_path().as_str(), PLACE_MAX),
        error.kind().keyword(),
        shown(&expected(error), MESSAGE_MAX),
    )
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
mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod work_tests;
