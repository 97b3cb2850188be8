//! Shape of a cause: free text without what differs from one record to the next.

/// Maximum number of characters of a shape.
const LENGTH_MAX: usize = 160;
/// Maximum number of bytes of a text that are looked at.
const TEXT_MAX: usize = 2048;
/// Minimum length of a word of hexadecimal digits that counts as an id.
const HEX_MIN: usize = 8;

/// Returns the shape of a text: quoted text becomes `"…"`, numbers `#`, hexadecimal ids and UUIDs `<id>`. Texts of
/// one cause have one shape.
pub(crate) fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = &text[..text.floor_char_boundary(TEXT_MAX)];
    while let Some(first) = rest.chars().next() {
        let taken = if let Some(quoted) = quoted(rest, shape.chars().next_back()) {
            shape.push_str("\"…\"");
            quoted
        } else if first.is_alphanumeric() {
            let word = word(rest);
            push_word(&mut shape, word);
            word.len()
        } else if first.is_whitespace() || first.is_control() {
            if !shape.ends_with(' ') {
                shape.push(' ');
            }
            first.len_utf8()
        } else {
            shape.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    let shape = shape.trim();
    match shape.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &shape[..end]),
        None => shape.to_owned(),
    }
}

/// Returns the length of the quoted text that `rest` begins with, with its quotes.
fn quoted(rest: &str, before: Option<char>) -> Option<usize> {
    let quote = rest.chars().next()?;
    let is_quote = match quote {
        '"' | '`' => true,
        // Within a word it is an apostrophe.
        '\'' => !before.is_some_and(char::is_alphanumeric),
        _ => false,
    };
    if !is_quote {
        return None;
    }
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return Some(at + 1),
            _ => {}
        }
    }
    // Without an end it quotes nothing.
    None
}

/// Returns the word that `rest` begins with: letters and digits, also with single `-`, `_`, `.` or `:` between them.
fn word(rest: &str) -> &str {
    let mut end = 0;
    let mut chars = rest.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        let joins = matches!(char, '-' | '_' | '.' | ':')
            && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        if !char.is_alphanumeric() && !joins {
            break;
        }
        end = at + char.len_utf8();
    }
    &rest[..end]
}

fn push_word(shape: &mut String, word: &str) {
    if is_id(word) {
        shape.push_str("<id>");
        return;
    }
    // A number with its fraction, or the parts of a time, is one `#`.
    let mut parts = word.split(['-', '_', '.', ':']).peekable();
    let mut at = 0;
    while let Some(part) = parts.next() {
        at += part.len();
        let separator = word[at..].chars().next();
        at += separator.map_or(0, char::len_utf8);
        if is_id(part) {
            shape.push_str("<id>");
        } else {
            push_digits(shape, part);
        }
        let next_is_number = parts
            .peek()
            .is_some_and(|next| next.bytes().all(|byte| byte.is_ascii_digit()));
        let number_goes_on = shape.ends_with('#') && next_is_number && separator != Some('_');
        if let Some(separator) = separator.filter(|_| !number_goes_on) {
            shape.push(separator);
        }
    }
}

/// Appends a text with each run of digits replaced.
fn push_digits(shape: &mut String, text: &str) {
    for char in text.chars() {
        if !char.is_numeric() {
            shape.push(char);
        } else if !shape.ends_with('#') {
            shape.push('#');
        }
    }
}

/// Returns whether a word is a UUID, or long enough and hexadecimal.
fn is_id(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = digits.split('-').map(str::len);
    let is_uuid = lengths.eq([8, 4, 4, 4, 12]) && digits.split('-').all(is_hex);
    // Plain numbers are numbers, and words such as `defaced` are words.
    let is_mixed = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_uuid || (digits.len() >= HEX_MIN && is_hex(digits) && is_mixed) || (digits != word && is_hex(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_cause_have_one_shape() {
        for (text, expected) in [
            ("", ""),
            (
                "missing field `amount` at line 1 column 57",
                "missing field \"…\" at line # column #",
            ),
            (
                "\"XBT\" is not a currency of ISO 4217",
                "\"…\" is not a currency of ISO #",
            ),
            (r#"name "a\"b\" 1" of"#, "name \"…\" of"),
            ("it is 'a b', isn't it", "it is \"…\", isn't it"),
            ("an open \"quote 17", "an open \"quote #"),
            ("order-1718 of C_7", "order-# of C_#"),
            ("amount 12.505 and 1:30", "amount # and #"),
            ("at 2026-11-23T02:00:00.5Z", "at #-#T#.#Z"),
            ("id 0f8fad5b-d9cb-469f-a165-70867728950e.", "id <id>."),
            ("trace 4bf92f3577b34da6a3ce929d0e0e4736", "trace <id>"),
            ("at 0xdeadbeef, defaced facade", "at <id>, defaced facade"),
            ("two\n\n lines\u{1b}[31m", "two lines [#m"),
            ("größe ٣٤ 金額１２", "größe # 金額#"),
        ] {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn shape_is_short() {
        let long = shape(&"word ".repeat(1000));
        assert_eq!(long.chars().count(), LENGTH_MAX + 1);
        // The text is cut within a character.
        assert_eq!(shape(&"é".repeat(5000)).chars().count(), LENGTH_MAX + 1);
        assert_eq!(shape(&format!("{}é", " ".repeat(TEXT_MAX - 1))), "");
    }
}
