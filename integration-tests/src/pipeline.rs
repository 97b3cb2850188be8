//! The pipeline under test: its topics, consumer groups, folder, settings and processes.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use records::{Timestamp, Topics};

use crate::cluster::broker::{self, Broker};
use crate::cluster::{self, Administrator};
use crate::http::Http;
use crate::process::settings::Settings;
use crate::process::{Process, free_port, last_run, tail_of};
use crate::proxy::{Proxy, Rule};
use crate::wait::interrupted;

/// Timeout of the callers' API requests. Short, so that lost responses are noticed soon. Not shorter: on a
/// stalled machine the API accepts requests late, and its callers would seem to leave before their timeout.
pub const API_TIMEOUT: Duration = Duration::from_secs(2);
/// Session timeout of validators and callers: the time after which a frozen process is fenced. 6 s is the
/// broker's default minimum.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// A pipeline. Dropped without [`Pipeline::passed`], it prints the ends of all logs and keeps topics and
/// folder.
pub struct Pipeline {
    /// Bootstrap servers, `host:port,…`.
    pub kafka: String,
    /// Topic names, unique to this pipeline.
    pub topics: Topics,
    /// Number of partitions of the orders topic.
    pub partitions: i32,
    /// Consumer group of the validators.
    pub validator_group: String,
    /// Consumer group of the callers.
    pub caller_group: String,
    name: String,
    folder: PathBuf,
    /// Names of further topics, of other groups of callers.
    further_topics: Vec<String>,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Passed,
    Kept,
}

/// A process with an admin HTTP endpoint.
pub struct Service {
    /// Process of the program.
    pub process: Process,
    /// Base URL of the admin endpoint, `http://host:port`.
    pub admin: String,
}

impl Pipeline {
    /// Creates a pipeline with its topics.
    ///
    /// # Errors
    /// No Kafka answers, or the topics cannot be created.
    pub fn create(name: &str, partitions: i32) -> Result<Self> {
        let pipeline = Self::without_topics(name, partitions)?;
        pipeline.create_topics()?;
        Ok(pipeline)
    }

    /// Creates a pipeline without its topics.
    ///
    /// # Errors
    /// No Kafka answers, or the folder cannot be created.
    pub fn without_topics(name: &str, partitions: i32) -> Result<Self> {
        Self::on(cluster::address()?, name, partitions)
    }

    /// Creates a pipeline without its topics on this Kafka.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn on(kafka: String, name: &str, partitions: i32) -> Result<Self> {
        // Unique, because runs share a broker, and one that failed leaves its topics behind.
        let name = format!("{name}-{:x}-{:x}", Timestamp::now().0, std::process::id());
        let folder = tempfile::Builder::new()
            .prefix(&format!("outbox-{name}-"))
            .tempdir()
            .context("creating a folder for state and logs")?
            // Deleted by `drop` only after success: a failed run leaves its evidence.
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
                control: format!("{name}.{}", topics.control),
                operations: format!("{name}.{}", topics.operations),
            },
            partitions,
            validator_group: format!("{name}.order-validator"),
            caller_group: format!("{name}.api-caller"),
            name,
            folder,
            further_topics: Vec::new(),
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

    /// Folder of state, settings and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of all topics.
    #[must_use]
    pub fn topic_names(&self) -> [&str; 9] {
        let topics = &self.topics;
        [
            &topics.orders,
            &topics.pending,
            &topics.changelog,
            &topics.order_dead_letters,
            &topics.processed,
            &topics.call_dead_letters,
            &topics.parked,
            &topics.control,
            &topics.operations,
        ]
    }

    /// Marks the run as passed: topics and folder are deleted on drop.
    pub fn passed(&mut self) {
        self.outcome = Outcome::Passed;
    }

    /// Keeps topics and folder on drop, and prints nothing.
    pub fn keep(&mut self) {
        self.outcome = Outcome::Kept;
    }

    /// Describes a process of a program, with its log in the folder.
    ///
    /// # Errors
    /// The program does not exist.
    pub fn process(&self, name: &str, program: &str) -> Result<Process> {
        Process::new(name, program, self.folder.join(format!("{name}.log")))
    }

    /// Runs `outbox topics create`.
    ///
    /// # Errors
    /// It exits with a status other than 0, or runs for more than 60 s.
    pub fn create_topics(&self) -> Result<()> {
        let partitions = self.partitions.to_string();
        // By the program under test: its topic settings are part of the guarantees.
        self.outbox(&["topics", "create", "--yes", "--partitions", &partitions])
            .map(|_| ())
    }

    /// Creates the topics of another group of callers, which has outcomes, dead letters and parked calls of its own.
    ///
    /// # Errors
    /// `outbox topics create` fails.
    pub fn create_topics_of_group(&mut self, topics: &Topics) -> Result<()> {
        let own = std::mem::replace(&mut self.topics, topics.clone());
        let created = self.create_topics();
        self.topics = own;
        self.further_topics
            .extend([&topics.processed, &topics.call_dead_letters, &topics.parked].map(String::clone));
        created
    }

    /// Begins the callers' group with `outbox group create`, at `beginning` or another place. Returns what
    /// the command printed. Callers need it unless they start beside an empty outbox.
    ///
    /// # Errors
    /// It exits with a status other than 0, as it does while the group has members or if no offset is
    /// missing; or runs for more than 60 s.
    pub fn begin_caller_group(&self, group: &str, at: &str) -> Result<String> {
        self.outbox(&["group", "create", "--group", group, "--at", at, "--yes"])
    }

    /// Pauses or resumes the calls of the callers' group, with `outbox pause` or `outbox resume`. Returns what
    /// the command printed.
    ///
    /// # Errors
    /// It exits with a status other than 0, or runs for more than 60 s.
    pub fn switch_calls(&self, command: &str, reason: &str) -> Result<String> {
        self.outbox(&[
            command,
            "--group",
            &self.caller_group,
            "--reason",
            reason,
            "--yes",
        ])
    }

    /// Appends to the changelog what it has lost, with `outbox state rebuild`. Returns what the command
    /// printed.
    ///
    /// # Errors
    /// It exits with a status other than 0, as it does while the group has members; or runs for more than 60 s.
    pub fn rebuild_state(&self) -> Result<String> {
        self.outbox(&["state", "rebuild", "--validators", &self.validator_group, "--yes"])
    }

    /// Appends what the validators need after the topics have grown, with `outbox state repartition`, and these
    /// environment variables. Returns its exit status and what it printed.
    ///
    /// # Errors
    /// It does not start, or runs for more than 60 s.
    pub fn repartition_state(
        &self,
        partitioner: &str,
        variables: &[(&str, &str)],
    ) -> Result<(ExitStatus, String)> {
        let settings = self
            .settings(&self.validator_group)
            .with("validator.partitioner", partitioner);
        let arguments = [
            "state",
            "repartition",
            "--validators",
            &self.validator_group,
            "--yes",
        ];
        self.outbox_with(settings, &arguments, variables)
    }

    /// Runs `outbox state rebuild` with the partitioner of the producers, once the topics have grown.
    ///
    /// # Errors
    /// It exits with a status other than 0, or runs for more than 60 s.
    pub fn rebuild_grown_state(&self, partitioner: &str) -> Result<String> {
        let settings = self
            .settings(&self.validator_group)
            .with("validator.partitioner", partitioner);
        let arguments = ["state", "rebuild", "--validators", &self.validator_group, "--yes"];
        let (status, output) = self.outbox_with(settings, &arguments, &[])?;
        ensure!(
            status.success(),
            "`outbox state rebuild` exited with {status}:\n{output}"
        );
        Ok(output)
    }

    /// Recovers the callers' group with `outbox group recover`. Returns what the command printed.
    ///
    /// # Errors
    /// It exits with a status other than 0, as it does while the group has members or if no offset is
    /// missing; or runs for more than 60 s.
    pub fn recover_caller_group(&self, group: &str) -> Result<String> {
        self.outbox(&["group", "recover", "--group", group, "--yes"])
    }

    /// Runs the operator's command line, and returns what it printed.
    ///
    /// # Errors
    /// It exits with a status other than 0, or runs for more than 60 s.
    pub fn outbox(&self, arguments: &[&str]) -> Result<String> {
        let settings = self
            .settings(&self.validator_group)
            // Some commands go by the validators' settings alone.
            .with("validator.record_key", "is-idempotency-key");
        let (status, output) = self.outbox_with(settings, arguments, &[])?;
        let command = arguments.join(" ");
        ensure!(
            status.success(),
            "`outbox {command}` exited with {status}:\n{output}"
        );
        Ok(output)
    }

    fn outbox_with(
        &self,
        settings: Settings,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(ExitStatus, String)> {
        let file = settings.write(&self.folder.join("outbox.toml"))?;
        let mut outbox = self
            .process("outbox", "outbox")?
            .arguments(["--config"])
            .arguments([&file])
            .arguments(arguments.iter().copied());
        outbox.start_with(variables)?;
        let status = outbox.wait_exit(Duration::from_secs(60))?;
        Ok((status, outbox.log_since_start()?))
    }

    /// Returns the settings common to all programs.
    #[must_use]
    pub fn settings(&self, group: &str) -> Settings {
        Settings::default()
            .with("kafka.bootstrap_servers", &self.kafka)
            .with("kafka.group_id", group)
            .with("topics", &self.topics)
    }

    /// Returns the settings of the validator with this number.
    #[must_use]
    pub fn validator_settings(&self, number: u32) -> Settings {
        self.settings(&self.validator_group)
            .with("validator.instance_id", self.instance("validator", number))
            // Far below the default, so that a fenced validator is replaced within a scenario.
            .with(
                "validator.session_timeout",
                format!("{}s", SESSION_TIMEOUT.as_secs()),
            )
            .with("store.dir", self.state_folder(number))
    }

    /// Store folder of the validator with this number.
    #[must_use]
    pub fn state_folder(&self, number: u32) -> PathBuf {
        self.folder.join(format!("state-{number}"))
    }

    /// Returns the log of the last run of the validator with this number.
    ///
    /// # Errors
    /// There is no such log.
    pub fn validator_log_since_start(&self, number: u32) -> Result<String> {
        let path = self.folder.join(format!("validator-{number}.log"));
        let log = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(last_run(&String::from_utf8_lossy(&log)).to_owned())
    }

    /// Returns the settings of the caller with this number.
    #[must_use]
    pub fn caller_settings(&self, number: u32, api_url: &str) -> Settings {
        self.settings(&self.caller_group)
            .with("caller.instance_id", self.instance("caller", number))
            .with(
                "caller.session_timeout",
                format!("{}s", SESSION_TIMEOUT.as_secs()),
            )
            // The lease must end well before the session does.
            .with(
                "caller.ownership_lease",
                format!("{}s", SESSION_TIMEOUT.as_secs() / 2),
            )
            .with("api.url", api_url)
            .with("api.timeout", format!("{}ms", API_TIMEOUT.as_millis()))
            // Shorter than the defaults, so that outages of seconds show recovery.
            .with("retry.backoff_initial", "100ms")
            .with("retry.backoff_max", "2s")
    }

    /// Describes a program with these settings and a free admin port, without starting it.
    ///
    /// # Errors
    /// The program does not exist, or the settings cannot be written.
    pub fn service(&self, program: &str, number: u32, settings: Settings) -> Result<Service> {
        self.service_as(&format!("{program}-{number}"), program, settings)
    }

    /// Describes a program with these settings, whose process, log and settings file have this name.
    ///
    /// # Errors
    /// The program does not exist, or the settings cannot be written.
    pub fn service_as(&self, name: &str, program: &str, settings: Settings) -> Result<Service> {
        // Chosen here, because the program does not report a port chosen by the system.
        let admin = format!("127.0.0.1:{}", free_port()?);
        let file = settings
            .with("admin.listen", &admin)
            .write(&self.folder.join(format!("{name}.toml")))?;
        Ok(Service {
            process: self
                .process(name, program)?
                .arguments(["--config"])
                .arguments([file]),
            admin: format!("http://{admin}"),
        })
    }

    /// Describes a validator without starting it.
    ///
    /// # Errors
    /// The program does not exist, or the settings cannot be written.
    pub fn validator(&self, number: u32) -> Result<Service> {
        self.service("validator", number, self.validator_settings(number))
    }

    /// Describes a caller without starting it.
    ///
    /// # Errors
    /// The program does not exist, or the settings cannot be written.
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

    fn instance(&self, program: &str, number: u32) -> String {
        // Transactional ids are global to the cluster: those of two pipelines would fence each other.
        format!("{}-{program}-{number}", self.name)
    }
}

impl Service {
    /// Checks that the process has not exited by itself.
    ///
    /// # Errors
    /// It has.
    pub fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("{} exited by itself with {status}", self.process.name());
        }
        Ok(())
    }

    /// Returns the sum of a counter or gauge over all its labels, or the value of one whose labels are named with it.
    ///
    /// # Errors
    /// The program does not respond, or has no such metric.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let (_, metrics) = Http::new()?.get(&format!("{}/metrics", self.admin))?;
        let values: Vec<&str> = metrics
            .lines()
            .filter(|line| {
                // A longer name that begins with this one is another metric.
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            })
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        // Each series is there from the start, so a missing one is a wrong name, not 0.
        ensure!(!values.is_empty(), "{} has no metric {name}", self.process.name());
        values.into_iter().map(|value| Ok(value.parse::<u64>()?)).sum()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        match self.outcome {
            Outcome::Kept => {}
            // After Ctrl-C nothing has failed that logs could explain.
            Outcome::Unknown if !interrupted() => {
                for log in self.logs() {
                    eprintln!("{}", tail_of(&log));
                }
                eprintln!("logs, state and settings kept in {}", self.folder.display());
            }
            Outcome::Unknown | Outcome::Passed => {
                // Best effort: names are unique, so leftovers disturb no later run.
                if let Ok(administrator) = Administrator::new(&self.kafka) {
                    let further = self.further_topics.iter().map(String::as_str);
                    let names: Vec<&str> = self.topic_names().into_iter().chain(further).collect();
                    let _deleted = administrator.delete_topics(&names);
                }
                let _removed = std::fs::remove_dir_all(&self.folder);
            }
        }
    }
}
