//! The redb stores of validators that have ended, read from copies: reading must not repair anything.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use records::{Offset, Partition};
use store::{Identity, Options, Store};

use crate::pipeline::Pipeline;

/// What a validator's file holds of one partition.
#[derive(Clone, Debug, Default)]
pub struct StoreContents {
    /// Whose file it is, for people.
    pub whose: String,
    /// Which partition it is of.
    pub partition: Option<Partition>,
    /// The changelog offset that it claims to equal.
    pub checkpoint: Option<Offset>,
    /// Its entries.
    pub entries: HashMap<Vec<u8>, Vec<u8>>,
}

/// All stores of the validators with these numbers, which must not run.
///
/// A store that a validator did not open in its last life may be as a fault has left it: whoever opens it next
/// rebuilds it. One that was open must be sound after a clean end.
///
/// # Errors
/// A file cannot be copied, or is not sound though it must be; or no validator held some partition.
pub fn read_stores(pipeline: &Pipeline, validators: &[u32]) -> Result<Vec<StoreContents>> {
    let mut holdings = Vec::new();
    let mut held = BTreeSet::new();
    for number in validators {
        let log = pipeline.validator_log_since_start(*number)?;
        for partition in 0..pipeline.partitions {
            let partition = Partition(partition);
            let folder = pipeline.state_folder(*number);
            let file = folder.join(format!("partition-{partition}.redb"));
            if file.exists() {
                let whose = format!("validator {number}'s store of partition {partition}");
                let is_open = log.contains(&format!("\"partition restored\",\"partition\":\"{partition}\""));
                match read_store(pipeline, &file, partition, whose)? {
                    Ok(holding) => holdings.push(holding),
                    Err(unsound) => ensure!(!is_open, "{unsound}"),
                }
                held.extend(is_open.then_some(partition));
            }
        }
    }
    let partitions = usize::try_from(pipeline.partitions)?;
    ensure!(
        held.len() == partitions,
        "the validators' last logs tell of stores of {held:?} alone, of {partitions}"
    );
    Ok(holdings)
}

const OPTIONS: Options = Options {
    cache_bytes: 16 << 20,
    verify: true,
};

/// The store in a file; the inner error is why it is not sound.
fn read_store(
    pipeline: &Pipeline,
    file: &Path,
    partition: Partition,
    whose: String,
) -> Result<Result<StoreContents, String>> {
    let copies = tempfile::tempdir().context("making a folder for copies of stores")?;
    let copy = copies.path().join("copy.redb");
    std::fs::copy(file, &copy).with_context(|| format!("copying {}", file.display()))?;
    let identity = Identity {
        changelog: pipeline.topics.changelog.clone(),
        partition,
        partitions: usize::try_from(pipeline.partitions)?,
    };
    let opened = Store::open(&copy, &identity, OPTIONS).with_context(|| format!("opening {whose}"))?;
    if let Some(why) = opened.rebuilt_because {
        return Ok(Err(format!("{whose} is not sound after a clean end: {why}")));
    }
    let mut entries = HashMap::new();
    opened
        .store
        .for_each(|key, entry| drop(entries.insert(key.to_vec(), entry.to_vec())))?;
    Ok(Ok(StoreContents {
        whose,
        partition: Some(partition),
        checkpoint: opened.store.checkpoint(),
        entries,
    }))
}
