//! Canonical form of a JSON number: `1`, `1.0` and `1e0` are one number.
//!
//! Computed from the text. A float would make `9007199254740993` and `9007199254740992` one amount.

use std::borrow::Cow;

/// Number as its sign, its digits without zeros at either end, and the power of ten of the last digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal<'a> {
    pub(super) is_negative: bool,
    /// Empty for zero.
    pub(super) digits: Cow<'a, str>,
    pub(super) exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Reads the text of a JSON number. Returns `None` if its exponent is beyond 64 bits: it is then no number
    /// that two programs would read alike, and only its text can be compared.
    // The exponent is never expanded: `1e999999999` has one digit here.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = match text.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, Some(power)),
            None => (text, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let whole = whole.trim_start_matches('0');
        let digits: Cow<'a, str> = match (whole, fraction) {
            (whole, "") => whole.into(),
            ("", fraction) => fraction.trim_start_matches('0').into(),
            (whole, fraction) => format!("{whole}{fraction}").into(),
        };
        // Before the power is read: zero is zero with any.
        if digits.is_empty() {
            return Some(Self {
                is_negative: false,
                digits,
                exponent: 0,
            });
        }
        // Digits at the end remain only where there is no fraction.
        let significant = digits.trim_end_matches('0').len();
        let zeros = i64::try_from(digits.len() - significant).ok()?;
        let digits = match digits {
            Cow::Borrowed(digits) => Cow::Borrowed(&digits[..significant]),
            Cow::Owned(mut digits) => {
                digits.truncate(significant);
                Cow::Owned(digits)
            }
        };
        let power: i64 = power.map_or(Some(0), |power| power.parse().ok())?;
        let exponent = power
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(zeros)?;
        Some(Self {
            is_negative,
            digits,
            exponent,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_equal(texts: &[&str]) {
        for text in texts {
            assert_eq!(Decimal::of(text), Decimal::of(texts[0]), "{text}");
            assert!(Decimal::of(text).is_some(), "{text}");
        }
    }

    #[test]
    fn equal_numbers_have_one_form() {
        all_equal(&[
            "1",
            "1.0",
            "1e0",
            "1E+0",
            "10e-1",
            "0.1e1",
            "0.01e+02",
            "1.000e-00",
        ]);
        all_equal(&["0", "-0", "0.0", "0e5", "-0.00E-7", "0e99999999999999999999999"]);
        all_equal(&["150", "15e1", "1.5e2", "150.00", "0.150e3"]);
        all_equal(&["-1.05", "-105e-2", "-0.0105e2"]);
        all_equal(&["1e999999999", "10e999999998"]);
    }

    #[test]
    fn other_numbers_have_another_form() {
        let all = [
            "0",
            "1",
            "-1",
            "10",
            "0.1",
            "1.01",
            "101",
            "1e999999999",
            "1e-999999999",
            "9007199254740992",
            "9007199254740993",
        ];
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert_ne!(Decimal::of(one), Decimal::of(other), "{one} {other}");
            }
        }
        for text in [
            "1e9223372036854775808",
            "1.5e-9223372036854775808",
            "10e9223372036854775807",
        ] {
            assert_eq!(Decimal::of(text), None, "{text}");
        }
    }

    proptest! {
        /// Moving the decimal point and writing the move as exponent leaves the number.
        #[test]
        fn shifted_point_is_the_same_number(whole in 1_u64.., shift in 1_usize..30, sign in "-?") {
            let digits = format!("{whole:0>30}");
            let (before, after) = digits.split_at(30 - shift);
            let before = before.trim_start_matches('0');
            let before = if before.is_empty() { "0" } else { before };
            let shifted = format!("{sign}{before}.{after}e{shift}");
            let plain = format!("{sign}{whole}");
            prop_assert_eq!(Decimal::of(&shifted), Decimal::of(&plain));
            let next = format!("{sign}{}", u128::from(whole) + 1);
            prop_assert_ne!(Decimal::of(&plain), Decimal::of(&next));
        }
    }
}
