//! Old names of settings, each with the name that replaced it.

use service::config::Rename;

/// Settings that are refused under their old names.
pub(crate) const RENAMED_SETTINGS: &[Rename] = &[
    ("stubborn", "deferral"),
    ("stubborn.give_up_after", "deferral.abandon_after"),
    ("outage", "circuit_breaker"),
    ("outage.failures_max", "circuit_breaker.failure_threshold"),
    // [pace] was split, so the section as a whole has no successor.
    ("pace.requests_max", "rate_limit.requests_max"),
    ("pace.requests_per", "rate_limit.per"),
    ("pace.adaptive", "concurrency.adaptive"),
    ("pace.calls_in_flight_min", "concurrency.calls_in_flight_min"),
    ("caller.ownership_max", "caller.ownership_lease"),
    ("caller.begin_ahead_max", "caller.intents_ahead_max"),
    ("caller.drain_max", "caller.drain_timeout"),
    ("caller.calls_held_max", "caller.calls_open_max"),
    ("caller.bytes_held_max", "caller.bytes_open_max"),
    ("api.answers", "api.responses"),
    ("api.answers.retry_if_told", "api.responses.retry_if_retry_after"),
    ("api.answer_bytes_max", "api.response_bytes_max"),
    ("verify.settle", "verify.api_processing_max"),
    ("verify.give_up_after", "verify.park_after"),
];

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Config;

    #[test]
    fn renames_lead_to_settings() {
        service::config::assert_renames_lead_to_settings::<Config>(RENAMED_SETTINGS);
    }

    #[test]
    fn file_of_the_previous_version_is_refused() {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
        file.write_all(
            b"[stubborn]\nwindow_max = 5000\ngive_up_after = \"1h\"\n[pace]\nrequests_per = \"1s\"\n",
        )
        .expect("written");
        let error = service::config::load::<Config>(Some(file.path()), RENAMED_SETTINGS)
            .expect_err("accepted")
            .to_string();
        let path = file.path().display();
        for (old, new) in [
            ("stubborn.window_max", "deferral.window_max"),
            ("stubborn.give_up_after", "deferral.abandon_after"),
            ("pace.requests_per", "rate_limit.per"),
        ] {
            let line = format!("the setting {old} in {path} was renamed: use {new}");
            assert!(
                error.lines().any(|found| found == line),
                "{line:?} is not in: {error}"
            );
        }
    }
}
