//! Which policy a pending call has: its header's, if a setting names one, or the caller's.

use pipeline::delivery::Policy;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::config::Config;

/// The policies of calls, by the settings.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    header: String,
    without_header: Policy,
    can_look_up: bool,
}

impl Policies {
    /// Those of the settings.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            header: config.caller.policy_header.clone(),
            without_header: config.caller.on_ambiguous.into(),
            can_look_up: !config.verify.url.is_empty(),
        }
    }

    /// The policy of a record. What is not understood is parked: that is the side on which nobody pays twice.
    pub(crate) fn of(&self, record: &BorrowedMessage<'_>) -> Policy {
        if self.header.is_empty() {
            return self.without_header;
        }
        let headers = record.headers();
        let value = headers.and_then(|headers| {
            (0..headers.count())
                .rev()
                .map(|at| headers.get(at))
                .find(|header| header.key == self.header)
        });
        match value {
            None => self.without_header,
            Some(header) => self.named(header.value.unwrap_or_default()),
        }
    }

    fn named(&self, name: &[u8]) -> Policy {
        match Policy::of(name) {
            Some(Policy::Verify) if !self.can_look_up => Policy::Park,
            Some(policy) => policy,
            None => {
                tracing::warn!(
                    header = self.header, value = %String::from_utf8_lossy(name),
                    "the policy of a call is unknown; it is parked if its answer is ambiguous"
                );
                Policy::Park
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_says_goes_and_what_is_not_understood_is_parked() {
        let mut config = Config::default();
        config.caller.policy_header = "x-policy".into();
        let policies = |config: &Config| Policies::new(config);
        for (name, expected) in [
            ("retry", Policy::Retry),
            ("park", Policy::Park),
            ("verify", Policy::Park),
            ("", Policy::Park),
            ("Retry", Policy::Park),
        ] {
            assert_eq!(policies(&config).named(name.as_bytes()), expected, "{name:?}");
        }
        config.verify.url = "http://127.0.0.1/payments/{order_id}".into();
        assert_eq!(policies(&config).named(b"verify"), Policy::Verify);
    }
}
