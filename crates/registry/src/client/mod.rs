//! HTTP client of the registry, and the gathering of a schema with all that it refers to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client, Url};
use schemas::{Answer, Format, Reference, Schema, SchemaId, SchemaText, Unread, Unusable};
use service::secrets::{Secret, Watched};

use crate::answer::{self, Found, FoundReference, Said};
use crate::settings::{RegistryAuthKind, RegistrySettings};

/// Maximum size of a response, in bytes.
const RESPONSE_BYTES_MAX: usize = 2 << 20;
/// Maximum number of schemas that a schema refers to, through others included.
const REFERENCES_MAX: usize = 64;
/// Maximum number of references from one to the next.
const DEPTH_MAX: usize = 16;
/// Query for a version that may be deleted: what refers to it is still used, and registries follow it themselves.
const WITH_DELETED: &str = "deleted=true";

/// Client of a registry.
pub(crate) struct RegistryClient {
    urls: Vec<Url>,
    client: Watched<Client>,
    authorization: Option<Watched<HeaderValue>>,
}

/// Reason for which a schema was not gathered.
enum Failure {
    /// Not answered. Asking again may help.
    Unavailable(String),
    Unknown(String),
    Unusable(String),
}

impl RegistryClient {
    /// Creates a client. Connects to nothing.
    ///
    /// # Errors
    /// Names the setting that is invalid.
    pub(crate) fn new(settings: &RegistrySettings) -> anyhow::Result<Self> {
        let ca_file = &settings.tls.ca_file;
        let files: Vec<PathBuf> = (!ca_file.as_os_str().is_empty())
            .then(|| ca_file.clone())
            .into_iter()
            .collect();
        let for_client = settings.clone();
        let user = settings.auth.user.clone();
        let secret = &settings.auth.secret;
        const SECRET: &str = "schema_registry.auth.secret";
        Ok(Self {
            urls: settings
                .urls
                .iter()
                .map(|url| {
                    // A path without a slash at its end would be replaced.
                    Url::parse(&format!("{}/", url.trim_end_matches('/'))).context("schema_registry.urls")
                })
                .collect::<anyhow::Result<_>>()?,
            client: Watched::new("schema_registry.tls", files, move || client(&for_client))?,
            authorization: match settings.auth.kind {
                RegistryAuthKind::None => None,
                RegistryAuthKind::Bearer => {
                    Some(secret.watched(SECRET, |secret| Secret::header("Bearer ", secret.reveal()))?)
                }
                RegistryAuthKind::Basic => {
                    Some(secret.watched(SECRET, move |secret| Secret::basic(&user, secret.reveal()))?)
                }
            },
        })
    }

    /// Asks for a schema.
    ///
    /// # Errors
    /// No URL has answered; the text says what came from each.
    pub(crate) async fn schema(&self, id: SchemaId) -> Result<Answer, String> {
        match self.gather(id).await {
            Ok(text) => Ok(match Schema::parse(&text) {
                Ok(schema) => Answer::Known(Arc::new(schema)),
                Err(why) => Answer::Unusable(why),
            }),
            Err(Failure::Unusable(why)) => Ok(Answer::Unusable(Unusable(why))),
            Err(Failure::Unknown(why)) => Ok(Answer::Unknown(why)),
            Err(Failure::Unavailable(why)) => Err(why),
        }
    }

    async fn gather(&self, id: SchemaId) -> Result<SchemaText, Failure> {
        let Found {
            schema,
            schema_type,
            references,
        } = self.get(&["schemas", "ids", &id.to_string()], None).await?;
        let name = schema_type.unwrap_or_else(|| "AVRO".into());
        let format = Format::of(&name)
            .ok_or_else(|| Failure::Unusable(format!("its type is {name:.32?}, which is not known here")))?;
        // Depth first, so that each comes after those that it refers to. A name that comes again is the same schema.
        let mut gathered = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![Open::new(None, references)];
        while let Some(mut last) = open.pop() {
            let Some(next) = last.references.next() else {
                gathered.extend(last.schema);
                continue;
            };
            open.push(last);
            if !seen.insert(next.name.clone()) {
                continue;
            }
            if seen.len() > REFERENCES_MAX || open.len() > DEPTH_MAX {
                return Err(Failure::Unusable(format!(
                    "it refers to more than {REFERENCES_MAX} schemas, or through more than {DEPTH_MAX}"
                )));
            }
            let version = next.version.to_string();
            let path = ["subjects", &next.subject, "versions", &version];
            let found = self.get(&path, Some(WITH_DELETED)).await?;
            let schema = Reference {
                name: next.name,
                text: found.schema,
            };
            open.push(Open::new(Some(schema), found.references));
        }
        Ok(SchemaText {
            format,
            text: schema,
            references: gathered,
        })
    }

    /// Requests a schema at a path with a query, of each URL until one has answered.
    async fn get(&self, path: &[&str], query: Option<&str>) -> Result<Found, Failure> {
        let mut failures = Vec::new();
        for base in &self.urls {
            let mut url = base.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path);
            }
            url.set_query(query);
            match self.said(url.clone()).await {
                Ok(Said::Schema(found)) => return Ok(found),
                Ok(Said::Unknown(code)) => {
                    return Err(Failure::Unknown(format!("GET {url} responded with error {code}")));
                }
                Ok(Said::Nothing(why)) => failures.push(format!("GET {url} {why}")),
                Err(TooLarge) if failures.is_empty() => {
                    return Err(Failure::Unusable(format!(
                        "it has more than {RESPONSE_BYTES_MAX} bytes"
                    )));
                }
                Err(TooLarge) => failures.push(format!("GET {url} responded with too much")),
            }
        }
        Err(Failure::Unavailable(failures.join("; ")))
    }

    async fn said(&self, url: Url) -> Result<Said, TooLarge> {
        let mut request = self
            .client
            .get()
            .get(url)
            .header(ACCEPT, "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.get());
        }
        let failed =
            |error: reqwest::Error| Said::Nothing(format!("failed: {}", causes(&error.without_url())));
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(failed(error)),
        };
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > RESPONSE_BYTES_MAX => {
                    return match response.status().as_u16() {
                        200 => Err(TooLarge),
                        status => Ok(Said::Nothing(format!("responded {status} with too much"))),
                    };
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(answer::read(response.status().as_u16(), &body)),
                // Part of an answer is none.
                Err(error) => return Ok(failed(error)),
            }
        }
    }
}

/// Response with a schema that is larger than any that is used.
struct TooLarge;

/// Schema whose references are being gathered.
struct Open {
    schema: Option<Reference>,
    references: std::vec::IntoIter<FoundReference>,
}

impl Open {
    fn new(schema: Option<Reference>, references: Option<Vec<FoundReference>>) -> Self {
        Self {
            schema,
            references: references.unwrap_or_default().into_iter(),
        }
    }
}

/// Asks for the schema of a value, and returns the document that it reads the value as; `None` if the settings name no
/// registry, or the value is not in the wire format. For commands: blocks, and asks once.
///
/// # Errors
/// The registry has not answered, or the value cannot be read.
pub fn document(settings: &RegistrySettings, value: &[u8]) -> anyhow::Result<Option<String>> {
    let Some((mut schemas, (id, _))) = settings.schemas().zip(schemas::wire::split(value)) else {
        return Ok(None);
    };
    let client = RegistryClient::new(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the client of the schema registry")?;
    let answer = runtime
        .block_on(client.schema(id))
        .map_err(|why| anyhow!("schema {id} of the order was not read: {why}"))?;
    let now = Instant::now();
    schemas.insert(id, answer, now);
    match schemas.read(value, false, now) {
        Ok(document) => Ok(Some(document.into_owned())),
        Err(Unread::Needs(id)) => bail!("schema {id} of the order is not known"),
        Err(Unread::Invalid(why) | Unread::UnknownSchema(why) | Unread::UnusableSchema(why)) => {
            bail!("{why}")
        }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn client(settings: &RegistrySettings) -> anyhow::Result<Client> {
    let mut client = Client::builder()
        // Each request is repeated by the thread, with its own backoff.
        .retry(reqwest::retry::never())
        // Credentials belong to the hosts of the settings.
        .redirect(reqwest::redirect::Policy::none())
        .timeout(settings.timeout)
        .connect_timeout(settings.timeout)
        .no_proxy()
        .user_agent(concat!("outbox-pipeline/", env!("CARGO_PKG_VERSION")));
    let ca_file = &settings.tls.ca_file;
    if !ca_file.as_os_str().is_empty() {
        let pem = std::fs::read(ca_file)
            .with_context(|| format!("reading {} (schema_registry.tls.ca_file)", ca_file.display()))?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .with_context(|| {
                format!(
                    "{} contains no PEM certificate (schema_registry.tls.ca_file)",
                    ca_file.display()
                )
            })?;
        client = client.tls_certs_only(certificates);
    }
    client
        .build()
        .context("building the HTTP client from the settings of [schema_registry]")
}

#[cfg(test)]
mod tests;
