//! Graph of the subschemas of a JSON Schema, and of the edges along which it checks a value.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use jsonschema::{Draft, Uri};
use referencing::{Registry, Resolver, ResourceRef};
use serde_json::{Map, Value};

/// Maximum number of subschemas, with those of all schemas that a schema refers to.
const SUBSCHEMAS_MAX: usize = 100_000;

/// Number of a subschema in its graph.
pub(super) type Id = usize;

/// Subschemas that a schema can lead to, the schema itself first.
pub(super) struct Graph {
    subschemas: Vec<Subschema>,
}

/// Subschema, with its edges to others.
#[derive(Default)]
pub(super) struct Subschema {
    /// Reference through which it was found, itself or what it is a part of.
    pub(super) found_at: Rc<str>,
    /// URI that its references are relative to.
    pub(super) base: Option<Arc<Uri<String>>>,
    /// Subschemas that are applied to the same value.
    pub(super) same_value: Vec<Id>,
    /// Subschemas that are applied to the same value by a reference.
    pub(super) referred: Vec<Id>,
    /// Subschemas that a reference may lead to, by the way that has led there.
    pub(super) dynamic: Vec<Id>,
    /// Subschemas that are applied to members or elements of the value.
    pub(super) inner: Vec<Id>,
    /// Number of its keywords that ask which members or elements the others have checked.
    pub(super) unevaluated: u64,
}

impl Subschema {
    /// Returns all subschemas that are applied to the same value.
    pub(super) fn in_place(&self) -> impl Iterator<Item = Id> {
        let edges = self.same_value.iter().chain(&self.referred);
        edges.chain(&self.dynamic).copied()
    }
}

/// Graph that is too large. The text says in which way.
#[derive(Debug)]
pub(super) struct TooLarge(pub(super) String);

impl Graph {
    /// Follows a schema of this draft and base URI. References that lead nowhere have no edge: the library refuses them.
    ///
    /// # Errors
    /// There are too many subschemas.
    pub(super) fn of(registry: &Registry<'_>, base: Uri<String>, draft: Draft) -> Result<Self, TooLarge> {
        let mut builder = Builder::default();
        let resolver = registry.resolver(base);
        if let Ok(root) = resolver.lookup("#") {
            let found = Found {
                contents: root.contents(),
                resolver: resolver.clone(),
                draft,
                found_at: "#".into(),
            };
            builder.add(found);
        }
        while let Some((id, found)) = builder.open.pop() {
            if builder.subschemas.len() > SUBSCHEMAS_MAX {
                return Err(TooLarge(format!(
                    "the schema and those that it refers to have more than {SUBSCHEMAS_MAX} subschemas. Split it"
                )));
            }
            builder.follow(id, &found);
        }
        Ok(builder.finish())
    }

    /// Returns the number of subschemas.
    pub(super) fn len(&self) -> usize {
        self.subschemas.len()
    }

    /// Returns a subschema.
    pub(super) fn get(&self, id: Id) -> &Subschema {
        &self.subschemas[id]
    }
}

/// Subschema that was found and not followed yet.
struct Found<'r> {
    contents: &'r Value,
    resolver: Resolver<'r>,
    draft: Draft,
    found_at: Rc<str>,
}

#[derive(Default)]
struct Builder<'r> {
    subschemas: Vec<Subschema>,
    /// By the address of the subschema and the URI that its references are relative to.
    known: HashMap<(usize, Arc<Uri<String>>), Id>,
    open: Vec<(Id, Found<'r>)>,
    /// Subschemas with a `$dynamicAnchor`, or with a `$recursiveAnchor` under the name `""`.
    anchors: BTreeMap<String, Vec<Id>>,
    /// References to them.
    dynamic: Vec<(Id, String)>,
}

impl<'r> Builder<'r> {
    /// Returns the number of a subschema.
    fn add(&mut self, found: Found<'r>) -> Id {
        let key = (
            std::ptr::from_ref(found.contents) as usize,
            found.resolver.base_uri(),
        );
        if let Some(id) = self.known.get(&key) {
            return *id;
        }
        let id = self.subschemas.len();
        self.subschemas.push(Subschema {
            found_at: Rc::clone(&found.found_at),
            base: Some(found.resolver.base_uri()),
            ..Subschema::default()
        });
        self.known.insert(key, id);
        self.open.push((id, found));
        id
    }

    /// Adds the edges of a subschema.
    fn follow(&mut self, id: Id, found: &Found<'r>) {
        let Value::Object(schema) = found.contents else {
            return;
        };
        let has_siblings = !matches!(found.draft, Draft::Draft4 | Draft::Draft6 | Draft::Draft7);
        if let Some(Value::String(reference)) = schema.get("$ref") {
            self.refer(id, found, reference);
            // Which these drafts ignore.
            if !has_siblings {
                return;
            }
        }
        self.follow_dynamic(id, found, schema);
        for (keyword, value) in schema {
            let (subschemas, place) = applied(keyword, value);
            if keyword.starts_with("unevaluated") {
                self.subschemas[id].unevaluated += 1;
            }
            for subschema in subschemas {
                let Some(subschema) = self.part(found, subschema) else {
                    continue;
                };
                match place {
                    Applied::SameValue => self.subschemas[id].same_value.push(subschema),
                    Applied::Inner => self.subschemas[id].inner.push(subschema),
                    // To be known if a dynamic reference can lead there.
                    Applied::Nowhere => {}
                }
            }
        }
    }

    /// Adds the edges of dynamic references.
    fn follow_dynamic(&mut self, id: Id, found: &Found<'r>, schema: &Map<String, Value>) {
        if let Some(Value::String(name)) = schema.get("$dynamicAnchor") {
            self.anchors.entry(name.clone()).or_default().push(id);
        }
        if schema.get("$recursiveAnchor") == Some(&Value::Bool(true)) {
            self.anchors.entry(String::new()).or_default().push(id);
        }
        if let Some(Value::String(reference)) = schema.get("$dynamicRef") {
            self.refer(id, found, reference);
            let name = reference.rsplit_once('#').map_or("", |(_, name)| name);
            self.dynamic.push((id, name.to_owned()));
        }
        if schema.contains_key("$recursiveRef") {
            self.refer(id, found, "#");
            self.dynamic.push((id, String::new()));
        }
    }

    /// Adds the edge of a reference.
    fn refer(&mut self, id: Id, found: &Found<'r>, reference: &str) {
        // The library checks nothing by an empty reference.
        if reference.is_empty() {
            return;
        }
        let Ok(resolved) = found.resolver.lookup(reference) else {
            return;
        };
        let (contents, resolver, draft) = resolved.into_inner();
        let found_at: Rc<str> = reference.into();
        // An anchor can be anywhere in the other schema.
        if let Ok(root) = resolver.lookup("#") {
            self.add(Found {
                contents: root.contents(),
                resolver: resolver.clone(),
                draft: root.into_inner().2,
                found_at: Rc::clone(&found_at),
            });
        }
        let target = self.add(Found {
            contents,
            resolver,
            draft,
            found_at,
        });
        self.subschemas[id].referred.push(target);
    }

    /// Returns the number of a part of a subschema; `None` if it can have no edges, or its URI is none.
    fn part(&mut self, found: &Found<'r>, contents: &'r Value) -> Option<Id> {
        let draft = found.draft.detect(contents);
        let resource = ResourceRef::new(contents, draft);
        Some(self.add(Found {
            contents,
            resolver: found.resolver.in_subresource(resource).ok()?,
            draft,
            found_at: Rc::clone(&found.found_at),
        }))
    }

    fn finish(mut self) -> Graph {
        // One between, as many references times many anchors would be too many edges.
        let mut between = HashMap::new();
        for (name, anchors) in std::mem::take(&mut self.anchors) {
            between.insert(name, self.subschemas.len());
            self.subschemas.push(Subschema {
                found_at: "a dynamic anchor".into(),
                dynamic: anchors,
                ..Subschema::default()
            });
        }
        for (id, name) in std::mem::take(&mut self.dynamic) {
            self.subschemas[id].dynamic.extend(between.get(&name));
        }
        Graph {
            subschemas: self.subschemas,
        }
    }
}

/// Value that a subschema is applied to.
#[derive(Clone, Copy)]
enum Applied {
    SameValue,
    Inner,
    Nowhere,
}

/// Returns the subschemas in a keyword, of any draft, and what they are applied to.
fn applied<'r>(keyword: &str, value: &'r Value) -> (Vec<&'r Value>, Applied) {
    let one = || vec![value];
    let elements = || value.as_array().into_iter().flatten().collect();
    let members = || value.as_object().into_iter().flat_map(Map::values).collect();
    match keyword {
        "allOf" | "anyOf" | "oneOf" => (elements(), Applied::SameValue),
        "not" | "if" | "then" | "else" => (one(), Applied::SameValue),
        "dependentSchemas" | "dependencies" => (members(), Applied::SameValue),
        "items" if value.is_array() => (elements(), Applied::Inner),
        "prefixItems" => (elements(), Applied::Inner),
        "properties" | "patternProperties" => (members(), Applied::Inner),
        "items"
        | "additionalItems"
        | "additionalProperties"
        | "contains"
        | "propertyNames"
        | "unevaluatedItems"
        | "unevaluatedProperties" => (one(), Applied::Inner),
        "$defs" | "definitions" => (members(), Applied::Nowhere),
        _ => (Vec::new(), Applied::Nowhere),
    }
}
