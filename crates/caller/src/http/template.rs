//! Text with places for what an order says: `{order_id}`, `{idempotency_key}`, and `{/customer/name}` for a
//! field of the order by its JSON pointer.
//!
//! What stands in a place is written in the language around it: percent-encoded in a URL, escaped in XML, as
//! JSON in JSON. Numbers keep every digit that they came with.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

/// A template that was read, and can be filled for each order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
    /// A place within the quotes of a JSON text.
    Quoted(Place),
}

/// What may stand in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The order's id.
    OrderId,
    /// The idempotency key.
    IdempotencyKey,
    /// A field of the order, by JSON pointer.
    Field(String),
}

/// The language around the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// A URL: all but RFC 3986's unreserved characters are percent-encoded.
    Url,
    /// The value of a header: as it is.
    Header,
    /// A JSON body: values as they are, or, within quotes, as a part of the text.
    Json,
    /// The body of a form: percent-encoded.
    Form,
    /// An XML body: escaped.
    Xml,
    /// Any other body: as it is.
    Text,
}

/// What a template is filled from.
pub(crate) struct Facts<'a> {
    pub(crate) order_id: &'a str,
    pub(crate) idempotency_key: &'a str,
    /// The order's JSON.
    pub(crate) order: &'a str,
}

impl Template {
    /// Reads a template. In bodies a brace that begins no place is text; elsewhere it is doubled to be text.
    ///
    /// # Errors
    /// Says what is no place, and where.
    pub(crate) fn new(text: &str, language: Language) -> Result<Self, String> {
        let is_body = match language {
            Language::Url | Language::Header => false,
            Language::Json | Language::Form | Language::Xml | Language::Text => true,
        };
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        let mut quotes = Quotes::default();
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            quotes.pass(before);
            let doubled = !is_body && (from.starts_with("{{") || from.starts_with("}}"));
            if doubled {
                plain.push_str(&from[..1]);
                rest = &from[2..];
                continue;
            }
            match place(from, is_body)
                .map_err(|why| format!("{why} (at byte {})", text.len() - from.len()))?
            {
                Some((place, after)) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(match quotes.is_open && language == Language::Json {
                        true => Part::Quoted(place),
                        false => Part::Place(place),
                    });
                    rest = after;
                }
                None => {
                    plain.push_str(&from[..1]);
                    rest = &from[1..];
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Whether it is the same for all orders.
    pub(crate) fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The text for an order.
    ///
    /// # Errors
    /// A field is missing, or cannot stand where the template has it.
    pub(crate) fn fill(&self, facts: &Facts<'_>, language: Language) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Place(place) => write(&mut text, place, facts, language)?,
                Part::Quoted(place) => {
                    let json =
                        serde_json::to_string(&place.text(facts)?).map_err(|error| error.to_string())?;
                    text.push_str(&json[1..json.len() - 1]);
                }
            }
        }
        Ok(text)
    }
}

/// The place at the beginning of the text, and what comes after it; `None` if the brace is text.
fn place(from: &str, is_body: bool) -> Result<Option<(Place, &str)>, String> {
    let inside = from.strip_prefix('{').and_then(|inside| inside.split_once('}'));
    let Some((name, after)) = inside else {
        return match is_body {
            true => Ok(None),
            false => Err("a brace that begins or ends no place must be doubled".into()),
        };
    };
    let is_word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let place = match name {
        "order_id" => Place::OrderId,
        "idempotency_key" => Place::IdempotencyKey,
        _ if name.starts_with('/') => Place::Field(pointer(name)?),
        _ if is_body && !is_word => return Ok(None),
        _ => {
            return Err(format!(
                "{{{name}}} is no place; there are {{order_id}}, {{idempotency_key}}, and fields of the order such \
                 as {{/customer_id}}"
            ));
        }
    };
    Ok(Some((place, after)))
}

fn pointer(name: &str) -> Result<String, String> {
    let is_escaped = name.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    match is_escaped {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "{{{name}}} is no JSON pointer: ~ must be followed by 0 or 1"
        )),
    }
}

impl Place {
    /// What stands in the place, as text.
    fn text<'a>(&self, facts: &Facts<'a>) -> Result<Cow<'a, str>, String> {
        let raw = match self {
            Self::OrderId => return Ok(Cow::Borrowed(facts.order_id)),
            Self::IdempotencyKey => return Ok(Cow::Borrowed(facts.idempotency_key)),
            Self::Field(pointer) => field(facts.order, pointer)?,
        };
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(raw)
                .map(Cow::Owned)
                .map_err(|error| error.to_string()),
            Some(b'{' | b'[' | b'n') | None => Err(format!(
                "the order's field {} is {raw:.40}, which cannot stand in a text",
                self.name()
            )),
            // A number, digit by digit, or a boolean.
            Some(_) => Ok(Cow::Borrowed(raw)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::OrderId => "order_id",
            Self::IdempotencyKey => "idempotency_key",
            Self::Field(pointer) => pointer,
        }
    }
}

fn write(to: &mut String, place: &Place, facts: &Facts<'_>, language: Language) -> Result<(), String> {
    match (language, place) {
        (Language::Json, Place::Field(pointer)) => to.push_str(field(facts.order, pointer)?),
        (Language::Json, Place::OrderId | Place::IdempotencyKey) => {
            to.push_str(&serde_json::to_string(&place.text(facts)?).map_err(|error| error.to_string())?);
        }
        (Language::Url, _) => {
            let text = place.text(facts)?;
            // They would lead to another resource; dots also when they are encoded.
            if matches!(&*text, "" | "." | "..") {
                return Err(format!(
                    "{} is {text:?}, which cannot stand in a URL",
                    place.name()
                ));
            }
            percent_encode(to, &text);
        }
        (Language::Form, _) => percent_encode(to, &place.text(facts)?),
        (Language::Xml, _) => xml_escape(to, &place.text(facts)?, place.name())?,
        (Language::Header | Language::Text, _) => to.push_str(&place.text(facts)?),
    }
    Ok(())
}

/// The JSON of a field, as it was written.
fn field<'a>(order: &'a str, pointer: &str) -> Result<&'a str, String> {
    let missing = || format!("the order has no field {pointer}");
    let mut at: &'a str = order;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        let inner: Option<&'a RawValue> = match at.trim_ascii_start().as_bytes().first() {
            Some(b'{') => {
                let fields: HashMap<String, &'a RawValue> =
                    serde_json::from_str(at).map_err(|error| error.to_string())?;
                fields.get(&name).copied()
            }
            Some(b'[') => {
                let items: Vec<&'a RawValue> = serde_json::from_str(at).map_err(|error| error.to_string())?;
                name.parse().ok().and_then(|at: usize| items.get(at).copied())
            }
            _ => None,
        };
        at = inner.ok_or_else(missing)?.get();
    }
    Ok(at)
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(super) fn percent_encode(to: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(to, "%{byte:02X}");
            }
        }
    }
}

fn xml_escape(to: &mut String, text: &str, name: &str) -> Result<(), String> {
    for character in text.chars() {
        match character {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&apos;"),
            '\t' | '\n' | '\r' => to.push(character),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {
                return Err(format!(
                    "{name} holds the character {character:?}, which XML cannot hold"
                ));
            }
            _ => to.push(character),
        }
    }
    Ok(())
}

/// Whether a place in JSON stands within quotes.
#[derive(Default)]
struct Quotes {
    is_open: bool,
    is_escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_open => self.is_escaped = true,
                b'"' => self.is_open = !self.is_open,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r#"{"order_id":"a/1","amount":9007199254740993,"rate":1.50,"paid":true,"note":"<\"Ü\">",
        "customer":{"name":"x y","tags":["t0","t1"],"a/b":{"~":null}}}"#;

    fn fill(text: &str, language: Language) -> Result<String, String> {
        let facts = Facts {
            order_id: "a/1",
            idempotency_key: "k&1",
            order: ORDER,
        };
        Template::new(text, language)?.fill(&facts, language)
    }

    fn check(text: &str, language: Language, expected: &str) {
        assert_eq!(fill(text, language).as_deref(), Ok(expected), "{text}");
    }

    fn refused(text: &str, language: Language, names: &str) {
        let why = fill(text, language).expect_err(names);
        assert!(why.contains(names), "{text}: {why}");
    }

    #[test]
    fn a_place_is_written_in_the_language_around_it() {
        check(
            "http://h/{order_id}/{/customer/name}?k={idempotency_key}",
            Language::Url,
            "http://h/a%2F1/x%20y?k=k%261",
        );
        check("{/customer/tags/1}; {{x}}", Language::Header, "t1; {x}");
        check(
            r#"{"id":{order_id},"amount":{/amount},"rate":{/rate},"to":{/customer/tags},"ref":"R-{order_id}-{/note}","x":{}}"#,
            Language::Json,
            r#"{"id":"a/1","amount":9007199254740993,"rate":1.50,"to":["t0","t1"],"ref":"R-a/1-<\"Ü\">","x":{}}"#,
        );
        check(
            "a={/amount}&n={/note}",
            Language::Form,
            "a=9007199254740993&n=%3C%22%C3%9C%22%3E",
        );
        check(
            "<p paid=\"{/paid}\">{/note} {idempotency_key}</p>",
            Language::Xml,
            "<p paid=\"true\">&lt;&quot;Ü&quot;&gt; k&amp;1</p>",
        );
        check("{/note} {", Language::Text, "<\"Ü\"> {");
        check("{/customer/a~1b/~0}", Language::Json, "null");
    }

    #[test]
    fn a_field_that_is_missing_or_fits_nowhere_is_refused_by_name() {
        refused("{/nothing}", Language::Json, "the order has no field /nothing");
        refused("{/customer/tags/2}", Language::Header, "/customer/tags/2");
        refused("{/amount/x}", Language::Header, "/amount/x");
        refused("{/customer}", Language::Header, "cannot stand in a text");
        refused("\"{/customer/a~1b/~0}\"", Language::Json, "null");
        refused("{/customer/tags}", Language::Url, "cannot stand");
    }

    #[test]
    fn a_malformed_template_is_refused() {
        for language in [Language::Url, Language::Header] {
            refused("x{", language, "doubled (at byte 1)");
            refused("x}y", language, "doubled");
            refused("{}", language, "no place");
        }
        for language in [Language::Url, Language::Header, Language::Json, Language::Text] {
            refused("{order}", language, "{order} is no place");
            refused("{/a~2}", language, "no JSON pointer");
        }
    }

    #[test]
    fn dots_and_nothing_lead_nowhere_else() {
        for order_id in ["", ".", ".."] {
            let facts = Facts {
                order_id,
                idempotency_key: "k",
                order: "{}",
            };
            let template = Template::new("http://h/{order_id}", Language::Url).expect("a template");
            assert!(template.fill(&facts, Language::Url).is_err(), "{order_id:?}");
        }
    }
}
