//! The HTTP client: it does nothing by itself that might call twice, and shows the certificates of the
//! settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::auth::{Watched, warn_if_others_may_read};
use super::settings::{ApiSettings, TlsSettings};

/// The client of these settings, made anew when its certificates are.
///
/// # Errors
/// Names the setting that is wrong.
pub(super) fn watched(settings: &ApiSettings) -> anyhow::Result<Watched<Client>> {
    let tls = &settings.tls;
    ensure!(
        is_set(&tls.client_cert_file) == is_set(&tls.client_key_file),
        "of the settings api.tls.client_cert_file and api.tls.client_key_file one is set: set both or neither"
    );
    let files = [&tls.ca_file, &tls.client_cert_file, &tls.client_key_file];
    let files = files.into_iter().filter(|file| is_set(file)).cloned().collect();
    let settings = settings.clone();
    Watched::new("api.tls", files, move || client(&settings))
}

fn client(settings: &ApiSettings) -> anyhow::Result<Client> {
    // The guarantees are here: an HTTP/2 GOAWAY is answered by a silent retry, and a 307 repeats the POST
    // elsewhere.
    let mut client = Client::builder()
        .http1_only()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.timeout)
        .pool_idle_timeout(settings.pool_idle_timeout)
        .pool_max_idle_per_host(settings.pool_idle_max)
        .tcp_nodelay(true)
        .user_agent(concat!("outbox-caller/", env!("CARGO_PKG_VERSION")));
    if !settings.proxy_from_environment {
        client = client.no_proxy();
    }
    with_certificates(client, &settings.tls)?
        .build()
        .context("the HTTP client could not be set up with the settings of [api] and [api.tls]")
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
                    "{} holds no certificate in PEM (api.tls.ca_file)",
                    tls.ca_file.display()
                )
            })?;
        client = client.tls_certs_only(certificates);
    }
    if is_set(&tls.client_cert_file) {
        warn_if_others_may_read(&tls.client_key_file);
        let mut pem = read("client_key_file", &tls.client_key_file)?;
        pem.push(b'\n');
        pem.extend(read("client_cert_file", &tls.client_cert_file)?);
        // The error of the library is left out: it has seen the key.
        let identity = Identity::from_pem(&pem).ok().with_context(|| {
            format!(
                "{} and {} are no certificate and key in PEM (api.tls)",
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
