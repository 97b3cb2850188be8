//! The redb stores of validators that have ended, read from copies: reading must not repair anything.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use records::{Offset, Partition};
use store::{Identity, Store};

use crate::pipeline::Pipeline;

/// What a validator's file holds of one partition.
#[derive(Clone, Debug, Default)]
pub struct Holding {
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
/// # Errors
/// A file cannot be copied, or is no sound store after a clean end.
pub fn read_stores(pipeline: &Pipeline, validators: &[u32]) -> Result<Vec<Holding>> {
    let mut holdings = Vec::new();
    for number in validators {
        for partition in 0..pipeline.partitions {
            let partition = Partition(partition);
            let folder = pipeline.state_folder(*number);
            let file = folder.join(format!("partition-{partition}.redb"));
            if file.exists() {
                let whose = format!("validator {number}'s store of partition {partition}");
                holdings.push(read_store(pipeline, &file, partition, whose)?);
            }
        }
    }
    Ok(holdings)
}

fn read_store(pipeline: &Pipeline, file: &Path, partition: Partition, whose: String) -> Result<Holding> {
    let copies = tempfile::tempdir().context("making a folder for copies of stores")?;
    let copy = copies.path().join("copy.redb");
    std::fs::copy(file, &copy).with_context(|| format!("copying {}", file.display()))?;
    let identity = Identity {
        changelog: pipeline.topics.changelog.clone(),
        partition,
        partitions: usize::try_from(pipeline.partitions)?,
    };
    let opened = Store::open(&copy, &identity, 16 << 20).with_context(|| format!("opening {whose}"))?;
    ensure!(
        opened.rebuilt_because.is_none(),
        "{whose} is not sound after a clean end: {:?}",
        opened.rebuilt_because
    );
    let mut entries = HashMap::new();
    opened
        .store
        .for_each(|key, entry| drop(entries.insert(key.to_vec(), entry.to_vec())))?;
    Ok(Holding {
        whose,
        partition: Some(partition),
        checkpoint: opened.store.checkpoint(),
        entries,
    })
}
