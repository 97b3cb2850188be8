//! `topics acls`: the least permissions of each program and command, and the commands that grant them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::Table;
use kafka::topics::acls::{self, Acl, Names, Needed, Operation, ResourceKind, User};
use serde::Serialize;

use crate::cli::ShowAcls;
use crate::commands::{Status, print_json};
use crate::config::Config;
use crate::tables::new_table;

/// Shows the permissions; asks no broker.
pub(super) fn run(options: &ShowAcls, config: &Config, json: bool) -> anyhow::Result<Status> {
    let names = Names {
        topics: &config.topics,
        validators: &options.validators,
        callers: &options.which.group,
    };
    if json {
        print_json(&Output::new(names))?;
        return Ok(Status::Ok);
    }
    let commands: Vec<String> = principals(options)
        .flat_map(|(user, principal)| {
            let grant = Grant {
                bootstrap_servers: &config.kafka.bootstrap_servers,
                command_config: options.command_config.as_deref(),
                principal,
            };
            grant.commands(&acls::of(user, names))
        })
        .collect();
    if commands.is_empty() {
        println!("{}", table(names));
        eprintln!(
            "`outbox topics acls --validator-principal User:NAME`, and the same for other users, prints the commands \
             that grant them."
        );
    } else {
        for command in commands {
            println!("{command}");
        }
    }
    Ok(Status::Ok)
}

fn principals(options: &ShowAcls) -> impl Iterator<Item = (User, &str)> {
    [
        (User::Validator, &options.validator_principal),
        (User::Caller, &options.caller_principal),
        (User::Reader, &options.reader_principal),
        (User::Operator, &options.operator_principal),
        (User::Creator, &options.creator_principal),
    ]
    .into_iter()
    .filter_map(|(user, principal)| Some((user, principal.as_deref()?)))
}

/// JSON output.
#[derive(Serialize)]
struct Output(Vec<OutputOf>);

#[derive(Serialize)]
struct OutputOf {
    what: String,
    user: User,
    permissions: Vec<Acl>,
}

impl Output {
    fn new(names: Names<'_>) -> Self {
        let of = |needed: &Needed| OutputOf {
            what: needed.what.to_string(),
            user: needed.user,
            permissions: needed
                .permissions
                .iter()
                .flat_map(|permission| permission.acls(names))
                .collect(),
        };
        Self(acls::needed().map(of).collect())
    }
}

fn table(names: Names<'_>) -> Table {
    let mut table = new_table(["program or command", "resource", "operations", "why"]);
    for needed in acls::needed() {
        for row in rows(needed, names) {
            table.add_row(row);
        }
    }
    table
}

/// Returns one row for each resource.
fn rows(needed: &Needed, names: Names<'_>) -> impl Iterator<Item = [String; 4]> {
    needed.permissions.iter().map(move |permission| {
        let acls: Vec<Acl> = permission.acls(names).collect();
        let operations: Vec<String> = acls.iter().map(|acl| operation(acl.operation)).collect();
        let resource = acls.first().map(resource).unwrap_or_default();
        [
            needed.what.to_string(),
            resource,
            operations.join(", "),
            permission.why().to_owned(),
        ]
    })
}

fn resource(acl: &Acl) -> String {
    let suffix = if acl.is_prefix { "*" } else { "" };
    match acl.kind {
        ResourceKind::Topic => format!("topic {}", acl.name),
        ResourceKind::Group => format!("group {}", acl.name),
        ResourceKind::TransactionalId => format!("transactional id {}{suffix}", acl.name),
        ResourceKind::Cluster => "cluster".to_owned(),
    }
}

/// Returns an operation as Kafka's tools spell it.
fn operation(operation: Operation) -> String {
    format!("{operation:?}")
}

/// What the commands have in common that grant permissions to a principal.
struct Grant<'a> {
    bootstrap_servers: &'a str,
    command_config: Option<&'a str>,
    principal: &'a str,
}

impl Grant<'_> {
    /// Returns one command for each resource.
    fn commands(&self, acls: &[Acl]) -> Vec<String> {
        let mut resources: BTreeMap<(ResourceKind, &str, bool), Vec<Operation>> = BTreeMap::new();
        for acl in acls {
            resources
                .entry((acl.kind, &acl.name, acl.is_prefix))
                .or_default()
                .push(acl.operation);
        }
        resources
            .into_iter()
            .map(|((kind, name, is_prefix), operations)| self.command(kind, name, is_prefix, &operations))
            .collect()
    }

    fn command(&self, kind: ResourceKind, name: &str, is_prefix: bool, operations: &[Operation]) -> String {
        let mut command = format!(
            "kafka-acls.sh --bootstrap-server {}",
            quoted(self.bootstrap_servers)
        );
        let mut option = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = write!(command, " --{name} {}", quoted(value));
        };
        if let Some(file) = self.command_config {
            option("command-config", file);
        }
        option("allow-principal", self.principal);
        for of in operations {
            option("operation", &operation(*of));
        }
        match kind {
            ResourceKind::Topic => option("topic", name),
            ResourceKind::Group => option("group", name),
            ResourceKind::TransactionalId => option("transactional-id", name),
            ResourceKind::Cluster => {}
        }
        if is_prefix {
            option("resource-pattern-type", "prefixed");
        }
        if kind == ResourceKind::Cluster {
            command.push_str(" --cluster");
        }
        command.push_str(" --add");
        command
    }
}

/// Returns a word of a shell command, in quotes if it needs them.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-:,/=@".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use clap::CommandFactory as _;
    use records::Topics;

    use super::*;

    fn names(topics: &Topics) -> Names<'_> {
        Names {
            topics,
            validators: "order-validator",
            callers: "api-caller",
        }
    }

    #[test]
    fn each_resource_has_one_command() {
        let topics = Topics::default();
        let grant = Grant {
            bootstrap_servers: "kafka:9093",
            command_config: Some("admin.properties"),
            principal: "User:CN=validator,O=Shop Ltd",
        };
        let commands = grant.commands(&acls::of(User::Validator, names(&topics)));
        let begin = "kafka-acls.sh --bootstrap-server kafka:9093 --command-config admin.properties \
                     --allow-principal 'User:CN=validator,O=Shop Ltd'";
        assert_eq!(
            commands,
            [
                format!(
                    "{begin} --operation Read --operation Write --operation Delete --operation DescribeConfigs \
                     --topic idempotency-key-store-changelog --add"
                ),
                format!("{begin} --operation Read --operation DescribeConfigs --topic payment-orders --add"),
                format!(
                    "{begin} --operation Write --operation DescribeConfigs --topic payment-orders.dead-letters --add"
                ),
                format!(
                    "{begin} --operation Read --operation Write --operation DescribeConfigs --topic pending-api-calls --add"
                ),
                format!("{begin} --operation Read --group order-validator --add"),
                format!(
                    "{begin} --operation Write --transactional-id order-validator- --resource-pattern-type prefixed \
                     --add"
                ),
                format!("{begin} --operation DescribeConfigs --cluster --add"),
            ]
        );
    }

    /// Commands that connect to no broker, or whose program has permissions of its own.
    const WITHOUT_PERMISSIONS: [&str; 7] = [
        "caller",
        "completions",
        "health",
        "idle",
        "state inspect",
        "topics acls",
        "validator",
    ];

    /// Returns the commands of the command line that have no further ones.
    fn commands_of(command: &clap::Command, begin: &str) -> Vec<String> {
        let of = |command: &clap::Command| {
            let name = format!("{begin}{}", command.get_name());
            match command.has_subcommands() {
                true => commands_of(command, &format!("{name} ")),
                false => vec![name],
            }
        };
        command.get_subcommands().flat_map(of).collect()
    }

    /// With a test that runs each listed command with an authorizer, no command is without its permissions.
    #[test]
    fn each_command_that_connects_is_listed() {
        let all: BTreeSet<String> = commands_of(&crate::cli::Cli::command(), "").into_iter().collect();
        let listed = acls::commands().chain(WITHOUT_PERMISSIONS);
        let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
        assert_eq!(all, listed);
        assert_eq!(listed.len(), acls::commands().count() + WITHOUT_PERMISSIONS.len());
    }

    #[test]
    fn principal_cannot_end_the_command() {
        assert_eq!(quoted("User:a'; rm -rf /"), r"'User:a'\''; rm -rf /'");
        assert_eq!(quoted("User:a"), "User:a");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn security_page_has_the_permissions() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/SECURITY.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let topics = Topics::default();
        let expected: Vec<String> = acls::needed()
            .flat_map(|needed| rows(needed, names(&topics)))
            .map(|row| format!("| {} |", row.join(" | ")))
            .collect();
        let table = page
            .lines()
            .skip_while(|line| *line != "| program or command | resource | operations | why |");
        let found: Vec<&str> = table.skip(2).take_while(|line| line.starts_with('|')).collect();
        assert!(
            found == expected,
            "the table in docker/SECURITY.md must be:\n{}",
            expected.join("\n")
        );
    }
}
