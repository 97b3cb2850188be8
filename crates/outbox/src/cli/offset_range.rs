//! Range of offsets, as an argument.

use std::str::FromStr;

use records::Offset;

/// Range of offsets, written `A..B`; the second is excluded. It is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetRange {
    pub(crate) from: Offset,
    pub(crate) until: Offset,
}

impl OffsetRange {
    /// Returns whether the offset is in the range.
    pub(crate) fn contains(self, offset: Offset) -> bool {
        (self.from..self.until).contains(&offset)
    }
}

impl FromStr for OffsetRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected two offsets, the second excluded: 1000..2000";
        let (from, until) = text.split_once("..").ok_or(wrong)?;
        let number = |text: &str| text.parse().ok().filter(|offset| *offset >= 0);
        let (from, until) = (number(from).ok_or(wrong)?, number(until).ok_or(wrong)?);
        if from >= until {
            return Err("the range is empty: the second offset is excluded");
        }
        Ok(Self {
            from: Offset(from),
            until: Offset(until),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range = "10..20".parse::<OffsetRange>().expect("a range");
        assert_eq!((range.from, range.until), (Offset(10), Offset(20)));
        assert!(range.contains(Offset(10)) && range.contains(Offset(19)));
        assert!(!range.contains(Offset(9)) && !range.contains(Offset(20)));
        for wrong in ["10", "20..10", "10..10", "-1..5", "a..b", ""] {
            assert!(wrong.parse::<OffsetRange>().is_err(), "{wrong}");
        }
    }
}
