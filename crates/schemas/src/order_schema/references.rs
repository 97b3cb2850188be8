//! Schemas that a JSON Schema may refer to.

use std::sync::Arc;

use jsonschema::{Retrieve, Uri, uri};
use serde_json::Value;

/// Schemas that a schema may refer to. Nothing else is loaded.
#[derive(Clone)]
pub(super) struct References(Arc<[Named]>);

/// Schema with a name.
struct Named {
    /// URI that the name is in the schema that refers to it.
    uri: Option<Uri<String>>,
    name: String,
    schema: Value,
}

/// Base of the names in a schema without an `$id`, as the library has it.
pub(super) const DEFAULT_BASE: &str = "json-schema:///";

impl References {
    pub(super) fn new(root: &Value, references: Vec<(String, Value)>) -> Self {
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
