//! Arguments of `metrics` and `health`.

use clap::Args;

use super::WhichGroup;

/// Address of `outbox metrics`, and where `outbox health` asks it.
const METRICS_LISTEN: &str = "127.0.0.1:9466";
/// Environment variable with another one, so that both commands of one container agree.
const METRICS_LISTEN_VARIABLE: &str = "OUTBOX_METRICS_LISTEN";

/// Arguments of the command `metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outbox --config validator.toml metrics
      with the validators' settings file: it tells how amounts are written
  outbox metrics --listen 0.0.0.0:9466 --interval 30")]
pub(crate) struct ServeMetrics {
    #[command(flatten)]
    pub(crate) which: WhichGroup,

    /// Consumer group of the validators: their setting kafka.group_id.
    #[arg(long, value_name = "GROUP", default_value = "order-validator")]
    pub(crate) validators: String,

    /// Address and port of /metrics, /healthz, /readyz and /status.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = METRICS_LISTEN,
        env = METRICS_LISTEN_VARIABLE
    )]
    pub(crate) listen: std::net::SocketAddr,

    /// Time between two readings, in seconds. It is longer if each reading takes more than a tenth of the time.
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}

/// Arguments of the command `health`.
#[derive(Debug, Args)]
pub(crate) struct AskHealth {
    /// Address and port that `outbox metrics` listens on.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = METRICS_LISTEN,
        env = METRICS_LISTEN_VARIABLE
    )]
    pub(crate) listen: std::net::SocketAddr,
}
