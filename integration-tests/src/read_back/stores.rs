//! Reads the redb stores of stopped validators.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use records::{Offset, Partition};
use store::{Identity, Options, Store};

use crate::pipeline::Pipeline;

/// Contents of a validator's store of one partition.
#[derive(Clone, Debug, Default)]
pub struct StoreContents {
    /// Validator and partition, for messages.
    pub name: String,
    /// Partition of the store.
    pub partition: Option<Partition>,
    /// Changelog offset that the store claims to be equal to.
    pub checkpoint: Option<Offset>,
    /// Entries by idempotency key.
    pub entries: HashMap<Vec<u8>, Vec<u8>>,
}

/// Reads all stores of the validators with these numbers, which must not run.
///
/// # Errors
/// A file cannot be copied, a store of the last run is damaged, or a partition has no store of a last run.
pub fn read_stores(pipeline: &Pipeline, validators: &[u32]) -> Result<Vec<StoreContents>> {
    let mut stores = Vec::new();
    let mut opened_partitions = BTreeSet::new();
    for number in validators {
        let log = pipeline.validator_log_since_start(*number)?;
        for partition in 0..pipeline.partitions {
            let partition = Partition(partition);
            let folder = pipeline.state_folder(*number);
            let file = folder.join(format!("partition-{partition}.redb"));
            if file.exists() {
                let name = format!("validator {number}'s store of partition {partition}");
                // A store opened in the last run must be sound after a clean shutdown. Another one may be as
                // a fault has left it: the next validator that opens it rebuilds it.
                let is_open = log.contains(&format!("\"partition restored\",\"partition\":\"{partition}\""));
                match read_store(pipeline, &file, partition, name)? {
                    Ok(store) => stores.push(store),
                    Err(damage) => ensure!(!is_open, "{damage}"),
                }
                opened_partitions.extend(is_open.then_some(partition));
            }
        }
    }
    let partitions = usize::try_from(pipeline.partitions)?;
    ensure!(
        opened_partitions.len() == partitions,
        "by their logs, the validators have restored only partitions {opened_partitions:?} of \
         {partitions} in their last run"
    );
    Ok(stores)
}

/// Options that verify each page read.
const OPTIONS: Options = Options {
    cache_bytes: 16 << 20,
    verify: true,
};

/// Reads the store in a file. The inner error is the damage found.
fn read_store(
    pipeline: &Pipeline,
    file: &Path,
    partition: Partition,
    name: String,
) -> Result<Result<StoreContents, String>> {
    // A copy: opening a damaged store rebuilds it, and checks must not repair what they check.
    let copies = tempfile::tempdir().context("creating a folder for copies of stores")?;
    let copy = copies.path().join("copy.redb");
    std::fs::copy(file, &copy).with_context(|| format!("copying {}", file.display()))?;
    let identity = Identity {
        changelog: pipeline.topics.changelog.clone(),
        partition,
        partitions: usize::try_from(pipeline.partitions)?,
    };
    let opened = Store::open(&copy, &identity, OPTIONS).with_context(|| format!("opening {name}"))?;
    if let Some(why) = opened.rebuild_reason {
        return Ok(Err(format!("{name} is damaged after a clean shutdown: {why}")));
    }
    let mut entries = HashMap::new();
    opened
        .store
        .for_each(|key, entry| drop(entries.insert(key.to_vec(), entry.to_vec())))?;
    Ok(Ok(StoreContents {
        name,
        partition: Some(partition),
        checkpoint: opened.store.checkpoint(),
        entries,
    }))
}
