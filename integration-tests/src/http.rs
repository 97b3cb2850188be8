//! A blocking HTTP client for the programs' admin endpoints and the stand-in API.

use std::time::Duration;

use anyhow::{Context, Result};

/// A client for loopback; one request at a time.
pub struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Http {
    /// Creates a client with a timeout of 60 s.
    ///
    /// # Errors
    /// The client or its runtime cannot be set up.
    pub fn new() -> Result<Self> {
        Ok(Self {
            client: reqwest::Client::builder()
                // A proxy of the environment cannot reach loopback servers.
                .no_proxy()
                // `/requests` of a long run is large.
                .timeout(Duration::from_secs(60))
                .build()
                .context("setting up an HTTP client")?,
            // Blocking, because scenarios run on plain threads.
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?,
        })
    }

    /// Sends a GET and returns status and body.
    ///
    /// # Errors
    /// There is no response.
    pub fn get(&self, url: &str) -> Result<(u16, String)> {
        self.send(self.client.get(url))
            .with_context(|| format!("GET {url}"))
    }

    /// Sends a POST without a body and returns status and body.
    ///
    /// # Errors
    /// There is no response.
    pub fn post(&self, url: &str) -> Result<(u16, String)> {
        self.send(self.client.post(url))
            .with_context(|| format!("POST {url}"))
    }

    /// Sends a POST with a JSON body and returns status and body.
    ///
    /// # Errors
    /// There is no response.
    pub fn post_json(&self, url: &str, json: &str) -> Result<(u16, String)> {
        let request = self.client.post(url).header("content-type", "application/json");
        self.send(request.body(json.to_owned()))
            .with_context(|| format!("POST {url}"))
    }

    /// Sends a PUT with a JSON body and returns status and body.
    ///
    /// # Errors
    /// There is no response.
    pub fn put(&self, url: &str, json: &str) -> Result<(u16, String)> {
        let request = self.client.put(url).header("content-type", "application/json");
        self.send(request.body(json.to_owned()))
            .with_context(|| format!("PUT {url}"))
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, String)> {
        self.runtime.block_on(async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok((status, response.text().await?))
        })
    }

    /// Returns true if a GET is answered with 200.
    #[must_use]
    pub fn is_ok(&self, url: &str) -> bool {
        matches!(self.get(url), Ok((200, _)))
    }
}
