//! What is told while the API is ill: readiness says so, and so do logs and metrics.

use std::time::{Instant, SystemTime};

use humantime::format_rfc3339_seconds;
use pipeline::delivery::Outage;

use crate::effects::Shell;

/// The condition of readiness that an outage breaks.
const API: &str = "api";

impl Shell {
    /// The API is ill and calls wait, or a probe of it has failed too.
    pub(crate) fn outage(&self, outage: &Outage) {
        let reason = reason(
            self.config.api.url_without_query(),
            outage,
            Instant::now(),
            SystemTime::now(),
        );
        if outage.probes_failed == 0 {
            self.metrics.outages.inc();
            tracing::warn!(%reason, "the API is ill: calls wait, and nothing is lost");
        } else {
            self.metrics.probes_failed.inc();
            tracing::debug!(%reason, "the API is still ill");
        }
        self.health.set_unready(API, reason);
    }

    /// The API answers again.
    pub(crate) fn outage_over(&self) {
        self.health.set_ready(API);
        tracing::info!(
            url = self.config.api.url_without_query(),
            "the API answers again, and calls go on"
        );
    }
}

/// The outage as a person reads it, by the clock on the wall.
fn reason(url: &str, outage: &Outage, now: Instant, wall: SystemTime) -> String {
    let at = |instant: Instant| {
        let wall = match now.checked_duration_since(instant) {
            Some(ago) => wall - ago,
            None => wall + instant.duration_since(now),
        };
        format_rfc3339_seconds(wall)
    };
    let status = outage.status.map_or(String::new(), |status| format!(" {status}"));
    format!(
        "the API at {url} is ill since {}: {} requests in a row have failed, the last with {}{status} at {}; calls \
         wait, and the next one goes at {} to see whether it is back",
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
    fn the_reason_names_the_api_since_when_the_last_failure_and_the_next_probe() {
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
            "the API at http://api/payments is ill since 2027-01-15T07:59:00Z: 17 requests in a row have failed, the \
             last with status 503 at 2027-01-15T07:59:58Z; calls wait, and the next one goes at \
             2027-01-15T08:00:03Z to see whether it is back"
        );
        (outage.kind, outage.status) = ("no-connection", None);
        let text = reason("http://api/payments", &outage, now, wall);
        assert!(text.contains("with no-connection at"), "{text}");
    }
}
