//! The stand-in for the legacy API, with its faults and its record of requests.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use legacy_api::{RequestLine, Stats};

use crate::http::Http;
use crate::pipeline::Pipeline;
use crate::process::{Process, free_port};
use crate::wait::await_until;

/// A running stand-in for the API; dropping it kills the process.
pub struct Api {
    /// Process of the stand-in.
    pub process: Process,
    /// URL of the payments endpoint.
    pub url: String,
    /// Base URL of the control endpoint, which answers during an outage too.
    pub control: String,
    http: Http,
}

/// Returns arguments for faults of every kind, at rates from which a pipeline recovers within seconds.
#[must_use]
pub fn faults(seed: u64, latency: Duration) -> Vec<String> {
    [
        ("--seed", seed.to_string()),
        ("--latency", format!("{}ms", latency.as_millis())),
        // Failed before the call was processed.
        ("--before-500", "0.004".into()),
        ("--before-503", "0.004".into()),
        ("--before-reset", "0.004".into()),
        ("--throttle", "0.004".into()),
        // Processed, and the response is lost.
        ("--lost-silence", "0.002".into()),
        ("--lost-reset", "0.004".into()),
        ("--lost-close", "0.004".into()),
        ("--lost-500", "0.004".into()),
        ("--lost-502", "0.004".into()),
        ("--lost-504", "0.004".into()),
        ("--slow", "0.002".into()),
        ("--slow-for", "300ms".into()),
        ("--reject", "0.01".into()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

/// Returns arguments for high fault rates: about 5 % of the responses are lost after the call was processed,
/// and 5 % of the connections are reset before or after it.
#[must_use]
pub fn many_faults(seed: u64, latency: Duration) -> Vec<String> {
    // Not a repeated flag: the stand-in refuses one that is given twice.
    let mut faults = faults(seed, latency);
    let worse = [
        ("--before-reset", "0.025"),
        ("--lost-silence", "0.005"),
        ("--lost-reset", "0.025"),
        ("--lost-close", "0.015"),
        ("--lost-500", "0.01"),
        ("--lost-502", "0.01"),
        ("--lost-504", "0.01"),
    ];
    for (flag, share) in worse {
        // The value follows its flag.
        if let Some(index) = faults.iter().position(|argument| argument == flag) {
            share.clone_into(&mut faults[index + 1]);
        }
    }
    faults
}

impl Api {
    /// Starts the stand-in and waits until it answers.
    ///
    /// # Errors
    /// It exits, or does not answer within 20 s.
    pub fn start(pipeline: &Pipeline, faults: &[String]) -> Result<Self> {
        Self::start_as("legacy-api", pipeline, faults)
    }

    /// Starts a stand-in whose process and log have this name, and waits until it answers.
    ///
    /// # Errors
    /// It exits, or does not answer within 20 s.
    pub fn start_as(name: &str, pipeline: &Pipeline, faults: &[String]) -> Result<Self> {
        // Two listeners: the control endpoint must answer while the payments endpoint is down.
        let (port, control_port) = (free_port()?, free_port()?);
        let mut api = Self {
            process: pipeline
                .process(name, "legacy-api")?
                .arguments([format!("--listen=127.0.0.1:{port}")])
                .arguments([format!("--control-listen=127.0.0.1:{control_port}")])
                .arguments(faults),
            url: format!("http://127.0.0.1:{port}/payments"),
            control: format!("http://127.0.0.1:{control_port}"),
            http: Http::new()?,
        };
        api.process.start()?;
        let stats = format!("{}/stats", api.control);
        await_until("the stand-in API answers", Duration::from_secs(20), || {
            // Fails at once, not at the timeout: a port taken meanwhile ends the process immediately.
            if let Some(status) = api.process.try_wait()? {
                bail!("the stand-in API exited with {status}");
            }
            Ok(match api.http.is_ok(&stats) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue("no response".into()),
            })
        })?;
        Ok(api)
    }

    /// Takes the API down for this long.
    ///
    /// # Errors
    /// The control endpoint does not answer.
    pub fn go_down(&self, time: Duration) -> Result<()> {
        let url = format!("{}/control/down?for={}ms", self.control, time.as_millis());
        let (status, body) = self.http.post(&url)?;
        ensure!(status == 200, "POST {url} returned {status}: {body}");
        Ok(())
    }

    /// Ends an outage early.
    ///
    /// # Errors
    /// The control endpoint does not answer.
    pub fn come_back(&self) -> Result<()> {
        // A new outage replaces the current one, so one of no length ends it.
        self.go_down(Duration::ZERO)
    }

    /// Changes the faults named in this JSON object.
    ///
    /// # Errors
    /// The control endpoint does not answer, or refuses them.
    pub fn change_faults(&self, changes: &str) -> Result<()> {
        let url = format!("{}/control/faults", self.control);
        let (status, body) = self.http.put(&url, changes)?;
        ensure!(status == 200, "PUT {url} returned {status}: {body}");
        Ok(())
    }

    /// Returns the number of orders whose requests were all answered with 429.
    ///
    /// # Errors
    /// The control endpoint does not answer, or the record is incomplete.
    pub fn always_throttled_orders(&self) -> Result<u64> {
        let requests = self.requests()?;
        let processed: HashSet<&str> = requests
            .iter()
            .filter(|request| request.answered != Some(429))
            .map(|request| request.order_id.as_str())
            .collect();
        let orders: HashSet<&str> = requests.iter().map(|request| request.order_id.as_str()).collect();
        Ok(orders.difference(&processed).count() as u64)
    }

    /// Returns the counters of the stand-in.
    ///
    /// # Errors
    /// The control endpoint does not answer.
    pub fn stats(&self) -> Result<Stats> {
        let body = self.fetch("/stats")?;
        serde_json::from_str(&body).context("parsing the API's statistics")
    }

    /// Returns all requests so far, in order of arrival.
    ///
    /// # Errors
    /// The control endpoint does not answer, or the record is incomplete.
    pub fn requests(&self) -> Result<Vec<RequestLine>> {
        let stats = self.stats()?;
        // A missing request could be the second charge of an order: an incomplete record proves nothing.
        ensure!(
            stats.refused_full == 0,
            "the API's record is full and lacks {} requests",
            stats.refused_full
        );
        let lines: Vec<RequestLine> = self
            .fetch("/requests")?
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .with_context(|| format!("parsing a line of the API's record: {line}"))
            })
            .collect::<Result<_>>()?;
        // At least: requests may arrive between the two reads.
        ensure!(
            lines.len() as u64 >= stats.requests,
            "the API counted {} requests but recorded {}",
            stats.requests,
            lines.len()
        );
        Ok(lines)
    }

    fn fetch(&self, path: &str) -> Result<String> {
        let url = format!("{}{path}", self.control);
        let (status, body) = self.http.get(&url)?;
        ensure!(status == 200, "GET {url} returned {status}: {body}");
        Ok(body)
    }
}
