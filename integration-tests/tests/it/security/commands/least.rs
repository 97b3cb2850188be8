//! Commands of an operator, each as a user of its own that is allowed what the list has for this command, and as users
//! that lack one permission of it each.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::access_control::AccessControl;
use harness::cluster::secured::{SecuredKafka, Validity};
use harness::pipeline::Pipeline;
use harness::process::Process;
use harness::wait::await_until;
use kafka::topics::acls::{self, Acl, Operation, ResourceKind};

use crate::assertions::LIMIT;
use crate::security::fixture::{Access, names};

/// Maximum time until a command without a permission is denied: a broker learns of deleted topics and of permissions a
/// moment after they were changed.
const DENIED_MAX: Duration = Duration::from_secs(30);
/// Number of commands without a permission that run at the same time.
const AT_ONCE: usize = 4;

/// Command line after `outbox`, and what it alone shows to be needed, if a command has several forms.
pub(super) struct Form<'a> {
    pub(super) words: &'a str,
    /// Topic and operation.
    pub(super) shows: Option<(&'a str, Operation)>,
}

impl<'a> From<&'a str> for Form<'a> {
    fn from(words: &'a str) -> Self {
        Self { words, shows: None }
    }
}

/// Users of the commands, and which of these commands ran.
pub(super) struct Least<'a> {
    pipeline: &'a Pipeline,
    /// Access of the harness, which may do everything.
    open: Access,
    users: BTreeMap<&'static str, Users>,
    ran: RefCell<BTreeSet<&'static str>>,
}

/// Users of one command.
struct Users {
    /// Is allowed all that is listed.
    listed: Access,
    /// Are allowed all but this.
    lacking: Vec<(Acl, Access)>,
}

/// How a user lacks a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// The user sees the resource all the same: has DESCRIBE, which READ and WRITE imply, and which may be all that is
    /// needed.
    Described,
    /// As well as that, others do not see the topic that they may not read, which then looks as if it did not exist.
    DescribedOrHidden,
}

impl<'a> Least<'a> {
    /// Allows the users of these commands what they need.
    pub(super) fn allow(
        kafka: &SecuredKafka,
        pipeline: &'a Pipeline,
        commands: &[&'static str],
        how: Lacking,
    ) -> Result<Self> {
        let control = AccessControl::of(&kafka.open);
        let mut number = 0;
        let mut user = |acls: &[Acl]| {
            number += 1;
            let name = format!("{}-{number}", pipeline.caller_group);
            control.allow(&format!("User:CN={name}"), acls)?;
            let client = kafka.authority.client(&name, Validity::Current)?;
            Ok::<_, anyhow::Error>(
                Access::to(&kafka.mutual_tls, "SSL")
                    .trusting(&kafka.authority)
                    .with_client(&client),
            )
        };
        let mut users = BTreeMap::new();
        for command in commands {
            let needed = acls::of_command(command, names(pipeline));
            ensure!(!needed.is_empty(), "nothing is listed for `outbox {command}`");
            let mut lacking = Vec::new();
            for lacked in &needed {
                let others = without(&needed, lacked);
                let is_read = (lacked.kind, lacked.operation) == (ResourceKind::Topic, Operation::Read);
                if is_read && how == Lacking::DescribedOrHidden {
                    lacking.push((lacked.clone(), user(&others)?));
                }
                lacking.push((lacked.clone(), user(&[others, described(lacked)].concat())?));
            }
            let listed = user(&needed)?;
            users.insert(*command, Users { listed, lacking });
        }
        Ok(Self {
            pipeline,
            open: Access::to(&kafka.open, "PLAINTEXT"),
            users,
            ran: RefCell::default(),
        })
    }

    /// Runs a command: first without each permission, which it must name, and then with all of them. Returns what each
    /// of its forms printed then.
    ///
    /// Some of those without a permission run at the same time: they change nothing, and one that is fenced by another
    /// one runs again.
    pub(super) fn run(&self, command: &'static str, forms: &[Form<'_>]) -> Result<Vec<String>> {
        let lacking: Vec<_> = self.users(command)?.lacking.iter().enumerate().collect();
        let pipeline = self.pipeline;
        std::thread::scope(|scope| {
            let each = lacking.chunks(lacking.len().div_ceil(AT_ONCE));
            let threads: Vec<_> = each
                .map(|some| {
                    let denied = |(number, (acl, access)): &(usize, &(Acl, Access))| {
                        denied(pipeline, command, *number, forms, acl, access)
                    };
                    scope.spawn(move || some.iter().try_for_each(denied))
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread that panics fails the scenario"))
        })?;
        self.listed(command, forms)
    }

    /// As [`Self::run`], with one form, whose output must have these words.
    pub(super) fn prints(&self, command: &'static str, form: &str, expected: &str) -> Result<()> {
        let output = self.run(command, &[form.into()])?.concat();
        ensure!(
            output.contains(expected),
            "`outbox {form}` lacks {expected:?}:\n{output}"
        );
        Ok(())
    }

    /// As [`Self::run`], but one after the other, and `before` is called each time: with the permission that the command
    /// lacks, and at last with none.
    pub(super) fn run_after(
        &self,
        command: &'static str,
        form: &str,
        before: impl Fn(Option<&Acl>) -> Result<()>,
    ) -> Result<String> {
        let forms = [Form::from(form)];
        for (number, (acl, access)) in self.users(command)?.lacking.iter().enumerate() {
            before(Some(acl))?;
            denied(self.pipeline, command, number, &forms, acl, access)?;
        }
        before(None)?;
        Ok(self.listed(command, &forms)?.concat())
    }

    /// Runs the forms of a command with all that is listed for it, and nothing else. Returns what each printed.
    pub(super) fn listed(&self, command: &'static str, forms: &[Form<'_>]) -> Result<Vec<String>> {
        let access = &self.users(command)?.listed;
        let outputs = forms
            .iter()
            .map(|form| {
                let name = format!("{}-listed", command.replace(' ', "-"));
                let (code, output) = run(&mut process(self.pipeline, &name, access, form.words)?)?;
                // 1: a check found something, such as one replica.
                ensure!(
                    matches!(code, Some(0 | 1))
                        && !output.contains("uthoriz")
                        && !output.contains("permission"),
                    "`outbox {}` exited with {code:?}, with all that is listed for it:\n{output}",
                    form.words
                );
                Ok(output)
            })
            .collect::<Result<_>>()?;
        self.ran.borrow_mut().insert(command);
        Ok(outputs)
    }

    /// Runs a command that is not tested here.
    pub(super) fn prepare(&self, words: &str) -> Result<()> {
        let (code, output) = run(&mut process(self.pipeline, "prepare", &self.open, words)?)?;
        ensure!(
            code == Some(0),
            "`outbox {words}` exited with {code:?}:\n{output}"
        );
        Ok(())
    }

    /// Returns the users of a command that runs until it is stopped, and counts it as one that ran.
    pub(super) fn processes(
        &self,
        command: &'static str,
        words: &str,
    ) -> Result<(Process, Vec<(Acl, Process)>)> {
        let users = self.users(command)?;
        self.ran.borrow_mut().insert(command);
        let lacking = users.lacking.iter().enumerate().map(|(number, (acl, access))| {
            let name = format!("{command}-{number}");
            Ok((acl.clone(), process(self.pipeline, &name, access, words)?))
        });
        let listed = process(self.pipeline, command, &users.listed, words)?;
        Ok((listed, lacking.collect::<Result<_>>()?))
    }

    /// Fails unless each of these commands ran with all that is listed for it.
    pub(super) fn expect_all_ran(&self) -> Result<()> {
        let ran = self.ran.borrow();
        let missing: Vec<_> = self
            .users
            .keys()
            .filter(|command| !ran.contains(*command))
            .collect();
        ensure!(missing.is_empty(), "these commands did not run: {missing:?}");
        Ok(())
    }

    fn users(&self, command: &str) -> Result<&Users> {
        self.users
            .get(command)
            .with_context(|| format!("no user may run `outbox {command}`"))
    }
}

/// Returns what is needed without this.
fn without(needed: &[Acl], lacked: &Acl) -> Vec<Acl> {
    needed.iter().filter(|acl| *acl != lacked).cloned().collect()
}

/// Returns DESCRIBE, if this implies it.
fn described(lacked: &Acl) -> Vec<Acl> {
    let implies = matches!(lacked.operation, Operation::Read | Operation::Write);
    let described = Acl {
        operation: Operation::Describe,
        ..lacked.clone()
    };
    implies.then_some(described).into_iter().collect()
}

/// Runs the form of a command that needs a permission, as a user that lacks it, until it names the permission.
fn denied(
    pipeline: &Pipeline,
    command: &str,
    number: usize,
    forms: &[Form<'_>],
    acl: &Acl,
    access: &Access,
) -> Result<()> {
    let shows = |form: &&Form<'_>| form.shows == Some((acl.name.as_str(), acl.operation));
    let form = forms.iter().find(shows).or(forms.first()).context("a form")?;
    let name = format!("{}-{number}", command.replace(' ', "-"));
    let what = format!("`outbox {}` without {acl:?} names it", form.words);
    await_until(&what, DENIED_MAX, || {
        let (code, output) = run(&mut process(pipeline, &name, access, form.words)?)?;
        Ok(match names_permission(&output, acl) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(format!("exit status {code:?}\n{output}")),
        })
    })
}

/// Returns whether a line has the resource, the operation, and where permissions are listed.
pub(super) fn names_permission(output: &str, acl: &Acl) -> bool {
    let resource = match acl.kind {
        ResourceKind::Cluster => "cluster",
        ResourceKind::Topic | ResourceKind::Group | ResourceKind::TransactionalId => &acl.name,
    };
    let operation = operation(acl.operation);
    output.lines().any(|line| {
        line.contains(resource) && line.contains(operation) && line.contains("outbox topics acls")
    })
}

/// Returns the name of an operation in messages.
const fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "READ",
        Operation::Write => "WRITE",
        Operation::Create => "CREATE",
        Operation::Delete => "DELETE",
        Operation::Describe => "DESCRIBE",
        Operation::DescribeConfigs => "DESCRIBE_CONFIGS",
    }
}

/// Describes a command that connects in this way.
fn process(pipeline: &Pipeline, name: &str, access: &Access, words: &str) -> Result<Process> {
    let file = pipeline.folder().join(format!("{name}.toml"));
    let settings = pipeline
        .settings(&pipeline.caller_group)
        // So that a parked call may be sent again at once.
        .with("caller.ownership_lease", "1ms")
        .with("api.timeout", "1ms")
        .with("api.transport_timeout", "1ms")
        .with("verify.api_processing_max", "1ms")
        // `dead-letters replay` asks for the validators' settings.
        .with("validator.record_key", "is-idempotency-key");
    // Not for the others: `state rebuild` then looks whether the topics have grown.
    let settings = match words.starts_with("state repartition") {
        true => settings.with("validator.partitioner", "crc32"),
        false => settings,
    };
    access.apply(settings).write(&file)?;
    Ok(pipeline
        .process(name, "outbox")?
        .arguments(["--config".as_ref(), file.as_os_str()])
        .arguments(words.split(' ')))
}

/// Runs a command to its end. Returns its exit status and what it printed.
fn run(command: &mut Process) -> Result<(Option<i32>, String)> {
    command.start()?;
    let status = command.wait_exit(LIMIT)?;
    Ok((status.code(), command.log_since_start()?))
}
