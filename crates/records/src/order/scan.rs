//! Fast reading of ordinary orders: in one pass, without a copy.
//!
//! It takes only what the parser would take, with the same fields. Everything else is left to the parser: what is
//! rare, such as escapes and exponents, and what is wrong, which the parser explains.

use super::{AmountForm, Fields, Written};

/// Maximum number of names of an object, which are compared one by one.
const NAMES_MAX: usize = 16;
/// Maximum number of objects and arrays that a value is nested in.
const DEPTH_MAX: usize = 8;
/// Maximum length of a number: without an exponent, it is far within the range of an `f64`.
const NUMBER_BYTES_MAX: usize = 100;

/// Reads the fields of an order, and checks all others; `None` if the parser has to decide.
pub(super) fn fields(text: &str, form: AmountForm) -> Option<Fields<'_>> {
    let mut scan = Scan { text, at: 0 };
    let (mut order_id, mut amount, mut currency, mut customer_id) = (None, None, None, None);
    scan.spaces();
    scan.members(|scan, name| {
        match name {
            "order_id" => order_id = Some(scan.string()?.into()),
            "amount" => amount = Some(scan.amount(form)?),
            "currency" => currency = Some(scan.string()?.into()),
            "customer_id" => customer_id = Some(scan.string()?.into()),
            _ => scan.value(1)?,
        }
        Some(())
    })?;
    scan.spaces();
    if scan.at != text.len() {
        return None;
    }
    Some(Fields {
        order_id: order_id?,
        amount: amount?,
        currency: currency?,
        customer_id: customer_id?,
    })
}

/// Position in the text of a JSON value. Each function passes what it is named for, or returns `None`.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn next(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn spaces(&mut self) {
        let spaces = self
            .rest()
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += spaces.count();
    }

    fn byte(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then(|| self.at += 1)
    }

    fn word(&mut self, expected: &str) -> Option<()> {
        self.rest()
            .starts_with(expected.as_bytes())
            .then(|| self.at += expected.len())
    }

    /// Passes an object; `member` passes the value of each name, of which no two are the same.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        let mut names = [""; NAMES_MAX];
        let mut count = 0;
        self.byte(b'{')?;
        self.spaces();
        if self.byte(b'}').is_some() {
            return Some(());
        }
        loop {
            let name = self.string()?;
            if names[..count].contains(&name) {
                return None;
            }
            *names.get_mut(count)? = name;
            count += 1;
            self.spaces();
            self.byte(b':')?;
            self.spaces();
            member(self, name)?;
            self.spaces();
            if self.byte(b'}').is_some() {
                return Some(());
            }
            self.byte(b',')?;
            self.spaces();
        }
    }

    fn elements(&mut self, depth: usize) -> Option<()> {
        self.byte(b'[')?;
        self.spaces();
        if self.byte(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth)?;
            self.spaces();
            if self.byte(b']').is_some() {
                return Some(());
            }
            self.byte(b',')?;
            self.spaces();
        }
    }

    /// Passes a value that is nested in this number of others.
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            b'"' => self.string().map(drop),
            b'{' if depth < DEPTH_MAX => self.members(|scan, _| scan.value(depth + 1)),
            b'[' if depth < DEPTH_MAX => self.elements(depth + 1),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number().map(drop),
        }
    }

    fn amount(&mut self, form: AmountForm) -> Option<Written<'a>> {
        match form {
            AmountForm::MinorUnits => {
                let digits = self.number()?;
                // Rust's own rules allow a sign, and JSON's number may have one.
                let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                is_plain.then(|| digits.parse().ok())?.map(Written::MinorUnits)
            }
            AmountForm::Decimal => {
                let from = self.at;
                match self.next()? {
                    b'"' => self.string().map(drop)?,
                    _ => self.number().map(drop)?,
                }
                self.text.get(from..self.at).map(Written::Decimal)
            }
        }
    }

    /// Passes a string without escapes, and returns what is between the quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.byte(b'"')?;
        let from = self.at;
        self.at += plain(self.rest());
        let inner = self.text.get(from..self.at)?;
        // Where it does not end here, there is an escape or a control character.
        self.byte(b'"')?;
        Some(inner)
    }

    /// Passes a number without an exponent.
    fn number(&mut self) -> Option<&'a str> {
        let from = self.at;
        // If there is none, that is fine.
        let _sign = self.byte(b'-');
        if self.byte(b'0').is_none() {
            self.digits()?;
        }
        if self.byte(b'.').is_some() {
            self.digits()?;
        }
        let is_whole = !matches!(self.next(), Some(b'e' | b'E'));
        let number = self.text.get(from..self.at)?;
        (is_whole && number.len() <= NUMBER_BYTES_MAX).then_some(number)
    }

    fn digits(&mut self) -> Option<()> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit());
        let count = digits.count();
        self.at += count;
        (count > 0).then_some(())
    }
}

/// Returns the number of bytes before the first quote, backslash or control character.
fn plain(bytes: &[u8]) -> usize {
    // Eight bytes at a time: half of an order is text.
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // The first byte is the lowest one, so that its bit is found first. A bit above a byte that is found may be
        // wrong, since the subtractions borrow.
        let word = u64::from_le_bytes(*word);
        let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let quote = is_zero(word ^ (ONES * u64::from(b'"')));
        let backslash = is_zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quote | backslash | control) & HIGH;
        if found != 0 {
            return index * 8 + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
        }
    }
    let from = words.len() * 8;
    let is_plain = |byte: &&u8| **byte >= 0x20 && **byte != b'"' && **byte != b'\\';
    from + bytes[from..].iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse_fields;
    use super::*;

    const FORMS: [AmountForm; 2] = [AmountForm::MinorUnits, AmountForm::Decimal];

    fn agrees(text: &str) {
        for form in FORMS {
            if let Some(fields) = fields(text, form) {
                let parsed = parse_fields(text, form, None).map(|(parsed, _)| parsed);
                assert_eq!(parsed.as_ref(), Ok(&fields), "{form:?} {text:?}");
            }
        }
    }

    #[test]
    fn ordinary_order_needs_no_parser() {
        let order = "\n{ \"order_id\":\"o-1\", \"amount\" : 150,\"currency\":\"EUR\",\"customer_id\":\"Zo\u{eb}\",\
                     \"lines\":[{\"sku\":\"1\",\"price\":12.50,\"gift\":false},[],{}],\"n\":-0.5,\"r\":9007199254740993123456,\"x\":null}\t";
        for form in FORMS {
            assert!(fields(order, form).is_some(), "{form:?}");
        }
        agrees(order);
    }

    #[test]
    fn everything_else_is_left_to_the_parser() {
        let with = |member: &str| {
            format!(r#"{{"order_id":"o","amount":1,"currency":"EUR","customer_id":"c",{member}}}"#)
        };
        assert!(fields(&with(r#""a":1"#), AmountForm::MinorUnits).is_some());
        let many: String = (0..NAMES_MAX).map(|n| format!(r#""n{n}":0,"#)).collect();
        for member in [
            r#""a":"\n""#,
            r#""\u0061":1"#,
            "\"a\":\"\u{1}\"",
            "\"a\":\"long enough for a word \u{1f}\"",
            r#""a":1e2"#,
            r#""a":1E2"#,
            r#""a":01"#,
            r#""a":-"#,
            r#""a":1."#,
            r#""a":.5"#,
            r#""a":+1"#,
            r#""a":truex"#,
            r#""a":nul"#,
            r#""a":[1,]"#,
            r#""a":{"b":1,}"#,
            r#""a":{"b":1,"b":1}"#,
            r#""a":1,"a":1"#,
            r#""order_id":"o""#,
            r#""a":1,"#,
            "",
            &format!(r#"{many}"a":1"#),
            &format!(r#""a":{}{}"#, "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)),
            &format!(r#""a":{}"#, "9".repeat(NUMBER_BYTES_MAX + 1)),
        ] {
            assert_eq!(fields(&with(member), AmountForm::MinorUnits), None, "{member}");
        }
        for text in [
            "",
            "{",
            "[]",
            "null",
            "{}",
            &with(r#""a":1"#)[1..],
            &format!("{} 1", with(r#""a":1"#)),
        ] {
            assert_eq!(fields(text, AmountForm::MinorUnits), None, "{text}");
        }
    }

    #[test]
    fn first_special_byte_is_found() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for at in 0..20 {
                let mut bytes = [b'\x7f'; 20];
                bytes[at] = special;
                assert_eq!(plain(&bytes), at);
            }
        }
        let text = "é\u{80}\u{ff}\u{10ffff}! #[]^";
        assert_eq!(plain(text.as_bytes()), text.len());
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
            "\"([ !#-\\[\\]-~é€]|\\\\n|\\\\u00e9){0,20}\"",
            Just("true".to_owned()),
            Just("null".to_owned()),
            "[-0-9a-z.]{1,4}",
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|all| {
                    let members: Vec<String> = all
                        .iter()
                        .map(|(name, value)| format!("\"{name}\" : {value}"))
                        .collect();
                    format!("{{{}}}", members.join(" ,"))
                }),
            ]
        })
    }

    proptest! {
        /// What is read here, the parser reads alike.
        #[test]
        fn parser_reads_the_same_fields(
            id in json(),
            amount in json(),
            member in json(),
            cut in 0_usize..400,
            byte in "[ -~]",
        ) {
            for order_id in [&*id, "\"o-1\""] {
                for amount in [&*amount, "150"] {
                    let text = format!(
                        r#"{{"customer_id":"c", "order_id":{order_id},"amount":{amount},"x":{member},"currency":"EUR"}}"#
                    );
                    agrees(&text);
                    // And with a byte replaced, or the end cut off.
                    if text.is_char_boundary(cut) && text.is_char_boundary(cut + 1) && cut < text.len() {
                        agrees(&format!("{}{byte}{}", &text[..cut], &text[cut + 1..]));
                        agrees(&text[..cut]);
                    }
                }
            }
        }
    }
}
