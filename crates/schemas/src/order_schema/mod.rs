//! JSON Schema that orders must conform to, and the explanation of a violation.

mod references;

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use records::parse_tree;
use serde_json::Value;

use self::references::References;
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
mod tests;
