//! Ids of topics.

use std::fmt;

/// Id that Kafka gave a topic when it was created. A topic that was deleted and created again has another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicId(String);

/// What brokers without topic ids report: 16 zero bytes.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Maximum length of an id: 16 bytes in base64, without padding.
pub const ID_BYTES_MAX: usize = 22;

impl TopicId {
    /// Takes an id in base64; `None` if the text is none, or the one that stands for no id.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        // Notes separate ids with a colon, which is not in base64.
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
        let is_id = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_base64);
        // librdkafka uses the standard alphabet, and Kafka's own tools the one for URLs. One form for both, or
        // the same topic would look like another one.
        (is_id && text != NO_ID).then(|| Self(text.replace('+', "-").replace('/', "_")))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_base64_is_an_id() {
        let id = TopicId::new("qzWZZ0AiS2+KyFa/Psl03Q").expect("an id");
        assert_eq!(id.as_str(), "qzWZZ0AiS2-KyFa_Psl03Q");
        assert_eq!(TopicId::new(id.as_str()), Some(id));
        for text in [NO_ID, "", "a:b", "a b", "\u{e9}", "qzWZZ0AiS2+KyFasPsl03Q="] {
            assert_eq!(TopicId::new(text), None, "{text}");
        }
    }
}
