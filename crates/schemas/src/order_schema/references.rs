//! Schemas that a JSON Schema may refer to.

use std::collections::HashMap;
use std::sync::Arc;

use jsonschema::{Retrieve, Uri, uri};
use serde_json::Value;

/// Base of the names in a schema without an `$id`, as the library has it.
pub(super) const DEFAULT_BASE: &str = "json-schema:///";
/// Maximum number of URIs that names can mean within one another.
const URIS_MAX: usize = 1_024;

/// Schemas that a schema may refer to, by the URIs that mean them. Nothing else is loaded.
///
/// A reference has a name, and a schema refers to it by a URI. Serializers resolve all names against the `$id` of the
/// schema that is read by. Here a schema is also found by its own `$id`, and by what its name means in another one that
/// refers to it; never by the end of its name alone, which could be another schema's.
#[derive(Clone)]
pub(super) struct References(Arc<HashMap<Uri<String>, Meant>>);

/// Schema that a URI means.
enum Meant {
    One(Arc<Value>),
    /// Several names mean it, of schemas that differ.
    Several,
}

impl References {
    /// Resolves the names in a schema.
    pub(super) fn new(root: &Value, references: Vec<(String, Value)>) -> Self {
        let named: Vec<(String, Arc<Value>)> = references
            .into_iter()
            .map(|(name, schema)| (name, Arc::new(schema)))
            .collect();
        let base = uri::from_str(id(root).unwrap_or(DEFAULT_BASE)).ok();
        let mut uris = Uris::default();
        let mut bases: Vec<_> = base.into_iter().collect();
        uris.add(resolved(&bases, &named));
        let own: Vec<_> = uris
            .found
            .iter()
            .filter_map(|(uri, schema)| own(uri, schema))
            .collect();
        bases = uris.found.iter().map(|(uri, _)| uri.clone()).collect();
        bases.extend(own.iter().map(|(uri, _)| uri.clone()));
        uris.add(own);
        // A schema that is referred to may refer to others, relative to itself.
        while !bases.is_empty() && uris.found.len() < URIS_MAX {
            let before = uris.found.len();
            uris.add(resolved(&bases, &named));
            bases = uris.found[before..].iter().map(|(uri, _)| uri.clone()).collect();
        }
        Self(Arc::new(uris.meant))
    }
}

/// URIs and the schemas that they mean.
#[derive(Default)]
struct Uris {
    meant: HashMap<Uri<String>, Meant>,
    /// In the order in which they were found.
    found: Vec<(Uri<String>, Arc<Value>)>,
}

impl Uris {
    /// Adds those that are new. What was added before is more exact, and stays.
    fn add(&mut self, found: impl IntoIterator<Item = (Uri<String>, Arc<Value>)>) {
        let before = self.found.len();
        for (uri, schema) in found {
            match self.meant.get_mut(&uri) {
                None if self.found.len() < URIS_MAX => {
                    self.meant.insert(uri.clone(), Meant::One(Arc::clone(&schema)));
                    self.found.push((uri, schema));
                }
                Some(meant) => {
                    let is_new = self.found[before..].iter().any(|(new, _)| *new == uri);
                    if is_new && matches!(meant, Meant::One(other) if *other != schema) {
                        *meant = Meant::Several;
                    }
                }
                None => {}
            }
        }
    }
}

/// Returns what each name means relative to each base.
fn resolved(bases: &[Uri<String>], named: &[(String, Arc<Value>)]) -> Vec<(Uri<String>, Arc<Value>)> {
    let of = |base: &Uri<String>| {
        let base = base.clone();
        named.iter().filter_map(move |(name, schema)| {
            let uri = uri::resolve_against(&base.borrow(), name).ok()?;
            Some((uri, Arc::clone(schema)))
        })
    };
    bases.iter().flat_map(of).take(URIS_MAX).collect()
}

/// Returns the URI that a schema gives itself.
fn own(retrieved_at: &Uri<String>, schema: &Arc<Value>) -> Option<(Uri<String>, Arc<Value>)> {
    let id = id(schema).filter(|id| !id.starts_with('#'))?;
    let uri = uri::resolve_against(&retrieved_at.borrow(), id).ok()?;
    Some((uri, Arc::clone(schema)))
}

/// Returns the `$id` of a schema (`id` in draft 4).
fn id(schema: &Value) -> Option<&str> {
    let id = schema.get("$id").or_else(|| schema.get("id"));
    id.and_then(Value::as_str).map(|id| id.trim_end_matches('#'))
}

impl Retrieve for References {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        match self.0.get(uri) {
            Some(Meant::One(schema)) => Ok(schema.as_ref().clone()),
            Some(Meant::Several) => {
                Err(format!("the names of several references that differ mean {uri}").into())
            }
            None => Err(format!("{uri} is no part of it, and no reference has a name that means it").into()),
        }
    }
}
