//! A small blocking HTTP client for the programs' admin endpoints and the stand-in API.

use std::time::Duration;

use anyhow::{Context, Result};

/// Asks one server at a time; loopback only, so proxies of the environment are left out.
pub struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Http {
    /// A client that gives up on an answer after a minute: `/requests` of a long run is large.
    ///
    /// # Errors
    /// The client or its runtime cannot be set up.
    pub fn new() -> Result<Self> {
        Ok(Self {
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .build()
                .context("setting up an HTTP client")?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?,
        })
    }

    /// The status and the body of a GET.
    ///
    /// # Errors
    /// No answer came.
    pub fn get(&self, url: &str) -> Result<(u16, String)> {
        self.ask(self.client.get(url))
            .with_context(|| format!("GET {url}"))
    }

    /// The status and the body of a POST without one.
    ///
    /// # Errors
    /// No answer came.
    pub fn post(&self, url: &str) -> Result<(u16, String)> {
        self.ask(self.client.post(url))
            .with_context(|| format!("POST {url}"))
    }

    /// The status and the body of a PUT of JSON.
    ///
    /// # Errors
    /// No answer came.
    pub fn put(&self, url: &str, json: &str) -> Result<(u16, String)> {
        let request = self.client.put(url).header("content-type", "application/json");
        self.ask(request.body(json.to_owned()))
            .with_context(|| format!("PUT {url}"))
    }

    fn ask(&self, request: reqwest::RequestBuilder) -> Result<(u16, String)> {
        self.runtime.block_on(async {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            Ok((status, answer.text().await?))
        })
    }

    /// Whether a GET is answered with 200.
    #[must_use]
    pub fn is_ok(&self, url: &str) -> bool {
        matches!(self.get(url), Ok((200, _)))
    }
}
