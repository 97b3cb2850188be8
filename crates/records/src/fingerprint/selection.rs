//! Selection of what a fingerprint is computed over: what counts as the same order.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Fingerprint;
use super::fields::{Fields, at_pointers};
use crate::Order;

/// Part of an order that two records with one key must have in common to be the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Setting", into = "Setting")]
pub enum Selection {
    /// Fields that the pipeline knows: amount, currency, customer.
    #[default]
    Order,
    /// All bytes.
    Payload,
    /// Values at JSON pointers.
    Pointers(Pointers),
    /// Nothing: a key alone is the order.
    None,
}

/// Sorted list of JSON pointers (RFC 6901).
// Sorted: the same pointers in another order are the same selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointers(Vec<String>);

/// Identity of a selection, as an [`Entry`](crate::Entry) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectionId {
    /// [`Selection::Payload`].
    Payload,
    /// [`Selection::Order`].
    Order,
    /// [`Selection::Pointers`], with the start of a hash of the list.
    Pointers([u8; SelectionId::LIST_BYTES]),
    /// [`Selection::None`].
    None,
}

/// Text that names no selection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelection {
    /// Unknown word.
    #[error(
        "the fingerprint is {0:?}; it must be \"order\", \"payload\", \"none\", or a list of JSON pointers such \
         as [\"/amount\"]"
    )]
    Word(String),
    /// Not a pointer to a member.
    #[error("the fingerprint's pointer {0:?} is not a JSON pointer such as \"/amount\"")]
    Pointer(String),
    /// A pointer is in the list more than once.
    #[error("the fingerprint's pointer {0:?} occurs twice")]
    Twice(String),
    /// Too few or too many pointers, or bytes of one.
    #[error(
        "the fingerprint must have 1 to {POINTERS_MAX} JSON pointers of at most {POINTER_BYTES_MAX} bytes each"
    )]
    Size,
}

/// Maximum number of pointers.
// Each member of an order is compared with each of them.
const POINTERS_MAX: usize = 16;
/// Maximum length of a pointer, in bytes.
const POINTER_BYTES_MAX: usize = 256;
/// Domains of the fingerprints.
const ORDER: u8 = 1;
const POINTERS: u8 = 2;
const BYTES: u8 = 3;

/// Selection as settings have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Setting {
    Word(String),
    Pointers(Vec<String>),
}

impl Selection {
    /// Returns the identity for entries.
    #[must_use]
    pub fn id(&self) -> SelectionId {
        match self {
            Self::Payload => SelectionId::Payload,
            Self::Order => SelectionId::Order,
            Self::Pointers(pointers) => SelectionId::Pointers(pointers.hash()),
            Self::None => SelectionId::None,
        }
    }

    /// Computes the fingerprint of an order, and returns it with its selection; `order` was parsed from this
    /// payload, if it is of the built-in form. Of another form the pipeline knows no fields, and all bytes count.
    #[must_use]
    pub fn fingerprint(&self, order: Option<&Order<'_>>, payload: &[u8]) -> (SelectionId, Fingerprint) {
        match (self, order) {
            (Self::Order, Some(order)) => (SelectionId::Order, of_order(order)),
            (Self::Payload, _) | (Self::Order, None) => (SelectionId::Payload, Fingerprint::of(payload)),
            (Self::Pointers(pointers), _) => (self.id(), pointers.fingerprint(payload)),
            (Self::None, _) => (SelectionId::None, Fingerprint([0; Fingerprint::BYTES])),
        }
    }

    /// Creates the selection of these pointers.
    ///
    /// # Errors
    /// Names the pointer that is invalid, or the limits.
    pub fn pointers(mut pointers: Vec<String>) -> Result<Self, InvalidSelection> {
        pointers.sort_unstable();
        if let Some(pair) = pointers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidSelection::Twice(pair[0].clone()));
        }
        let is_size = (1..=POINTERS_MAX).contains(&pointers.len())
            && pointers.iter().all(|pointer| pointer.len() <= POINTER_BYTES_MAX);
        if !is_size {
            return Err(InvalidSelection::Size);
        }
        match pointers.iter().find(|pointer| !is_pointer(pointer)) {
            Some(other) => Err(InvalidSelection::Pointer(other.clone())),
            None => Ok(Self::Pointers(Pointers(pointers))),
        }
    }
}

impl SelectionId {
    /// Length of the hash of a list of pointers, in bytes.
    pub const LIST_BYTES: usize = 8;

    /// Computes the fingerprint of an order under this selection, if the identity tells how.
    #[must_use]
    pub fn fingerprint(self, order: Option<&Order<'_>>, payload: &[u8]) -> Option<Fingerprint> {
        match self {
            Self::Payload => Some(Fingerprint::of(payload)),
            Self::Order => order.map(of_order),
            // Which pointers these were, no entry says.
            Self::Pointers(_) | Self::None => None,
        }
    }
}

/// Computes the fingerprint of the fields that the pipeline knows.
fn of_order(order: &Order<'_>) -> Fingerprint {
    let mut fields = Fields::of(ORDER);
    fields.number(&order.amount.minor_units().to_string());
    fields.string(order.currency.code());
    fields.string(&order.customer_id);
    fields.fingerprint()
}

impl Pointers {
    fn hash(&self) -> [u8; SelectionId::LIST_BYTES] {
        let mut list = Fields::of(POINTERS);
        self.0.iter().for_each(|pointer| list.string(pointer));
        let mut first = [0; SelectionId::LIST_BYTES];
        first.copy_from_slice(&list.fingerprint().0[..SelectionId::LIST_BYTES]);
        first
    }

    fn fingerprint(&self, payload: &[u8]) -> Fingerprint {
        let text = std::str::from_utf8(payload).ok();
        let found = text.and_then(|text| at_pointers(text, &self.0).ok());
        let Some(found) = found.filter(|found| found.iter().any(Option::is_some)) else {
            // Not JSON, or none of the values is there: with nothing to compare, any two would be the same order.
            let mut bytes = Fields::of(BYTES);
            bytes.bytes(payload);
            return bytes.fingerprint();
        };
        let mut fields = Fields::of(POINTERS);
        found.into_iter().for_each(|value| fields.json(value));
        fields.fingerprint()
    }
}

fn is_pointer(text: &str) -> bool {
    let has_valid_escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    text.starts_with('/') && has_valid_escapes
}

impl TryFrom<Setting> for Selection {
    type Error = InvalidSelection;

    fn try_from(setting: Setting) -> Result<Self, InvalidSelection> {
        match setting {
            Setting::Pointers(pointers) => Self::pointers(pointers),
            Setting::Word(word) => match &*word {
                "order" => Ok(Self::Order),
                "payload" => Ok(Self::Payload),
                "none" => Ok(Self::None),
                _ => Err(InvalidSelection::Word(word)),
            },
        }
    }
}

impl From<Selection> for Setting {
    fn from(selection: Selection) -> Self {
        match selection {
            Selection::Pointers(Pointers(pointers)) => Self::Pointers(pointers),
            Selection::Order | Selection::Payload | Selection::None => Self::Word(selection.to_string()),
        }
    }
}

/// As in the settings.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointers(Pointers(pointers)) => write!(f, "{pointers:?}"),
            Self::Order | Self::Payload | Self::None => self.id().fmt(f),
        }
    }
}

impl fmt::Display for SelectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload => f.write_str("payload"),
            Self::Order => f.write_str("order"),
            Self::Pointers(list) => write!(f, "pointers {:016x}", u64::from_be_bytes(*list)),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AmountForm;

    const ORDER: &str =
        r#"{"order_id":"o-1","amount":150,"currency":"EUR","customer_id":"c-1","ref":{"n":7}}"#;

    fn fingerprint(selection: &Selection, payload: &str) -> Fingerprint {
        let order = Order::parse(payload.as_bytes()).expect("an order");
        selection.fingerprint(Some(&order), payload.as_bytes()).1
    }

    fn pointers(list: &[&str]) -> Result<Selection, InvalidSelection> {
        Selection::pointers(list.iter().map(|&pointer| pointer.to_owned()).collect())
    }

    /// Changelogs hold fingerprints, so every later version must compute the same ones.
    #[test]
    fn fingerprint_of_a_selection_never_changes() {
        let list = pointers(&["/ref/n", "/amount"]).expect("pointers");
        for (selection, expected, id) in [
            (Selection::Order, "019f2a8e289d754e2ebbf38f5e79b39d", "order"),
            (
                list,
                "b553767849cb34588ff6a730ad50e85b",
                "pointers 74a0a8f1c0179947",
            ),
            (Selection::None, "00000000000000000000000000000000", "none"),
        ] {
            assert_eq!(
                fingerprint(&selection, ORDER).to_string(),
                expected,
                "{selection}"
            );
            assert_eq!(selection.id().to_string(), id);
        }
    }

    #[test]
    fn fields_outside_the_selection_do_not_count() {
        let list = pointers(&["/ref/n"]).expect("pointers");
        for (from, to, counts_for) in [
            ("\"amount\":150", "\"amount\":151", [true, false]),
            ("EUR", "USD", [true, false]),
            ("c-1", "c-2", [true, false]),
            ("\"n\":7", "\"n\":8", [false, true]),
            ("\"n\":7", "\"n\":7.0", [false, false]),
            ("\"n\":7", "\"n\":\"7\"", [false, true]),
            ("\"n\":7", "\"m\":7", [false, true]),
            ("\"n\":7", "\"n\":null", [false, true]),
            ("\"ref\"", "\"at\":1,\"ref\"", [false, false]),
            ("\"ref\"", "\n\"ref\" ", [false, false]),
        ] {
            let other = ORDER.replace(from, to);
            let differs = [&Selection::Order, &list]
                .map(|selection| fingerprint(selection, &other) != fingerprint(selection, ORDER));
            assert_eq!(differs, counts_for, "{to}");
            assert_eq!(
                fingerprint(&Selection::None, &other),
                fingerprint(&Selection::None, ORDER)
            );
            assert_ne!(
                fingerprint(&Selection::Payload, &other),
                fingerprint(&Selection::Payload, ORDER)
            );
        }
    }

    #[test]
    fn order_of_unknown_form_is_compared_by_its_bytes() {
        let of = |selection: &Selection, bytes: &[u8]| selection.fingerprint(None, bytes);
        let bytes = b"<order/>";
        assert_eq!(of(&Selection::Order, bytes), of(&Selection::Payload, bytes));
        let list = pointers(&["/ref/n"]).expect("pointers");
        assert_eq!(of(&list, bytes), of(&list, bytes));
        for other in [
            "<order />",
            r#"{"ref":{"n":1}}x"#,
            r#"{"ref":{"n":1}"#,
            r#"{"ref":{}}"#,
            "{}",
            "[]",
            "1",
            "\"a\"",
            "",
        ] {
            assert_ne!(of(&list, bytes), of(&list, other.as_bytes()), "{other}");
            assert_ne!(
                of(&list, other.as_bytes()),
                of(&list, format!("{other} ").as_bytes()),
                "{other}"
            );
        }
        assert_eq!(
            of(&list, br#"{"ref":{"n":1}}"#),
            of(&list, br#"{"ref":{"n":1},"at":2}"#)
        );
        assert_eq!(SelectionId::Order.fingerprint(None, bytes), None);
    }

    /// Decimal amounts have the fingerprint of their minor units.
    #[test]
    fn amount_counts_however_it_is_written() {
        let fingerprint = |amount: &str| {
            let value = ORDER.replace("150", amount);
            let order = Order::parse_unique(value.as_bytes(), AmountForm::Decimal, None);
            let order = order.expect("an order").0;
            Selection::Order.fingerprint(Some(&order), value.as_bytes()).1
        };
        assert_eq!(fingerprint("1.5"), fingerprint("\"1.50\""));
        assert_ne!(fingerprint("1.5"), fingerprint("1.51"));
        let order = Order::parse(ORDER.as_bytes()).expect("an order");
        let minor = Selection::Order.fingerprint(Some(&order), ORDER.as_bytes());
        assert_eq!(minor.1, fingerprint("1.50"));
    }

    #[test]
    fn setting_is_a_word_or_a_list_of_pointers() {
        let read = |json: &str| serde_json::from_str::<Selection>(json).map_err(|error| error.to_string());
        for text in [r#""order""#, r#""payload""#, r#""none""#, r#"["/a","/b/0"]"#] {
            let selection = read(text).expect(text);
            assert_eq!(serde_json::to_string(&selection).expect("JSON"), text);
        }
        assert_eq!(read(r#"["/b","/a"]"#), read(r#"["/a","/b"]"#), "a set");
        for (text, words) in [
            (r#""amount""#, "must be \"order\""),
            (r#"["amount"]"#, "not a JSON pointer"),
            (r#"["/a~2"]"#, "not a JSON pointer"),
            (r#"[""]"#, "not a JSON pointer"),
            (r#"["/a","/a"]"#, "occurs twice"),
            ("[]", "1 to 16"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn identity_tells_lists_apart() {
        let id = |list: &[&str]| pointers(list).expect("pointers").id();
        assert_eq!(id(&["/a", "/b"]), id(&["/b", "/a"]));
        for other in [&["/a"][..], &["/a/b"], &["/a", "/b", "/c"], &["/a/", "b"][..1]] {
            assert_ne!(id(&["/a", "/b"]), id(other), "{other:?}");
        }
    }
}
