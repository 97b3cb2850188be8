//! Statuses and their classes, as the settings list them.

use std::fmt;
use std::str::FromStr;

use super::StatusClass;

/// Entry for one or more statuses in the settings. A narrower entry goes before a wider one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// One status, such as `503`.
    Exactly(u16),
    /// Range of statuses, both ends included, such as `520-527`.
    Range(u16, u16),
    /// Hundred of statuses with this first digit, such as `5xx`.
    Hundred(u16),
}

/// Error in the classes of statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStatusClasses {
    /// The entry is no status, range or hundred.
    #[error(
        "{0:?} is no HTTP status: expected one such as \"503\", a range such as \"520-527\", or a hundred \
         such as \"5xx\""
    )]
    NotAStatus(String),
    /// Two entries of the same width put one status into two classes.
    #[error(
        "the status {status} is in {} by {one}, and in {} by {other}; take it out of one of them",
        one_class.as_str(), other_class.as_str()
    )]
    Twice {
        /// First status that is in both.
        status: u16,
        /// Entry of one class.
        one: Statuses,
        /// Class of that entry.
        one_class: StatusClass,
        /// Entry of the other class.
        other: Statuses,
        /// Class of the other entry.
        other_class: StatusClass,
    },
}

// RFC 9110, section 15: status codes are three digits, and the first one is 1 to 5.
const FIRST: u16 = 100;
const LAST: u16 = 599;

/// Class of each status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusTable {
    settings: Vec<(Statuses, StatusClass)>,
}

impl StatusTable {
    pub(super) fn new(
        settings: impl IntoIterator<Item = (Statuses, StatusClass)>,
    ) -> Result<Self, InvalidStatusClasses> {
        let mut settings: Vec<(Statuses, StatusClass)> = settings.into_iter().collect();
        // Narrow ones first: the first entry that contains a status decides.
        settings.sort_by_key(|(statuses, _)| statuses.width());
        for (at, &(one, one_class)) in settings.iter().enumerate() {
            for &(other, other_class) in &settings[at + 1..] {
                // A narrower entry overrides a wider one on purpose; two of the same width contradict each
                // other.
                let same_width = one.width() == other.width();
                if let Some(status) = one.first_in_both(other)
                    && same_width
                    && one_class != other_class
                {
                    return Err(InvalidStatusClasses::Twice {
                        status,
                        one,
                        one_class,
                        other,
                        other_class,
                    });
                }
            }
        }
        Ok(Self { settings })
    }

    pub(super) fn class(&self, status: u16) -> StatusClass {
        let found = self
            .settings
            .iter()
            .find(|(statuses, _)| statuses.contain(status));
        // Without a class, ambiguous is the one side on which no call is repeated or dropped unnoticed.
        found.map_or(StatusClass::Ambiguous, |&(_, class)| class)
    }
}

impl Statuses {
    /// Returns `true` if a status is one of these.
    #[must_use]
    pub fn contain(self, status: u16) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&status)
    }

    /// Returns the first status that is in both.
    #[must_use]
    pub fn first_in_both(self, other: Self) -> Option<u16> {
        let ((first, last), (other_first, other_last)) = (self.bounds(), other.bounds());
        let both = first.max(other_first);
        (both <= last.min(other_last)).then_some(both)
    }

    const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Exactly(status) => (status, status),
            Self::Range(first, last) => (first, last),
            Self::Hundred(digit) => (digit * 100, digit * 100 + 99),
        }
    }

    const fn width(self) -> u8 {
        match self {
            Self::Exactly(_) => 0,
            Self::Range(..) => 1,
            Self::Hundred(_) => 2,
        }
    }
}

impl FromStr for Statuses {
    type Err = InvalidStatusClasses;

    fn from_str(text: &str) -> Result<Self, InvalidStatusClasses> {
        let hundred = || Some(Self::Hundred(digits(text.strip_suffix("xx")?, 1..=5)?));
        let range = || {
            let (first, last) = text.split_once('-')?;
            let first = digits(first, FIRST..=LAST)?;
            Some(Self::Range(first, digits(last, first..=LAST)?))
        };
        let one = || Some(Self::Exactly(digits(text, FIRST..=LAST)?));
        one()
            .or_else(range)
            .or_else(hundred)
            .ok_or_else(|| InvalidStatusClasses::NotAStatus(text.to_owned()))
    }
}

/// Parses a number within bounds.
fn digits(text: &str, within: std::ops::RangeInclusive<u16>) -> Option<u16> {
    // Digits only: `parse` would also accept a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| within.contains(number))
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => write!(f, "\"{status}\""),
            Self::Range(first, last) => write!(f, "\"{first}-{last}\""),
            Self::Hundred(digit) => write!(f, "\"{digit}xx\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lists: &[(&str, StatusClass)]) -> Result<StatusTable, InvalidStatusClasses> {
        let parsed: Result<Vec<_>, _> = lists
            .iter()
            .map(|(statuses, class)| Ok((statuses.parse()?, *class)))
            .collect();
        StatusTable::new(parsed?)
    }

    #[test]
    fn narrower_entry_goes_before_a_wider_one() {
        let table = table(&[
            ("5xx", StatusClass::Ambiguous),
            ("520-527", StatusClass::Retry),
            ("525", StatusClass::Rejected),
        ])
        .expect("a table");
        for (status, class) in [
            (519, StatusClass::Ambiguous),
            (520, StatusClass::Retry),
            (525, StatusClass::Rejected),
            (527, StatusClass::Retry),
            (528, StatusClass::Ambiguous),
            (200, StatusClass::Ambiguous),
        ] {
            assert_eq!(table.class(status), class, "{status}");
        }
    }

    #[test]
    fn contradicting_classes_are_refused_by_name() {
        for (lists, names) in [
            (
                [("503", StatusClass::Ambiguous), ("503", StatusClass::Retry)],
                "the status 503 is in ambiguous by \"503\", and in retry by \"503\"",
            ),
            (
                [
                    ("520-527", StatusClass::Ambiguous),
                    ("525-530", StatusClass::Rejected),
                ],
                "the status 525 is in ambiguous by \"520-527\", and in rejected by \"525-530\"",
            ),
            (
                [
                    ("4xx", StatusClass::Accepted),
                    ("4xx", StatusClass::RetryIfRetryAfter),
                ],
                "the status 400 is in accepted by \"4xx\", and in retry_if_retry_after by \"4xx\"",
            ),
        ] {
            let refused = table(&lists).expect_err(names).to_string();
            assert!(refused.contains(names), "{refused}");
        }
        assert!(table(&[("4xx", StatusClass::Retry), ("4xx", StatusClass::Retry)]).is_ok());
        assert!(
            table(&[
                ("520-527", StatusClass::Retry),
                ("528-530", StatusClass::Accepted)
            ])
            .is_ok()
        );
    }

    #[test]
    fn malformed_statuses_are_refused() {
        for wrong in [
            "", "xx", "6xx", "0xx", "2XX", "99", "600", "+200", "2xxx", "20", "-1", "500-", "-500",
            "504-500", "500-600", "5xx-6xx", " 200",
        ] {
            assert!(
                wrong.parse::<Statuses>().is_err(),
                "{wrong:?} was parsed as a status"
            );
        }
    }
}
