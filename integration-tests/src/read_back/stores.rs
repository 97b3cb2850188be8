//! Reads the redb stores of stopped validators.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use records::{KeyHash, Offset, Partition};
use store::{Identity, Options, ReadOnlyStore, Store, StoreWriter};

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
    /// Entries by hash of the idempotency key.
    pub entries: HashMap<KeyHash, Vec<u8>>,
    /// True if a fault has damaged the file, no validator has read the damaged part since, and so nothing is known of
    /// the entries.
    pub is_damaged: bool,
}

/// Extension of the file beside a store that says that a fault has damaged the store.
pub const DAMAGED: &str = "damaged";

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
                    // Found when it is read, as a checksum says.
                    Err(name) if is_open && file.with_extension(DAMAGED).exists() => {
                        stores.push(StoreContents {
                            name,
                            partition: Some(partition),
                            is_damaged: true,
                            ..StoreContents::default()
                        });
                    }
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

const OPTIONS: Options = Options {
    cache_bytes: 16 << 20,
    recent_max: 1,
    period: None,
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
    let writer = StoreWriter::start()?;
    let opened =
        Store::open(&copy, &identity, OPTIONS, &writer).with_context(|| format!("opening {name}"))?;
    if let Some(why) = opened.rebuild_reason {
        return Ok(Err(format!("{name} is damaged after a clean shutdown: {why}")));
    }
    // Closed, so that it can be read whole.
    drop(opened);
    let mut entries = HashMap::new();
    let store = ReadOnlyStore::open(&copy, OPTIONS.cache_bytes)?;
    match store.for_each(|key, entry| drop(entries.insert(key, entry.to_vec()))) {
        Err(error) if error.is_corruption() => {
            return Ok(Err(format!("{name} is damaged after a clean shutdown: {error}")));
        }
        read => read?,
    }
    Ok(Ok(StoreContents {
        name,
        partition: Some(partition),
        checkpoint: store.checkpoint(),
        entries,
        is_damaged: false,
    }))
}
