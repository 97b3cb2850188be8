//! The command line.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;

use crate::Faults;

/// A stand-in for a legacy payments API: it charges once per request, not once per order, and counts.
#[derive(Debug, Clone, Parser)]
#[command(name = "legacy-api", version)]
pub struct Settings {
    /// Where payments and everything else are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Serves everything but payments here too, and goes on doing so while the API is down.
    #[arg(long)]
    pub control_listen: Option<SocketAddr>,
    /// Where payments are taken (POST) and looked up (GET PATH/ORDER_ID).
    #[arg(long, default_value = "/payments")]
    pub path: String,
    /// A second request with the same Idempotency-Key gets the first one's answer and charges nothing.
    #[arg(long)]
    pub honour_idempotency_key: bool,
    /// What goes wrong, and how often.
    #[command(flatten)]
    pub faults: Faults,
    /// Goes down this long after its start; needs --down-for.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "down_for")]
    pub down_after: Option<Duration>,
    /// How long it stays down then.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "down_after")]
    pub down_for: Option<Duration>,
    /// Requests to keep on record, about 200 bytes each; after that, payments are answered 507.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_max: u32,
    /// Connections to hold at a time; more wait to be taken.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_max: u32,
    /// Threads that serve; one is the leanest on a small machine.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

impl Settings {
    /// The defaults of the command line, on a free port of the loopback address: for tests.
    pub fn on_a_free_port() -> Self {
        Settings::parse_from(["legacy-api", "--listen", "127.0.0.1:0"])
    }

    /// Refuses settings that cannot be served.
    pub fn check(&self) -> anyhow::Result<()> {
        self.faults.check().context("the faults cannot be played")?;
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
    fn the_flags_default_to_no_faults() {
        let settings = Settings::on_a_free_port();
        assert_eq!(settings.faults, Faults::default());
        assert_eq!(settings.requests_max, 5_000_000);
        settings.check().unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_served_is_refused() {
        for (path, good) in [
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
            assert_eq!(settings.check().is_ok(), good, "{path}");
        }
    }

    #[test]
    fn going_down_needs_both_flags() {
        assert!(Settings::try_parse_from(["legacy-api", "--down-after", "1s"]).is_err());
        assert!(Settings::try_parse_from(["legacy-api", "--down-after", "1s", "--down-for", "1s"]).is_ok());
    }
}
