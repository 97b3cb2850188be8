//! Reporting of API outages, and of rejections in mass, by readiness, logs and metrics.

use std::time::{Instant, SystemTime};

use humantime::format_rfc3339_seconds;
use pipeline::delivery::{Outage, OutageCause};

use crate::effects::Shell;

/// Readiness condition that an outage breaks.
const API: &str = "api";

impl Shell {
    /// Reports that the circuit breaker is open, or that a probe has failed while it was.
    pub(crate) fn outage(&self, outage: &Outage) {
        let reason = reason(
            self.config.api.url_without_query(),
            &self.config.topics.call_dead_letters,
            outage,
            Instant::now(),
            SystemTime::now(),
        );
        match (outage.probes_failed, outage.cause) {
            (0, OutageCause::Unhealthy) => {
                self.metrics.outages.inc();
                tracing::warn!(%reason, "circuit breaker open, calls paused");
            }
            (0, OutageCause::Rejections { .. }) => {
                self.metrics.mass_rejections.inc();
                tracing::error!(
                    %reason,
                    "most calls are rejected, circuit breaker open, calls kept, operator action required"
                );
            }
            // Probes go on for as long as the outage lasts, so only its first line is a warning.
            (_, OutageCause::Unhealthy | OutageCause::Rejections { .. }) => {
                self.metrics.probes_failed.inc();
                tracing::debug!(%reason, "probe failed, circuit breaker stays open");
            }
        }
        self.health.set_unready(API, reason);
    }

    /// Reports that the circuit breaker is closed.
    pub(crate) fn outage_over(&self) {
        self.health.set_ready(API);
        tracing::info!(
            url = self.config.api.url_without_query(),
            "circuit breaker closed, calls resumed"
        );
    }
}

/// Returns the outage as readiness shows it, in wall-clock time.
fn reason(url: &str, dead_letters: &str, outage: &Outage, now: Instant, wall: SystemTime) -> String {
    let at = |instant: Instant| {
        // Instants have no calendar, so they are counted from now; the next probe lies in the future.
        let wall = match now.checked_duration_since(instant) {
            Some(ago) => wall - ago,
            None => wall + instant.duration_since(now),
        };
        format_rfc3339_seconds(wall)
    };
    let status = outage.status.map_or(String::new(), |status| format!(" {status}"));
    let last = format!("{}{status} at {}", outage.kind, at(outage.failed_at));
    let (since, probe_at) = (at(outage.since), at(outage.probe_at));
    match outage.cause {
        OutageCause::Unhealthy => format!(
            "the API at {url} has been unhealthy since {since}: {} consecutive requests failed, the last with \
             {last}; calls are paused, the next probe is at {probe_at}",
            outage.failures,
        ),
        // Without the response itself: it may name a customer, and the dead letters have it.
        OutageCause::Rejections { rejected, of } => format!(
            "the API at {url} has rejected most calls since {since}: {rejected} of {of}, and {} probes were not \
             accepted; the last response was {last}. The route, the account or a setting may be wrong: the first \
             rejected calls are in {dead_letters}, with the responses. All others are kept: calls are paused, \
             the next probe is at {probe_at}, and the first that is accepted ends the pause. If the rejections \
             are right, restart the caller with circuit_breaker.rejection_threshold = 0",
            outage.probes_failed,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reason_names_start_last_failure_and_next_probe() {
        let now = Instant::now() + Duration::from_secs(100);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let mut outage = Outage {
            cause: OutageCause::Unhealthy,
            since: ago(60),
            failures: 17,
            probes_failed: 7,
            kind: "status",
            status: Some(503),
            failed_at: ago(2),
            probe_at: now + Duration::from_secs(3),
        };
        assert_eq!(
            reason("http://api/payments", "dead", &outage, now, wall),
            "the API at http://api/payments has been unhealthy since 2027-01-15T07:59:00Z: 17 consecutive \
             requests failed, the last with status 503 at 2027-01-15T07:59:58Z; calls are paused, the next \
             probe is at 2027-01-15T08:00:03Z"
        );
        (outage.kind, outage.status) = ("no-connection", None);
        let text = reason("http://api/payments", "dead", &outage, now, wall);
        assert!(text.contains("with no-connection at"), "{text}");
        (outage.kind, outage.status) = ("status", Some(404));
        outage.cause = OutageCause::Rejections { rejected: 60, of: 75 };
        let text = reason("http://api/payments", "dead", &outage, now, wall);
        for part in [
            "rejected most calls since 2027-01-15T07:59:00Z: 60 of 75, and 7 probes",
            "the last response was status 404 at 2027-01-15T07:59:58Z",
            "are in dead, with the responses",
            "the next probe is at 2027-01-15T08:00:03Z",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}
