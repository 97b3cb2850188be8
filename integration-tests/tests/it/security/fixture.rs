//! The broker that the scenarios of this folder share, its users, and the programs as these users.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use harness::cluster::access_control::AccessControl;
use harness::cluster::secured::{Authority, Issued, SecuredKafka};
use harness::pipeline::{Pipeline, Service};
use harness::process::Process;
use harness::process::settings::Settings;
use kafka::topics::acls::{self, Acl, Names, User};

/// A broker, as long as a scenario uses it.
pub(crate) struct SharedKafka(Option<SecuredKafka>);

/// Returns the broker of the scenarios that run now, or starts one.
pub(crate) fn secured_kafka() -> Result<Arc<SharedKafka>> {
    static SHARED: Mutex<Weak<SharedKafka>> = Mutex::new(Weak::new());
    // Held while it starts: another scenario waits for it.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Ok(running);
    }
    let started = Arc::new(SharedKafka(Some(SecuredKafka::start()?)));
    *shared = Arc::downgrade(&started);
    Ok(started)
}

impl Deref for SharedKafka {
    type Target = SecuredKafka;

    fn deref(&self) -> &SecuredKafka {
        self.0.as_ref().expect("it is taken by drop alone")
    }
}

impl Drop for SharedKafka {
    fn drop(&mut self) {
        // A scenario that failed keeps the broker's log.
        if let Some(kafka) = self.0.take_if(|_| !std::thread::panicking()) {
            kafka.passed();
        }
    }
}

/// How a program connects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    address: String,
    properties: Vec<(&'static str, String)>,
}

impl Access {
    pub(crate) fn to(address: &str, protocol: &str) -> Self {
        Self {
            address: address.to_owned(),
            properties: vec![("security.protocol", protocol.to_owned())],
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.properties.push((name, value.to_owned()));
        self
    }

    pub(crate) fn trusting(self, authority: &Authority) -> Self {
        self.with("ssl.ca.location", &text(&authority.certificate()))
    }

    pub(crate) fn with_client(self, client: &Issued) -> Self {
        self.with("ssl.certificate.location", &text(&client.certificate))
            .with("ssl.key.location", &text(&client.key))
    }

    pub(crate) fn with_user(self, mechanism: &str, user: &str, password: &str) -> Self {
        self.with("sasl.mechanism", mechanism)
            .with("sasl.username", user)
            .with("sasl.password", password)
    }

    /// Returns the settings with this connection.
    pub(crate) fn apply(&self, settings: Settings) -> Settings {
        let settings = settings.with("kafka.bootstrap_servers", &self.address);
        self.properties.iter().fold(settings, |settings, (name, value)| {
            settings.with_property(name, value)
        })
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Names of the pipeline that permissions depend on.
pub(crate) fn names(pipeline: &Pipeline) -> Names<'_> {
    Names {
        topics: &pipeline.topics,
        validators: &pipeline.validator_group,
        callers: &pipeline.caller_group,
    }
}

/// Allows a principal what this user needs, and nothing else. Returns what it is allowed.
pub(crate) fn allow(
    kafka: &SecuredKafka,
    pipeline: &Pipeline,
    user: User,
    principal: &str,
) -> Result<Vec<Acl>> {
    let needed = acls::of(user, names(pipeline));
    AccessControl::of(&kafka.open).allow(principal, &needed)?;
    Ok(needed)
}

/// Describes a validator that connects in this way.
pub(crate) fn validator(pipeline: &Pipeline, number: u32, access: &Access) -> Result<Service> {
    let settings = pipeline
        .validator_settings(number)
        // The transactional ids of all validators begin with the name of their group.
        .with("validator.instance_id", format!("validator-{number}"));
    pipeline.service("validator", number, access.apply(settings))
}

/// Describes a caller that connects in this way.
pub(crate) fn caller(pipeline: &Pipeline, number: u32, api: &str, access: &Access) -> Result<Service> {
    let settings = pipeline
        .caller_settings(number, api)
        .with("caller.instance_id", format!("caller-{number}"));
    pipeline.service("caller", number, access.apply(settings))
}

/// Describes a command of the operator's command line that connects in this way.
pub(crate) fn outbox(pipeline: &Pipeline, name: &str, access: &Access, command: &[&str]) -> Result<Process> {
    let file = pipeline.folder().join(format!("{name}.toml"));
    let settings = pipeline
        .settings(&pipeline.caller_group)
        // `dead-letters replay` asks for the validators' settings.
        .with("validator.record_key", "is-idempotency-key");
    access.apply(settings).write(&file)?;
    Ok(pipeline
        .process(name, "outbox")?
        .arguments(["--config".as_ref(), file.as_os_str()])
        .arguments(command.iter().copied()))
}

/// Fails unless the log has all words, none of the secrets, and no more lines than this.
pub(crate) fn expect_log(
    log: &str,
    name: &str,
    words: &[&str],
    secrets: &[&str],
    lines_max: usize,
) -> Result<()> {
    for word in words {
        ensure!(log.contains(word), "the log of {name} lacks {word:?}:\n{log}");
    }
    for secret in secrets {
        ensure!(!log.contains(secret), "the log of {name} has a secret:\n{log}");
    }
    let lines = log.lines().count();
    ensure!(
        lines <= lines_max,
        "the log of {name} has {lines} lines, more than {lines_max}:\n{log}"
    );
    Ok(())
}
