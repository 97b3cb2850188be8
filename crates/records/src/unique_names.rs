//! Check of a JSON value: no object in it has two members of one name. It finds the value at a JSON pointer, too.
//!
//! Of two members of one name parsers take the first or the last, so the validator could know an order by one of
//! them, and the API pay the other.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Depth from which on only the values on the pointer's path are checked.
// Below serde_json's recursion limit of 128, so that a deeply nested value is no error.
const DEPTH_MAX: usize = 100;
/// Number of names of an object up to which they are compared one by one, which is faster than hashing.
const COMPARED_MAX: usize = 16;

/// Names of one object.
#[derive(Default)]
pub(crate) struct Names<'de> {
    first: Vec<Cow<'de, str>>,
    more: HashSet<Cow<'de, str>>,
}

impl<'de> Names<'de> {
    /// Adds a name.
    ///
    /// # Errors
    /// The object has the name already.
    pub(crate) fn add<E: Error>(&mut self, name: Cow<'de, str>) -> Result<(), E> {
        let is_known = self.first.contains(&name) || self.more.contains(&name);
        if is_known {
            return Err(twice(&name));
        }
        if self.first.len() < COMPARED_MAX {
            self.first.push(name);
        } else {
            self.more.insert(name);
        }
        Ok(())
    }
}

/// Returns the error for a name that an object has already.
pub(crate) fn twice<E: Error>(name: &str) -> E {
    // The name comes from a producer and may be long.
    let shown: String = name.chars().take(64).collect();
    E::custom(format_args!("the name {shown:?} occurs twice in one object"))
}

/// String of the JSON, without a copy where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Checks a value, and finds the string or integer at a pointer below it.
pub(crate) struct Check<'p, 'f, 'de> {
    /// Pointer below this value; `None` if this value is not on its path.
    pub(crate) pointer: Option<&'p str>,
    /// String at the pointer, or digits of the integer there.
    pub(crate) found: &'f mut Option<Cow<'de, str>>,
    /// Number of values that this one is nested in.
    pub(crate) depth: usize,
}

impl<'de> Check<'_, '_, 'de> {
    /// Returns the check of a member.
    pub(crate) fn member(&mut self, name: &str) -> Check<'_, '_, 'de> {
        Check {
            pointer: below(self.pointer, name),
            found: &mut *self.found,
            depth: self.depth + 1,
        }
    }

    fn is_target(&self) -> bool {
        self.pointer == Some("")
    }
}

/// Returns what is left of a pointer below the member of this name or index; `None` if it leads elsewhere.
pub(crate) fn below<'p>(pointer: Option<&'p str>, name: &str) -> Option<&'p str> {
    let pointer = pointer?.strip_prefix('/')?;
    let end = pointer.find('/').unwrap_or(pointer.len());
    let (token, rest) = pointer.split_at(end);
    let is_same = if token.contains('~') {
        token.replace("~1", "/").replace("~0", "~") == name
    } else {
        token == name
    };
    is_same.then_some(rest)
}

impl<'de> DeserializeSeed<'de> for Check<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth >= DEPTH_MAX && self.pointer.is_none() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut names = Names::default();
        while let Some(Text(name)) = members.next_key()? {
            members.next_value_seed(self.member(&name))?;
            names.add(name)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            // Few orders have a pointer into an array.
            let pointer = self
                .pointer
                .and_then(|pointer| below(Some(pointer), &index.to_string()));
            let element = Check {
                pointer,
                found: &mut *self.found,
                depth: self.depth + 1,
            };
            if elements.next_element_seed(element)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        if self.is_target() {
            *self.found = Some(text.into());
        }
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.is_target() {
            *self.found = Some(text.to_owned().into());
        }
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        if self.is_target() {
            *self.found = Some(number.to_string().into());
        }
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        if self.is_target() {
            *self.found = Some(number.to_string().into());
        }
        Ok(())
    }

    // Never a key: 1 and 1.0 are the same number, and would be two keys.
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
