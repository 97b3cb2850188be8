//! The reqwest client, set up so that it never sends a request twice, with the certificates of the settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use service::secrets::{Watched, warn_if_others_may_read};

use super::settings::{ApiSettings, TlsSettings};

/// Returns the client of these settings, which is rebuilt when a certificate file changes.
///
/// # Errors
/// Names the setting that is invalid.
pub(super) fn watched(settings: &ApiSettings) -> anyhow::Result<Watched<Client>> {
    let tls = &settings.tls;
    ensure!(
        is_set(&tls.client_cert_file) == is_set(&tls.client_key_file),
        "only one of the settings api.tls.client_cert_file and api.tls.client_key_file is set: set both or \
         neither"
    );
    let files = [&tls.ca_file, &tls.client_cert_file, &tls.client_key_file];
    let files = files.into_iter().filter(|file| is_set(file)).cloned().collect();
    let settings = settings.clone();
    Watched::new("api.tls", files, move || client(&settings))
}

fn client(settings: &ApiSettings) -> anyhow::Result<Client> {
    // The guarantees depend on these settings, so none is left to a default of the library.
    let mut client = Client::builder()
        // On an HTTP/2 GOAWAY the client retries a request silently, and the send latch is not proved for
        // HTTP/2.
        .http1_only()
        // The only retries are those that the pipeline decides on.
        .retry(reqwest::retry::never())
        // A 307 or 308 would repeat the POST at another address.
        .redirect(reqwest::redirect::Policy::none())
        // The URL may carry a secret in its query, and a Referer header would repeat it.
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.timeout)
        .pool_idle_timeout(settings.pool_idle_timeout)
        .pool_max_idle_per_host(settings.pool_idle_max)
        // Requests are small: Nagle's algorithm would hold each until the previous packet is acknowledged.
        .tcp_nodelay(true)
        .user_agent(concat!("outbox-caller/", env!("CARGO_PKG_VERSION")));
    // The library's default is 30 s, which look-ups would have to wait for. Without any, the kernel sends a
    // request again for a quarter of an hour, after its sender has gone.
    #[cfg(target_os = "linux")]
    {
        client = client.tcp_user_timeout(settings.transport_timeout);
    }
    if !settings.proxy_from_environment {
        client = client.no_proxy();
    }
    with_certificates(client, &settings.tls)?
        .build()
        .context("building the HTTP client from the settings of [api] and [api.tls]")
}

fn with_certificates(mut client: ClientBuilder, tls: &TlsSettings) -> anyhow::Result<ClientBuilder> {
    let read = |setting: &str, file: &PathBuf| {
        std::fs::read(file).with_context(|| format!("reading {} (api.tls.{setting})", file.display()))
    };
    if is_set(&tls.ca_file) {
        let certificates = Certificate::from_pem_bundle(&read("ca_file", &tls.ca_file)?)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .with_context(|| {
                format!(
                    "{} contains no PEM certificate (api.tls.ca_file)",
                    tls.ca_file.display()
                )
            })?;
        // In place of the system's authorities: a private API needs no public one, and each is a risk.
        client = client.tls_certs_only(certificates);
    }
    if is_set(&tls.client_cert_file) {
        warn_if_others_may_read(&tls.client_key_file);
        let mut pem = read("client_key_file", &tls.client_key_file)?;
        // The key file may lack its last line break, and PEM begins each part on a line of its own.
        pem.push(b'\n');
        pem.extend(read("client_cert_file", &tls.client_cert_file)?);
        // The library's error is dropped: it may quote the key.
        let identity = Identity::from_pem(&pem).ok().with_context(|| {
            format!(
                "{} and {} are not a certificate and its key in PEM (api.tls)",
                tls.client_cert_file.display(),
                tls.client_key_file.display()
            )
        })?;
        client = client.identity(identity);
    }
    Ok(client)
}

fn is_set(file: &Path) -> bool {
    !file.as_os_str().is_empty()
}
