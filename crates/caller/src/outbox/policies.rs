//! Ambiguity policy of a pending call: that of its policy header, if the settings name one, or the caller's
//! default.

use kafka::Headers;
use pipeline::delivery::Policy;

use crate::config::Config;

/// Choice of the ambiguity policy, by the settings.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    /// Name of the policy header; empty if headers are ignored.
    header: String,
    default: Policy,
    can_look_up: bool,
}

impl Policies {
    /// Reads the policy settings.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            header: config.caller.policy_header.clone(),
            default: config.caller.on_ambiguous.into(),
            can_look_up: !config.verify.url.is_empty(),
        }
    }

    /// Returns the policy of a record with these headers.
    pub(crate) fn of(&self, headers: &Headers<'_>) -> Policy {
        if self.header.is_empty() {
            return self.default;
        }
        match headers.last(&self.header) {
            None => self.default,
            Some(value) => self.named(value.unwrap_or_default()),
        }
    }

    fn named(&self, name: &[u8]) -> Policy {
        match Policy::of(name) {
            // Without a look-up endpoint the outcome cannot be verified; a park at worst delays an order, a
            // retry may pay it twice.
            Some(Policy::Verify) if !self.can_look_up => Policy::Park,
            Some(policy) => policy,
            None => {
                tracing::warn!(
                    header = self.header, value = %String::from_utf8_lossy(name),
                    "unknown policy in the header of a call, using park"
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
    fn policy_header_wins_and_unknown_values_park() {
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
