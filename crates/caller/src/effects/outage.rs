//! Reporting of API outages by readiness, logs and metrics.

use std::time::{Instant, SystemTime};

use humantime::format_rfc3339_seconds;
use pipeline::delivery::Outage;

use crate::effects::Shell;

/// Readiness condition that an outage breaks.
const API: &str = "api";

impl Shell {
    /// Reports that the circuit breaker is open, or that a probe has failed while it was.
    pub(crate) fn outage(&self, outage: &Outage) {
        let reason = reason(
            self.config.api.url_without_query(),
            outage,
            Instant::now(),
            SystemTime::now(),
        );
        if outage.probes_failed == 0 {
            self.metrics.outages.inc();
            tracing::warn!(%reason, "circuit breaker open, calls paused");
        } else {
            self.metrics.probes_failed.inc();
            // Probes go on for as long as the outage lasts, so only its first line is a warning.
            tracing::debug!(%reason, "probe failed, circuit breaker stays open");
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
fn reason(url: &str, outage: &Outage, now: Instant, wall: SystemTime) -> String {
    let at = |instant: Instant| {
        // Instants have no calendar, so they are counted from now; the next probe lies in the future.
        let wall = match now.checked_duration_since(instant) {
            Some(ago) => wall - ago,
            None => wall + instant.duration_since(now),
        };
        format_rfc3339_seconds(wall)
    };
    let status = outage.status.map_or(String::new(), |status| format!(" {status}"));
    format!(
        "the API at {url} has been unhealthy since {}: {} consecutive requests failed, the last with {}{status} \
         at {}; calls are paused, the next probe is at {}",
        at(outage.since),
        outage.failures,
        outage.kind,
        at(outage.failed_at),
        at(outage.probe_at),
    )
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
            since: ago(60),
            failures: 17,
            probes_failed: 7,
            kind: "status",
            status: Some(503),
            failed_at: ago(2),
            probe_at: now + Duration::from_secs(3),
        };
        assert_eq!(
            reason("http://api/payments", &outage, now, wall),
            "the API at http://api/payments has been unhealthy since 2027-01-15T07:59:00Z: 17 consecutive \
             requests failed, the last with status 503 at 2027-01-15T07:59:58Z; calls are paused, the next \
             probe is at 2027-01-15T08:00:03Z"
        );
        (outage.kind, outage.status) = ("no-connection", None);
        let text = reason("http://api/payments", &outage, now, wall);
        assert!(text.contains("with no-connection at"), "{text}");
    }
}
