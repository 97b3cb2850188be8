//! What the registry has said of each schema id, and the reading of values by it.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::schema::{Schema, Unusable};
use crate::wire::{self, SchemaId};

/// Limits of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Maximum number of ids that are remembered; the one that was not used for the longest time is forgotten first.
    pub ids_max: usize,
    /// Time for which an id is remembered as unknown.
    pub unknown_for: Duration,
}

/// Answer of the registry on a schema id.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The schema.
    Known(Arc<Schema>),
    /// The schema, by which nothing can be read.
    Unusable(Unusable),
    /// The registry has no schema with this id. The text says who has said so.
    Unknown(String),
}

/// Value that no schema has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The schema is not known yet. To be asked for, and the value to be read again.
    Needs(SchemaId),
    /// The value is not in the wire format, or no value of its schema.
    Invalid(String),
    /// The registry does not have the schema.
    UnknownSchema(String),
    /// The registry has the schema, by which nothing can be read.
    UnusableSchema(String),
}

/// Document of a value, or why it has none.
pub type Reading<'a> = Result<Cow<'a, str>, Unread>;

/// Schemas by id, as far as the registry has been asked for them.
#[derive(Debug)]
pub struct Schemas {
    limits: CacheLimits,
    known: HashMap<SchemaId, Remembered>,
    /// Number of readings and answers, by which the least recently used schema is found.
    readings: Cell<u64>,
}

#[derive(Debug)]
struct Remembered {
    answer: Answer,
    /// Time until which an unknown id counts as unknown.
    until: Option<Instant>,
    used: Cell<u64>,
}

impl Schemas {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            known: HashMap::new(),
            readings: Cell::new(0),
        }
    }

    /// Reads a value in the wire format. `has_id_header` says that the record has the header
    /// [`wire::VALUE_SCHEMA_ID`].
    ///
    /// # Errors
    /// The schema is needed, or why the value cannot be read. The text quotes nothing of the value.
    pub fn read<'a>(&self, value: &'a [u8], has_id_header: bool, now: Instant) -> Reading<'a> {
        // Such a value has no id in front of it, and its own first byte may be 0.
        if has_id_header {
            return Err(Unread::Invalid(format!(
                "the record has the header {:?}: its producer writes the id of the schema there, which is not read here. \
                 Have it write the id in front of the value, as serializers do by default",
                wire::VALUE_SCHEMA_ID
            )));
        }
        let Some((id, payload)) = wire::split(value) else {
            return Err(Unread::Invalid(
                "the value does not begin with a byte 0 and the four bytes of a schema id, as schema_registry.urls asks \
                 for: its producer uses no serializer of a schema registry"
                    .into(),
            ));
        };
        let Some(remembered) = self.known.get(&id).filter(|known| known.is_valid(now)) else {
            return Err(Unread::Needs(id));
        };
        self.readings.set(self.readings.get() + 1);
        remembered.used.set(self.readings.get());
        match &remembered.answer {
            Answer::Known(schema) => schema
                .read(payload)
                .map_err(|why| Unread::Invalid(format!("the value cannot be read by schema {id}: {why}"))),
            Answer::Unusable(why) => Err(Unread::UnusableSchema(format!(
                "schema {id} of the registry cannot be used: {why}"
            ))),
            Answer::Unknown(why) => Err(Unread::UnknownSchema(format!(
                "the registry has no schema {id}: {why}"
            ))),
        }
    }

    /// Remembers the answer on an id.
    pub fn insert(&mut self, id: SchemaId, answer: Answer, now: Instant) {
        if !self.known.contains_key(&id) && self.known.len() >= self.limits.ids_max {
            let oldest = self
                .known
                .iter()
                .min_by_key(|(_, known)| (known.is_valid(now), known.used.get()));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.known.remove(&oldest);
            }
        }
        let until = match &answer {
            // It may be registered later. A schema that exists never changes.
            Answer::Unknown(_) => Some(now + self.limits.unknown_for),
            Answer::Known(_) | Answer::Unusable(_) => None,
        };
        // As if it had just been used: the record that waits for it is read next.
        // One more than any: of two with the same number either could be forgotten.
        self.readings.set(self.readings.get() + 1);
        let used = self.readings.clone();
        self.known.insert(id, Remembered { answer, until, used });
    }

    /// Returns the number of ids that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns `true` if no id is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

impl Remembered {
    fn is_valid(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Format, SchemaText};

    const LIMITS: CacheLimits = CacheLimits {
        ids_max: 2,
        unknown_for: Duration::from_secs(10),
    };

    fn value(id: u32, payload: &[u8]) -> Vec<u8> {
        [&[0], &id.to_be_bytes()[..], payload].concat()
    }

    fn schema(text: &str) -> Answer {
        let text = SchemaText {
            format: Format::Avro,
            text: text.into(),
            references: Vec::new(),
        };
        Answer::Known(Arc::new(Schema::parse(&text).expect("a schema")))
    }

    #[test]
    fn schema_is_needed_until_it_is_known() {
        let (mut schemas, now) = (Schemas::new(LIMITS), Instant::now());
        let value = value(7, &[2]);
        let needed = Err(Unread::Needs(SchemaId(7)));
        assert_eq!(schemas.read(&value, false, now), needed);
        schemas.insert(SchemaId(7), schema("\"long\""), now);
        assert_eq!(schemas.read(&value, false, now), Ok("1".into()));
    }

    #[test]
    fn unknown_schema_is_asked_for_again() {
        let (mut schemas, now) = (Schemas::new(LIMITS), Instant::now());
        schemas.insert(SchemaId(7), Answer::Unknown("40403".into()), now);
        let value = value(7, &[2]);
        let read = |schemas: &Schemas, seconds| {
            schemas
                .read(&value, false, now + Duration::from_secs(seconds))
                .expect_err("no schema")
        };
        assert_eq!(
            read(&schemas, 9),
            Unread::UnknownSchema("the registry has no schema 7: 40403".into())
        );
        assert_eq!(read(&schemas, 10), Unread::Needs(SchemaId(7)));
        schemas.insert(SchemaId(7), schema("\"long\""), now);
        assert_eq!(schemas.read(&value, false, now), Ok("1".into()));
    }

    #[test]
    fn least_recently_used_schema_is_forgotten() {
        let (mut schemas, now) = (Schemas::new(LIMITS), Instant::now());
        let read = |schemas: &Schemas, id| schemas.read(&value(id, &[2]), false, now).map(Cow::into_owned);
        for id in [1, 2] {
            schemas.insert(SchemaId(id), schema("\"long\""), now);
        }
        assert_eq!(read(&schemas, 1), Ok("1".into()));
        schemas.insert(SchemaId(3), schema("\"long\""), now);
        assert_eq!(schemas.len(), 2);
        assert_eq!(read(&schemas, 2), Err(Unread::Needs(SchemaId(2))));
        for id in [1, 3] {
            assert_eq!(read(&schemas, id), Ok("1".into()), "{id}");
        }
    }

    #[test]
    fn other_values_are_refused() {
        let (mut schemas, now) = (Schemas::new(LIMITS), Instant::now());
        schemas.insert(SchemaId(7), schema("\"string\""), now);
        schemas.insert(SchemaId(8), Answer::Unusable(Unusable("no Avro".into())), now);
        let refused = |value: &[u8], has_header| match schemas.read(value, has_header, now) {
            Err(Unread::Invalid(why) | Unread::UnusableSchema(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(br#"{"order_id":"o-1"}"#, false).contains("does not begin"));
        assert!(refused(&value(7, b"\x02a"), true).contains("__value_schema_id"));
        let secret = refused(&value(7, b"\x06\xff\xfeIBAN"), false);
        assert!(
            secret.contains("schema 7") && !secret.contains("IBAN"),
            "{secret}"
        );
        assert_eq!(
            refused(&value(8, b""), false),
            "schema 8 of the registry cannot be used: no Avro"
        );
    }
}
