//! One pipeline under test: topics, groups, a folder and settings of its own, and the programs' processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use records::{Timestamp, Topics};

use crate::cluster::broker::{self, Broker};
use crate::cluster::{self, Administrator};
use crate::process::settings::Settings;
use crate::process::{self, Process, free_port};
use crate::proxy::{Proxy, Rule};
use crate::wait::interrupted;

/// How long a caller waits for an answer here, so that lost answers come to light soon. An API on a machine that stands
/// still for half of it takes requests up so late that their callers seem to have left before their time.
pub const API_TIMEOUT: Duration = Duration::from_secs(2);
/// The session time-out here: how soon a frozen process is shut out. 6 s is the broker's minimum.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// What all its programs share. Dropped without [`Pipeline::passed`], it shows the ends of all its logs and
/// leaves everything where it is.
pub struct Pipeline {
    /// Kafka's address.
    pub kafka: String,
    /// The names of its topics, unlike those of any other.
    pub topics: Topics,
    /// How many partitions the orders topic has.
    pub partitions: i32,
    /// The validators' consumer group.
    pub validator_group: String,
    /// The callers' consumer group.
    pub caller_group: String,
    name: String,
    folder: PathBuf,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Passed,
    Kept,
}

/// A process that serves the admin HTTP interface.
pub struct Service {
    /// The process.
    pub process: Process,
    /// The base of its admin address, `http://host:port`.
    pub admin: String,
}

impl Pipeline {
    /// Gives it names and a folder, and has the `outbox` program create its topics.
    ///
    /// # Errors
    /// There is no Kafka, or the topics cannot be created.
    pub fn create(name: &str, partitions: i32) -> Result<Self> {
        let pipeline = Self::without_topics(name, partitions)?;
        pipeline.create_topics()?;
        Ok(pipeline)
    }

    /// Gives it names and a folder only.
    ///
    /// # Errors
    /// There is no Kafka, or the folder cannot be made.
    pub fn without_topics(name: &str, partitions: i32) -> Result<Self> {
        Self::on(cluster::address()?, name, partitions)
    }

    /// Gives it names and a folder only, on a Kafka of the story's own.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn on(kafka: String, name: &str, partitions: i32) -> Result<Self> {
        let name = format!("{name}-{:x}-{:x}", Timestamp::now().0, std::process::id());
        let folder = tempfile::Builder::new()
            .prefix(&format!("outbox-{name}-"))
            .tempdir()
            .context("making a folder for state and logs")?
            .keep();
        let topics = Topics::default();
        Ok(Self {
            kafka,
            topics: Topics {
                orders: format!("{name}.{}", topics.orders),
                pending: format!("{name}.{}", topics.pending),
                changelog: format!("{name}.{}", topics.changelog),
                order_dead_letters: format!("{name}.{}", topics.order_dead_letters),
                processed: format!("{name}.{}", topics.processed),
                call_dead_letters: format!("{name}.{}", topics.call_dead_letters),
                parked: format!("{name}.{}", topics.parked),
            },
            partitions,
            validator_group: format!("{name}.order-validator"),
            caller_group: format!("{name}.api-caller"),
            name,
            folder,
            outcome: Outcome::Unknown,
        })
    }

    /// Starts a broker behind a proxy with this rule, and creates a pipeline with its topics on it.
    ///
    /// # Errors
    /// The broker does not start, or the topics cannot be created.
    pub fn behind_proxy<R: Rule>(rule: R, name: &str, partitions: i32) -> Result<(Broker, Proxy<R>, Self)> {
        let (broker, proxy) = broker::start_behind_proxy(rule)?;
        let pipeline = Self::on(proxy.address(), name, partitions)?;
        pipeline.create_topics()?;
        Ok((broker, proxy, pipeline))
    }

    /// Where its state, settings and logs are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All its topics.
    #[must_use]
    pub fn topic_names(&self) -> [&str; 7] {
        let topics = &self.topics;
        [
            &topics.orders,
            &topics.pending,
            &topics.changelog,
            &topics.order_dead_letters,
            &topics.processed,
            &topics.call_dead_letters,
            &topics.parked,
        ]
    }

    /// All went well: topics and folder may go when this is dropped.
    pub fn passed(&mut self) {
        self.outcome = Outcome::Passed;
    }

    /// Leaves topics and folder where they are, without a word.
    pub fn keep(&mut self) {
        self.outcome = Outcome::Kept;
    }

    /// A process of one of the programs, with a log in the folder.
    ///
    /// # Errors
    /// The program was not built.
    pub fn process(&self, name: &str, program: &str) -> Result<Process> {
        Process::new(name, program, self.folder.join(format!("{name}.log")))
    }

    /// Runs `outbox topics create`.
    ///
    /// # Errors
    /// It ends with another status than 0.
    pub fn create_topics(&self) -> Result<()> {
        let settings = self.settings(&self.validator_group);
        let file = settings.write(&self.folder.join("outbox.toml"))?;
        let mut outbox = self
            .process("outbox", "outbox")?
            .arguments(["--config"])
            .arguments([&file])
            .arguments(["topics", "create", "--yes", "--partitions"])
            .arguments([self.partitions.to_string()]);
        outbox.start()?;
        let status = outbox.wait_exit(Duration::from_secs(60))?;
        ensure!(status.success(), "`outbox topics create` ended with {status}");
        Ok(())
    }

    /// The settings that each program has.
    #[must_use]
    pub fn settings(&self, group: &str) -> Settings {
        Settings::default()
            .with("kafka.bootstrap_servers", &self.kafka)
            .with("kafka.group_id", group)
            .with("topics", &self.topics)
    }

    /// The settings of the validator with this number.
    #[must_use]
    pub fn validator_settings(&self, number: u32) -> Settings {
        self.settings(&self.validator_group)
            .with("validator.instance_id", self.instance("validator", number))
            .with(
                "validator.session_timeout",
                format!("{}s", SESSION_TIMEOUT.as_secs()),
            )
            .with("store.dir", self.state_folder(number))
    }

    /// Where the stores of the validator with this number are.
    #[must_use]
    pub fn state_folder(&self, number: u32) -> PathBuf {
        self.folder.join(format!("state-{number}"))
    }

    /// What the validator with this number has logged since it was started last.
    ///
    /// # Errors
    /// There is no such log.
    pub fn validator_log_since_start(&self, number: u32) -> Result<String> {
        let path = self.folder.join(format!("validator-{number}.log"));
        let log = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let log = String::from_utf8_lossy(&log);
        Ok(log
            .rsplit(crate::process::STARTED)
            .next()
            .unwrap_or_default()
            .to_owned())
    }

    /// The settings of the caller with this number.
    #[must_use]
    pub fn caller_settings(&self, number: u32, api_url: &str) -> Settings {
        self.settings(&self.caller_group)
            .with("caller.instance_id", self.instance("caller", number))
            .with(
                "caller.session_timeout",
                format!("{}s", SESSION_TIMEOUT.as_secs()),
            )
            .with(
                "caller.ownership_lease",
                format!("{}s", SESSION_TIMEOUT.as_secs() / 2),
            )
            .with("api.url", api_url)
            .with("api.timeout", format!("{}ms", API_TIMEOUT.as_millis()))
            .with("retry.backoff_initial", "100ms")
            .with("retry.backoff_max", "2s")
    }

    /// A program with these settings and an admin address of its own; not started.
    ///
    /// # Errors
    /// The program was not built, or the settings cannot be written.
    pub fn service(&self, program: &str, number: u32, settings: Settings) -> Result<Service> {
        let name = format!("{program}-{number}");
        let admin = format!("127.0.0.1:{}", free_port()?);
        let file = settings
            .with("admin.listen", &admin)
            .write(&self.folder.join(format!("{name}.toml")))?;
        Ok(Service {
            process: self
                .process(&name, program)?
                .arguments(["--config"])
                .arguments([file]),
            admin: format!("http://{admin}"),
        })
    }

    /// A validator, not started.
    ///
    /// # Errors
    /// The program was not built, or the settings cannot be written.
    pub fn validator(&self, number: u32) -> Result<Service> {
        self.service("validator", number, self.validator_settings(number))
    }

    /// A caller, not started.
    ///
    /// # Errors
    /// The program was not built, or the settings cannot be written.
    pub fn caller(&self, number: u32, api_url: &str) -> Result<Service> {
        self.service("caller", number, self.caller_settings(number, api_url))
    }

    fn logs(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut logs: Vec<_> = files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        logs
    }

    /// Transactional ids are known to the whole cluster, so instances are named after the pipeline too.
    fn instance(&self, program: &str, number: u32) -> String {
        format!("{}-{program}-{number}", self.name)
    }
}

impl Service {
    /// Fails if the process has ended though nobody killed it.
    ///
    /// # Errors
    /// It has ended, and nobody killed it.
    pub fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("{} ended by itself with {status}", self.process.name());
        }
        Ok(())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        match self.outcome {
            Outcome::Kept => {}
            // Who pressed Ctrl-C wants no logs.
            Outcome::Unknown if !interrupted() => {
                for log in self.logs() {
                    eprintln!("{}", process::tail_of(&log));
                }
                eprintln!("logs, state and settings are kept in {}", self.folder.display());
            }
            Outcome::Unknown | Outcome::Passed => {
                // The run is over; what cannot be cleaned up is not worth failing for.
                if let Ok(administrator) = Administrator::new(&self.kafka) {
                    let _deleted = administrator.delete_topics(&self.topic_names());
                }
                let _removed = std::fs::remove_dir_all(&self.folder);
            }
        }
    }
}
