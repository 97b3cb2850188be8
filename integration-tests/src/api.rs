//! The stand-in for the legacy API, and what it says that it saw.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use legacy_api::{RequestLine, Stats};

use crate::http::Http;
use crate::pipeline::Pipeline;
use crate::process::{Process, free_port};
use crate::wait::await_until;

/// The running stand-in. Its control address goes on answering while the API is down.
pub struct Api {
    /// The process.
    pub process: Process,
    /// Where payments are taken.
    pub url: String,
    /// Where its statistics and records are.
    pub control: String,
    http: Http,
}

/// Faults of every kind, at rates that a pipeline gets over within seconds, at an API that takes so long.
#[must_use]
pub fn faults(seed: u64, latency: Duration) -> Vec<String> {
    [
        ("--seed", seed.to_string()),
        ("--latency", format!("{}ms", latency.as_millis())),
        ("--before-500", "0.004".into()),
        ("--before-503", "0.004".into()),
        ("--before-reset", "0.004".into()),
        ("--throttle", "0.004".into()),
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

/// The faults of an API at its worst: one answer of twenty is lost after the call was processed, and one connection of
/// twenty is reset, before that or after.
#[must_use]
pub fn many_faults(seed: u64, latency: Duration) -> Vec<String> {
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
        if let Some(place) = faults.iter().position(|argument| argument == flag) {
            share.clone_into(&mut faults[place + 1]);
        }
    }
    faults
}

impl Api {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(pipeline: &Pipeline, faults: &[String]) -> Result<Self> {
        let (port, control_port) = (free_port()?, free_port()?);
        let mut api = Self {
            process: pipeline
                .process("legacy-api", "legacy-api")?
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
            if let Some(status) = api.process.look()? {
                bail!("the stand-in API ended with {status}");
            }
            Ok(match api.http.is_ok(&stats) {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue("no answer".into()),
            })
        })?;
        Ok(api)
    }

    /// Takes the API down for a while.
    ///
    /// # Errors
    /// The control address does not answer.
    pub fn go_down(&self, time: Duration) -> Result<()> {
        let url = format!("{}/control/down?for={}ms", self.control, time.as_millis());
        let (status, body) = self.http.post(&url)?;
        ensure!(status == 200, "POST {url} was answered {status}: {body}");
        Ok(())
    }

    /// Ends the time for which it is down.
    ///
    /// # Errors
    /// The control address does not answer.
    pub fn come_back(&self) -> Result<()> {
        self.go_down(Duration::ZERO)
    }

    /// Changes the faults that the JSON names.
    ///
    /// # Errors
    /// The control address does not answer, or refuses them.
    pub fn change_faults(&self, changes: &str) -> Result<()> {
        let url = format!("{}/control/faults", self.control);
        let (status, body) = self.http.put(&url, changes)?;
        ensure!(status == 200, "PUT {url} was answered {status}: {body}");
        Ok(())
    }

    /// How many orders it has turned away and never taken.
    ///
    /// # Errors
    /// The control address does not answer, or the record is incomplete.
    pub fn stubborn_orders(&self) -> Result<u64> {
        let requests = self.requests()?;
        let taken: HashSet<&str> = requests
            .iter()
            .filter(|request| request.answered != Some(429))
            .map(|request| request.order_id.as_str())
            .collect();
        let orders: HashSet<&str> = requests.iter().map(|request| request.order_id.as_str()).collect();
        Ok(orders.difference(&taken).count() as u64)
    }

    /// Its counts.
    ///
    /// # Errors
    /// The control address does not answer.
    pub fn stats(&self) -> Result<Stats> {
        let body = self.ask("/stats")?;
        serde_json::from_str(&body).context("reading the API's statistics")
    }

    /// Every request that it ever had, in order of arrival.
    ///
    /// # Errors
    /// The control address does not answer, or the record is incomplete.
    pub fn requests(&self) -> Result<Vec<RequestLine>> {
        let stats = self.stats()?;
        ensure!(
            stats.refused_full == 0,
            "the API's record is full; {} requests are not on it",
            stats.refused_full
        );
        let lines: Vec<RequestLine> = self
            .ask("/requests")?
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("reading the API's record: {line}"))
            })
            .collect::<Result<_>>()?;
        ensure!(
            lines.len() as u64 >= stats.requests,
            "the API counts {} requests and has {} on record",
            stats.requests,
            lines.len()
        );
        Ok(lines)
    }

    fn ask(&self, path: &str) -> Result<String> {
        let url = format!("{}{path}", self.control);
        let (status, body) = self.http.get(&url)?;
        ensure!(status == 200, "GET {url} was answered {status}: {body}");
        Ok(body)
    }
}
