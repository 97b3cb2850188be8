//! Sums of the amounts of orders, by currency.

use std::collections::BTreeMap;
use std::fmt;

use iso_currency::Currency;
use records::Order;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Sums of amounts by currency. There are at most as many as ISO 4217 has currencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    /// Minor units by code. A sum of more orders than there can be does not reach the limit of the type.
    sums: BTreeMap<&'static str, (Currency, i128)>,
}

impl Amounts {
    pub(crate) fn add(&mut self, order: &Order<'_>) {
        self.add_money(order.currency, order.amount.minor_units());
    }

    /// Adds an amount in minor units.
    pub(crate) fn add_money(&mut self, currency: Currency, minor_units: u64) {
        let (_, sum) = self.sums.entry(currency.code()).or_insert((currency, 0));
        *sum += i128::from(minor_units);
    }

    fn texts(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.sums
            .iter()
            .map(|(code, (currency, sum))| (*code, decimal(*sum, digits(*currency))))
    }
}

/// Shows the sums, such as `EUR 1250.50, JPY 7`; `-` if there are none.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self
            .texts()
            .map(|(code, amount)| format!("{code} {amount}"))
            .collect();
        match texts.as_slice() {
            [] => f.write_str("-"),
            texts => f.write_str(&texts.join(", ")),
        }
    }
}

/// Decimal texts by currency: JSON numbers lose digits in some readers.
impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.sums.len()))?;
        for (code, amount) in self.texts() {
            map.serialize_entry(code, &amount)?;
        }
        map.end()
    }
}

/// Returns an order's amount, such as `EUR 12.50`.
pub(crate) fn amount_of(order: &Order<'_>) -> String {
    let mut one = Amounts::default();
    one.add(order);
    one.to_string()
}

/// Returns minor units of a currency as text, such as `EUR 12.50`.
pub(crate) fn amount_text(code: &str, units: i128) -> String {
    let digits = Currency::from_code(code).map_or(0, digits);
    format!("{code} {}", decimal(units, digits))
}

/// Number of decimal places of a currency; 0 for those that ISO 4217 gives none, such as gold.
fn digits(currency: Currency) -> usize {
    currency.exponent().map_or(0, usize::from)
}

/// Returns minor units as a decimal.
fn decimal(units: i128, digits: usize) -> String {
    if digits == 0 {
        return units.to_string();
    }
    let text = format!("{units:0width$}", width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    format!("{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(amounts: &mut Amounts, amount: u64, currency: &str) {
        let json =
            format!(r#"{{"order_id":"o","amount":{amount},"currency":"{currency}","customer_id":"c"}}"#);
        amounts.add(&Order::parse(json.as_bytes()).expect("an order"));
    }

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        let mut amounts = Amounts::default();
        assert_eq!(amounts.to_string(), "-");
        for (amount, currency) in [(1250, "EUR"), (5, "EUR"), (7, "JPY"), (1, "BHD"), (20_000, "USD")] {
            add(&mut amounts, amount, currency);
        }
        assert_eq!(amounts.to_string(), "BHD 0.001, EUR 12.55, JPY 7, USD 200.00");
        let json = serde_json::to_value(&amounts).expect("JSON");
        let expected = serde_json::json!({"BHD": "0.001", "EUR": "12.55", "JPY": "7", "USD": "200.00"});
        assert_eq!(json, expected);
    }

    #[test]
    fn sums_beyond_64_bits_are_exact() {
        let mut amounts = Amounts::default();
        for _ in 0..4 {
            add(&mut amounts, 9_007_199_254_740_991, "EUR");
        }
        assert_eq!(amounts.to_string(), "EUR 360287970189639.64");
        assert_eq!(decimal(i128::MAX, 2), "1701411834604692317316873037158841057.27");
    }
}
