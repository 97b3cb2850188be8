//! What to try after the demo, and while it is left running: commands to copy.

use std::path::Path;

use anyhow::Result;
use harness::cluster;
use harness::process;

use crate::Arguments;
use crate::setup::Setup;

/// Returns what to try after the demo.
pub(crate) fn after_the_end(arguments: &Arguments) -> String {
    format!(
        "Try next:\n\
         \x20 ./scripts/demo --keep            leave it running, and try orders of your own: GET /orders/KEY,\n\
         \x20                                  `outbox notes`, an outage of an API; it prints the commands\n\
         \x20 ./scripts/demo --seed {:<10} other orders and other faults\n\
         \x20 ./scripts/demo --input FILE      your own orders, one JSON object per line\n\
         \x20 ./scripts/bench --help           orders and calls per second on this machine\n\
         \x20 ./scripts/chaos --minutes 5      kill validators and brokers at random, lose and damage disks\n\
         \x20 docker/README.md                 run it on your own Kafka and your own API",
        arguments.seed.wrapping_add(1)
    )
}

/// Returns where everything runs, and what to try with it.
///
/// # Errors
/// The folder of the programs is unknown.
pub(crate) fn while_running(setup: &Setup) -> Result<String> {
    let pipeline = &setup.pipeline;
    let mut lines = vec!["Everything is still running:".to_owned()];
    let callers = setup.groups.iter().flat_map(|group| &group.callers);
    for service in setup.validators.iter().chain(callers) {
        lines.push(format!(
            "  {:<17} {}/metrics (process {})",
            service.process.name(),
            service.admin,
            service.process.id().unwrap_or_default()
        ));
    }
    for group in &setup.groups {
        lines.push(format!(
            "  {:<17} {} (its requests: {}/requests)",
            group.api.process.name(),
            group.api.url,
            group.api.control
        ));
    }
    lines.push(format!("  {:<17} {}", "Kafka", pipeline.kafka));
    lines.push(format!(
        "  {:<17} {}",
        "logs, stores",
        pipeline.folder().display()
    ));
    lines.push(String::new());
    lines.push("Try next, in another terminal, in the folder of the project; first these names:".to_owned());
    lines.extend(
        names(setup, &process::folder()?)
            .into_iter()
            .map(|(name, value)| format!("export {name}={value}")),
    );
    lines.push(TRIES.to_owned());
    lines.push("Ctrl-C here stops all of it.".to_owned());
    Ok(lines.join("\n"))
}

/// Shell variables that the commands use, and those of the section "One order by hand" of README.md.
fn names(setup: &Setup, programs: &Path) -> Vec<(String, String)> {
    let (pipeline, topics) = (&setup.pipeline, &setup.pipeline.topics);
    let mut names = vec![
        (cluster::ADDRESS_VARIABLE.to_owned(), pipeline.kafka.clone()),
        ("OUTBOX".to_owned(), programs.join("outbox").display().to_string()),
        ("VALIDATORS".to_owned(), pipeline.validator_group.clone()),
        ("ORDERS".to_owned(), topics.orders.clone()),
        ("ORDER_DEAD_LETTERS".to_owned(), topics.order_dead_letters.clone()),
    ];
    for (number, validator) in (1..).zip(&setup.validators) {
        names.push((format!("VALIDATOR_{number}"), validator.admin.clone()));
    }
    for group in &setup.groups {
        let policy = group.policy.as_str().to_uppercase();
        let settings = pipeline
            .folder()
            .join(format!("{}-caller-1.toml", group.policy.as_str()));
        names.extend([
            (format!("API_{policy}"), group.api.url.clone()),
            (format!("CONTROL_{policy}"), group.api.control.clone()),
            (format!("GROUP_{policy}"), group.name.clone()),
            (format!("SETTINGS_{policy}"), settings.display().to_string()),
            (format!("PROCESSED_{policy}"), group.topics.processed.clone()),
            (format!("PARKED_{policy}"), group.topics.parked.clone()),
        ]);
        for (number, caller) in (1..).zip(&group.callers) {
            names.push((format!("CALLER_{policy}_{number}"), caller.admin.clone()));
        }
    }
    names
}

/// Commands to copy.
const TRIES: &str = r#"
# send an order; send it twice, and the second one is dropped as a duplicate
echo 'A-1|{"order_id":"A-1","amount":1250,"currency":"EUR","customer_id":"C-7"}' |
  ./scripts/kafka tool console-producer --topic $ORDERS --property parse.key=true --property 'key.separator=|'
# GET /orders/KEY: the validator that owns its partition knows it; and each API has charged it once
curl $VALIDATOR_1/orders/A-1; curl $VALIDATOR_2/orders/A-1
curl $API_RETRY/A-1; curl $API_PARK/A-1; curl $API_VERIFY/A-1
# its outcome, and the calls that wait for a person, with their evidence in the headers
./scripts/kafka tool console-consumer --topic $PROCESSED_VERIFY --isolation-level read_committed \
  --from-beginning --timeout-ms 10000 | grep A-1
./scripts/kafka tool console-consumer --topic $PARKED_PARK --isolation-level read_committed \
  --from-beginning --timeout-ms 10000 --max-messages 3 --property print.headers=true
# take an API down for 20 s and send an order: its call waits, and the next owner of its partition would know of it
curl -X POST "$CONTROL_VERIFY/control/down?for=20s"
echo 'A-2|{"order_id":"A-2","amount":990,"currency":"EUR","customer_id":"C-7"}' |
  ./scripts/kafka tool console-producer --topic $ORDERS --property parse.key=true --property 'key.separator=|'
curl $CALLER_VERIFY_1/calls; curl $CALLER_VERIFY_2/calls
$OUTBOX --config $SETTINGS_VERIFY notes --group $GROUP_VERIFY
# what the operator sees: the pipeline, one order's history, the parked calls by cause, and what could be made again
$OUTBOX --config $SETTINGS_PARK status --group $GROUP_PARK --validators $VALIDATORS
$OUTBOX --config $SETTINGS_PARK order A-1 --group $GROUP_PARK
$OUTBOX --config $SETTINGS_PARK parked groups --group $GROUP_PARK
$OUTBOX --config $SETTINGS_PARK replay plan --group $GROUP_PARK
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_shows_the_commands_that_are_printed() {
        let readme = include_str!("../../../../README.md");
        let section = readme.split("## One order by hand").nth(1).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        for line in TRIES.lines().filter(|line| line.contains("A-1")) {
            let command = line.trim_end_matches([' ', '\\']);
            assert!(section.contains(command), "README.md lacks {command:?}");
        }
    }
}
