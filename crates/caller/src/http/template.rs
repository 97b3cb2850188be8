//! Templates: text with the placeholders `{order_id}`, `{idempotency_key}`, and fields of the order by JSON
//! pointer, such as `{/customer/name}`.
//!
//! Values are escaped for the syntax around them: percent-encoded in a URL, escaped in XML, as JSON in JSON.
//! Numbers keep every digit of the order.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Parsed template, filled for each order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
    /// Placeholder inside a JSON string.
    Quoted(Placeholder),
}

/// Placeholder of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// `{order_id}`: id of the order.
    OrderId,
    /// `{idempotency_key}`: key of the pending call.
    IdempotencyKey,
    /// Field of the order, by JSON pointer.
    Field(String),
}

/// Escaping of values, by the syntax of the text around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escaping {
    /// URL: all but RFC 3986's unreserved characters are percent-encoded.
    Url,
    /// Header value: inserted unchanged.
    Header,
    /// JSON body: values as JSON, or, inside quotes, as part of the string.
    Json,
    /// Form body: percent-encoded like a URL.
    Form,
    /// XML body: XML entities.
    Xml,
    /// Any other body: inserted unchanged.
    Text,
}

/// Values that a template is filled with.
pub(crate) struct Facts<'a> {
    pub(crate) order_id: &'a str,
    pub(crate) idempotency_key: &'a str,
    /// JSON of the order.
    pub(crate) order: &'a str,
}

impl Template {
    /// Parses a template. In a body, a brace that starts no placeholder is text; elsewhere a literal brace is
    /// doubled.
    ///
    /// # Errors
    /// Names the unknown or malformed placeholder, with its byte offset.
    pub(crate) fn new(text: &str, escaping: Escaping) -> Result<Self, String> {
        let is_body = match escaping {
            Escaping::Url | Escaping::Header => false,
            Escaping::Json | Escaping::Form | Escaping::Xml | Escaping::Text => true,
        };
        // JSON and XML bodies are full of braces and quotes; doubling each of them would be error-prone.
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        let mut quotes = Quotes::default();
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            quotes.advance(before);
            let doubled = !is_body && (from.starts_with("{{") || from.starts_with("}}"));
            if doubled {
                plain.push_str(&from[..1]);
                rest = &from[2..];
                continue;
            }
            match placeholder(from, is_body)
                .map_err(|why| format!("{why} (at byte {})", text.len() - from.len()))?
            {
                Some((placeholder, after)) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(match quotes.is_open && escaping == Escaping::Json {
                        true => Part::Quoted(placeholder),
                        false => Part::Placeholder(placeholder),
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

    /// Reports whether the text is the same for all orders.
    pub(crate) fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Returns the text for an order.
    ///
    /// # Errors
    /// A field is missing, or its value is not allowed in this syntax.
    pub(crate) fn fill(&self, facts: &Facts<'_>, escaping: Escaping) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Placeholder(placeholder) => write(&mut text, placeholder, facts, escaping)?,
                Part::Quoted(placeholder) => {
                    let json = serde_json::to_string(&placeholder.text(facts)?)
                        .map_err(|error| error.to_string())?;
                    // Without its quotes, which the template has already.
                    text.push_str(&json[1..json.len() - 1]);
                }
            }
        }
        Ok(text)
    }
}

/// Parses the placeholder at the start of the text, and returns it with the rest; `None` if the brace is
/// text.
fn placeholder(from: &str, is_body: bool) -> Result<Option<(Placeholder, &str)>, String> {
    let inside = from.strip_prefix('{').and_then(|inside| inside.split_once('}'));
    let Some((name, after)) = inside else {
        return match is_body {
            true => Ok(None),
            false => Err("a brace that is not part of a placeholder must be doubled".into()),
        };
    };
    // In a body, `{total}` is a misspelt placeholder and an error, while `{ "a": 1 }` is JSON and text.
    let is_word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let placeholder = match name {
        "order_id" => Placeholder::OrderId,
        "idempotency_key" => Placeholder::IdempotencyKey,
        _ if name.starts_with('/') => Placeholder::Field(pointer(name)?),
        _ if is_body && !is_word => return Ok(None),
        _ => {
            return Err(format!(
                "{{{name}}} is not a placeholder; use {{order_id}}, {{idempotency_key}}, or a field of the \
                 order such as {{/customer_id}}"
            ));
        }
    };
    Ok(Some((placeholder, after)))
}

/// Checks the escapes of a JSON pointer (RFC 6901, section 3).
fn pointer(name: &str) -> Result<String, String> {
    let is_escaped = name.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    match is_escaped {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "{{{name}}} is not a JSON pointer: ~ must be followed by 0 or 1"
        )),
    }
}

impl Placeholder {
    /// Returns the value as text.
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
            // Objects, arrays and null have no one text form; "null" in a URL would name a resource.
            Some(b'{' | b'[' | b'n') | None => Err(format!(
                "the order's field {} is {raw:.40}, which cannot be written as text",
                self.name()
            )),
            // A number or a boolean, as written: parsing a number could change its digits.
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

fn write(
    to: &mut String,
    placeholder: &Placeholder,
    facts: &Facts<'_>,
    escaping: Escaping,
) -> Result<(), String> {
    match (escaping, placeholder) {
        (Escaping::Json, Placeholder::Field(pointer)) => to.push_str(field(facts.order, pointer)?),
        (Escaping::Json, Placeholder::OrderId | Placeholder::IdempotencyKey) => {
            to.push_str(
                &serde_json::to_string(&placeholder.text(facts)?).map_err(|error| error.to_string())?,
            );
        }
        (Escaping::Url, _) => {
            let text = placeholder.text(facts)?;
            // An empty or dotted path segment addresses another resource; URL parsers resolve dots even when
            // they are percent-encoded.
            if matches!(&*text, "" | "." | "..") {
                return Err(format!(
                    "{} is {text:?}, which is not allowed in a URL",
                    placeholder.name()
                ));
            }
            percent_encode(to, &text);
        }
        (Escaping::Form, _) => percent_encode(to, &placeholder.text(facts)?),
        (Escaping::Xml, _) => xml_escape(to, &placeholder.text(facts)?, placeholder.name())?,
        (Escaping::Header | Escaping::Text, _) => to.push_str(&placeholder.text(facts)?),
    }
    Ok(())
}

/// Returns the JSON of a field, unchanged.
fn field<'a>(order: &'a str, pointer: &str) -> Result<&'a str, String> {
    // Raw JSON instead of parsed values: a float would round amounts above 2^53.
    let missing = || format!("the order has no field {pointer}");
    let mut at: &'a str = order;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        let inner: Option<&'a RawValue> = match at.trim_ascii_start().as_bytes().first() {
            Some(b'{') => serde_json::Deserializer::from_str(at)
                .deserialize_map(Member { name: &name })
                .map_err(|error| error.to_string())?,
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

/// Finds the member of an object by its name.
struct Member<'n> {
    name: &'n str,
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<String>()? {
            if name != self.name {
                members.next_value::<IgnoredAny>()?;
            } else if found.replace(members.next_value()?).is_some() {
                // Of two values this program could take one and the API the other.
                return Err(A::Error::custom(format_args!(
                    "the order has two fields named {:.40?}",
                    self.name
                )));
            }
        }
        Ok(found)
    }
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
                // XML 1.0 has no escape for these either (section 2.2).
                return Err(format!(
                    "{name} contains the character {character:?}, which XML does not allow"
                ));
            }
            _ => to.push(character),
        }
    }
    Ok(())
}

/// Tracks whether a position in a JSON text is inside a string.
#[derive(Default)]
struct Quotes {
    is_open: bool,
    is_escaped: bool,
}

impl Quotes {
    fn advance(&mut self, text: &str) {
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

    fn fill(text: &str, escaping: Escaping) -> Result<String, String> {
        let facts = Facts {
            order_id: "a/1",
            idempotency_key: "k&1",
            order: ORDER,
        };
        Template::new(text, escaping)?.fill(&facts, escaping)
    }

    fn check(text: &str, escaping: Escaping, expected: &str) {
        assert_eq!(fill(text, escaping).as_deref(), Ok(expected), "{text}");
    }

    fn refused(text: &str, escaping: Escaping, names: &str) {
        let why = fill(text, escaping).expect_err(names);
        assert!(why.contains(names), "{text}: {why}");
    }

    #[test]
    fn values_are_escaped_for_their_syntax() {
        check(
            "http://h/{order_id}/{/customer/name}?k={idempotency_key}",
            Escaping::Url,
            "http://h/a%2F1/x%20y?k=k%261",
        );
        check("{/customer/tags/1}; {{x}}", Escaping::Header, "t1; {x}");
        check(
            r#"{"id":{order_id},"amount":{/amount},"rate":{/rate},"to":{/customer/tags},"ref":"R-{order_id}-{/note}","x":{}}"#,
            Escaping::Json,
            r#"{"id":"a/1","amount":9007199254740993,"rate":1.50,"to":["t0","t1"],"ref":"R-a/1-<\"Ü\">","x":{}}"#,
        );
        check(
            "a={/amount}&n={/note}",
            Escaping::Form,
            "a=9007199254740993&n=%3C%22%C3%9C%22%3E",
        );
        check(
            "<p paid=\"{/paid}\">{/note} {idempotency_key}</p>",
            Escaping::Xml,
            "<p paid=\"true\">&lt;&quot;Ü&quot;&gt; k&amp;1</p>",
        );
        check("{/note} {", Escaping::Text, "<\"Ü\"> {");
        check("{/customer/a~1b/~0}", Escaping::Json, "null");
    }

    #[test]
    fn missing_or_unsuitable_field_is_refused() {
        refused("{/nothing}", Escaping::Json, "the order has no field /nothing");
        refused("{/customer/tags/2}", Escaping::Header, "/customer/tags/2");
        refused("{/amount/x}", Escaping::Header, "/amount/x");
        refused("{/customer}", Escaping::Header, "cannot be written as text");
        refused("\"{/customer/a~1b/~0}\"", Escaping::Json, "null");
        refused("{/customer/tags}", Escaping::Url, "cannot be written");
    }

    #[test]
    fn malformed_template_is_refused() {
        for escaping in [Escaping::Url, Escaping::Header] {
            refused("x{", escaping, "doubled (at byte 1)");
            refused("x}y", escaping, "doubled");
            refused("{}", escaping, "not a placeholder");
        }
        for escaping in [Escaping::Url, Escaping::Header, Escaping::Json, Escaping::Text] {
            refused("{order}", escaping, "{order} is not a placeholder");
            refused("{/a~2}", escaping, "not a JSON pointer");
        }
    }

    #[test]
    fn dots_and_empty_segments_are_refused_in_urls() {
        for order_id in ["", ".", ".."] {
            let facts = Facts {
                order_id,
                idempotency_key: "k",
                order: "{}",
            };
            let template = Template::new("http://h/{order_id}", Escaping::Url).expect("a template");
            assert!(template.fill(&facts, Escaping::Url).is_err(), "{order_id:?}");
        }
    }
}
