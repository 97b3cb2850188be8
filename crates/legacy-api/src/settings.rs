//! Command line of the stand-in.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;

use crate::Faults;

/// Stand-in for a legacy payments API. It charges once per request, not once per order, and counts the
/// charges.
#[derive(Debug, Clone, Parser)]
#[command(name = "legacy-api", version)]
pub struct Settings {
    /// Address for payments and everything else; port 0 picks a free port.
    #[arg(long, default_value = "127.0.0.1:8080", env = "LEGACY_API_LISTEN")]
    pub listen: SocketAddr,
    /// Second address for everything but payments, which stays up while the API is down.
    #[arg(long)]
    pub control_listen: Option<SocketAddr>,
    /// Path of payments (POST PATH) and look-ups (GET PATH/ORDER_ID).
    #[arg(long, default_value = "/payments")]
    pub path: String,
    /// Honours the Idempotency-Key header: a second request with one key gets the first response again and
    /// charges nothing.
    #[arg(long)]
    pub honour_idempotency_key: bool,
    /// Faults in force from the start.
    #[command(flatten)]
    pub faults: Faults,
    /// Time after the start at which the API goes down; needs --down-for.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "down_for")]
    pub down_after: Option<Duration>,
    /// Duration of that outage.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "down_after")]
    pub down_for: Option<Duration>,
    /// Maximum number of recorded requests, about 200 bytes each; further payments get 507.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_max: u32,
    /// Maximum number of open connections; further ones wait in the backlog of the kernel.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_max: u32,
    /// Number of serving threads. One is fastest on a small machine.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

impl Settings {
    /// Returns the default settings with a free port on the loopback address, for tests.
    pub fn on_a_free_port() -> Self {
        Settings::parse_from(["legacy-api", "--listen", "127.0.0.1:0"])
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the flag that is invalid.
    pub fn check(&self) -> anyhow::Result<()> {
        self.faults.check().context("the faults are invalid")?;
        // The path becomes a route: braces and percent signs would have a meaning there.
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        ensure!(
            self.path
                .strip_prefix('/')
                .is_some_and(|path| path.split('/').all(plain)),
            "--path {} is not a path such as /payments: segments of letters, digits, '-', '.', '_' and '~'",
            self.path
        );
        // Payments are routed before everything else, and would hide these.
        let taken = ["/stats", "/requests", "/charges", "/control"];
        ensure!(
            !taken
                .iter()
                .any(|own| self.path == *own || self.path.starts_with(&format!("{own}/"))),
            "--path {} hides an endpoint of this program; choose another",
            self.path
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_default_to_no_faults() {
        let settings = Settings::on_a_free_port();
        assert_eq!(settings.faults, Faults::default());
        assert_eq!(settings.requests_max, 5_000_000);
        settings.check().unwrap();
    }

    #[test]
    fn unsuitable_path_is_refused() {
        for (path, is_valid) in [
            ("/payments", true),
            ("/api/v1/payments", true),
            ("payments", false),
            ("/", false),
            ("/payments/", false),
            ("/pay/{id}", false),
            ("/stats", false),
            ("/control/payments", false),
        ] {
            let settings = Settings {
                path: path.into(),
                ..Settings::on_a_free_port()
            };
            assert_eq!(settings.check().is_ok(), is_valid, "{path}");
        }
    }

    #[test]
    fn outage_needs_both_flags() {
        assert!(Settings::try_parse_from(["legacy-api", "--down-after", "1s"]).is_err());
        assert!(Settings::try_parse_from(["legacy-api", "--down-after", "1s", "--down-for", "1s"]).is_ok());
    }
}
