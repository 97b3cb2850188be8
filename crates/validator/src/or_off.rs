//! Settings that are a value or `"off"`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer, de};

/// Text of a setting that is switched off.
const OFF: &str = "off";

/// Time, as `"30d"`.
pub(crate) mod duration {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(&humantime::format_duration(*time)),
            None => to.serialize_str(OFF),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        value_or_off(from, "a time such as \"30d\"", |text| {
            humantime::parse_duration(text).ok()
        })
    }
}

/// Size, as `"20GiB"`.
pub(crate) mod size {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(size: &Option<ByteSize>, to: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => to.collect_str(size),
            None => to.serialize_str(OFF),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ByteSize>, D::Error> {
        value_or_off(from, "a size such as \"20GiB\"", |text| text.parse().ok())
    }
}

fn value_or_off<'de, D: Deserializer<'de>, T>(
    from: D,
    form: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(from)?;
    if text == OFF {
        return Ok(None);
    }
    let wrong = || de::Error::custom(format!("{text:?} is neither {form} nor {OFF:?}"));
    parse(&text).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        #[serde(with = "duration")]
        time: Option<Duration>,
        #[serde(with = "size")]
        size: Option<ByteSize>,
    }

    #[test]
    fn value_or_off_round_trips_and_others_are_refused() {
        let read = |time: &str, size: &str| {
            serde_json::from_value::<Settings>(serde_json::json!({"time": time, "size": size}))
        };
        let day = Some(Duration::from_secs(86_400));
        for (time, size, expected) in [
            ("1d", "1GiB", (day, Some(ByteSize::gib(1)))),
            ("off", "off", (None, None)),
        ] {
            let settings = read(time, size).expect("settings");
            assert_eq!((settings.time, settings.size), expected);
            let text = serde_json::to_string(&settings).expect("text");
            assert_eq!(
                serde_json::from_str::<Settings>(&text).expect("the same"),
                settings
            );
        }
        let error = read("never", "off").expect_err("no time").to_string();
        assert!(
            error.contains("\"never\" is neither a time such as \"30d\" nor \"off\""),
            "{error}"
        );
    }
}
