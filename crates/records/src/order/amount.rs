//! Amount of an order, exact: in minor units of the currency, however it is written.

use iso_currency::Currency;
use serde::{Deserialize, Serialize};

use crate::unique_names::Text;

/// Amount to pay, at least one minor unit. Amounts of one currency are equal if they are the same money: `12.5`
/// and `"12.50"` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

/// Form in which producers write an amount. As a setting, it is written `minor-units` or `decimal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AmountForm {
    /// JSON integer: minor units of the currency.
    #[default]
    MinorUnits,
    /// JSON number or string with a decimal point, such as `12.50`.
    Decimal,
}

/// Text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// Nothing to pay.
    // A payment of nothing is a mistake of its producer.
    #[error("/amount is 0; it must be more")]
    Zero,
    /// Not a decimal number in plain digits.
    #[error("/amount is {0}; it must be a number or string in plain digits, such as 12.50")]
    NotDecimal(String),
    /// More decimal places than the currency has.
    #[error("/amount is {0}; it must have at most the {1} decimal places of {2}")]
    TooPrecise(String, u16, &'static str),
    /// More minor units than 64 bits hold.
    #[error("/amount is {0}; it must be at most 2^64 - 1 minor units")]
    TooLarge(String),
}

impl Amount {
    /// Returns the amount of this number of minor units.
    ///
    /// # Errors
    /// It is 0.
    pub const fn of_minor_units(units: u64) -> Result<Self, InvalidAmount> {
        match units {
            0 => Err(InvalidAmount::Zero),
            units => Ok(Self(units)),
        }
    }

    /// Returns the amount that a JSON number or string writes in the currency's major unit.
    ///
    /// # Errors
    /// Returns why it is no such amount.
    pub fn of_decimal(json: &str, currency: Currency) -> Result<Self, InvalidAmount> {
        // The text comes from a producer and may be long.
        let shown = || json.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        let not_decimal = || InvalidAmount::NotDecimal(shown());
        let text = match json.starts_with('"') {
            true => {
                serde_json::from_str::<Text<'_>>(json)
                    .map_err(|_| not_decimal())?
                    .0
            }
            false => json.into(),
        };
        let (whole, places) = match text.split_once('.') {
            Some((_, "")) => return Err(not_decimal()),
            Some(parts) => parts,
            None => (&*text, ""),
        };
        let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        // A leading zero may be cut from a longer number; JSON numbers have none either.
        let is_whole = !whole.is_empty() && (whole == "0" || !whole.starts_with('0'));
        if !is_whole || !is_plain(whole) || !is_plain(places) {
            return Err(not_decimal());
        }
        // Metals and the like have no minor unit, and are counted in whole units.
        let exponent = currency.exponent().unwrap_or(0);
        let Some(missing) = usize::from(exponent).checked_sub(places.len()) else {
            return Err(InvalidAmount::TooPrecise(shown(), exponent, currency.code()));
        };
        // In integers: a float cannot hold most amounts.
        let units = whole
            .bytes()
            .chain(places.bytes())
            .chain(std::iter::repeat_n(b'0', missing))
            .try_fold(0_u64, |units, digit| {
                units.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            });
        Self::of_minor_units(units.ok_or_else(|| InvalidAmount::TooLarge(shown()))?)
    }

    /// Returns the number of minor units: the one form of an amount, however it was written.
    #[must_use]
    pub const fn minor_units(self) -> u64 {
        self.0
    }
}

/// Maximum number of characters of an amount that an explanation shows.
const SHOWN_CHARS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(json: &str, currency: Currency) -> Option<u64> {
        Amount::of_decimal(json, currency).ok().map(Amount::minor_units)
    }

    #[test]
    fn decimal_amount_is_exact_or_refused() {
        use Currency::{BHD, EUR, JPY, XAU};
        for (json, currency, expected) in [
            ("12.50", EUR, Some(1250)),
            ("12.5", EUR, Some(1250)),
            ("\"12.50\"", EUR, Some(1250)),
            ("\"12\"", EUR, Some(1200)),
            ("0.01", EUR, Some(1)),
            ("0.29", EUR, Some(29)),
            ("1.005", BHD, Some(1005)),
            ("12", JPY, Some(12)),
            ("3", XAU, Some(3)),
            ("184467440737095516.15", EUR, Some(u64::MAX)),
            ("184467440737095516.16", EUR, None),
            ("12.500", EUR, None),
            ("12.0", JPY, None),
            ("3.1", XAU, None),
            ("0", EUR, None),
            ("0.00", EUR, None),
            ("-1", EUR, None),
            ("-0.01", EUR, None),
            ("1e2", EUR, None),
            ("1E2", EUR, None),
            ("\"1e2\"", EUR, None),
            ("\"+1\"", EUR, None),
            ("\" 1\"", EUR, None),
            ("\"01\"", EUR, None),
            ("\"00.5\"", EUR, None),
            ("\".5\"", EUR, None),
            ("\"5.\"", EUR, None),
            ("\"1.2.3\"", EUR, None),
            ("\"1,50\"", EUR, None),
            ("\"1_000\"", EUR, None),
            ("\"\u{661}\"", EUR, None),
            ("\"\"", EUR, None),
            ("\"NaN\"", EUR, None),
            ("null", EUR, None),
            ("true", EUR, None),
            ("[1]", EUR, None),
            ("{}", EUR, None),
        ] {
            assert_eq!(units(json, currency), expected, "{json} {}", currency.code());
        }
        for long in ["9".repeat(1_000_000), format!("0.{}", "0".repeat(1_000_000))] {
            let error = Amount::of_decimal(&long, EUR).expect_err("too long");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    proptest! {
        #[test]
        fn amount_is_the_same_however_it_is_written(amount in 1_u64.., zeros_cut in 0_usize..3) {
            for (currency, scale) in [(Currency::JPY, 1), (Currency::EUR, 100), (Currency::BHD, 1000)] {
                let places = usize::from(currency.exponent().unwrap_or(0));
                let mut text = match places {
                    0 => amount.to_string(),
                    _ => format!("{}.{:0places$}", amount / scale, amount % scale),
                };
                for _ in 0..zeros_cut.min(places.saturating_sub(1)) {
                    if text.ends_with('0') {
                        text.pop();
                    }
                }
                prop_assert_eq!(units(&text, currency), Some(amount));
                prop_assert_eq!(units(&format!("{text:?}"), currency), Some(amount));
                let finer = format!("{}{}", text, if places == 0 { ".0" } else { "000" });
                prop_assert_eq!(units(&finer, currency), None);
            }
        }

        #[test]
        fn accepted_text_is_a_decimal_number(text in "[-+0-9.eE ]{0,8}") {
            if let Some(units) = units(&format!("{text:?}"), Currency::EUR) {
                let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
                let hundredths: u64 = format!("{places:0<2}").parse().expect("digits");
                prop_assert_eq!(units, whole.parse::<u64>().expect("digits") * 100 + hundredths);
                prop_assert!(units > 0);
            }
        }
    }
}
