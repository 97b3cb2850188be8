//! `state inspect`: the stores in a validator's state directory, as their files say.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::Table;
use records::{Offset, Partition};
use serde::Serialize;
use store::{InspectedDirectory, ReadOnlyStore, StoreFile};

use crate::cli::InspectState;
use crate::commands::{Status, print_json};
use crate::tables::new_table;

/// Cache of a store that is read once, in order.
pub(super) const CACHE_BYTES: usize = 16 << 20;

/// Field names are those of the JSON output, as in the types below.
#[derive(Debug, Serialize)]
struct Inspected {
    dir: String,
    /// True if a running validator has locked the directory: then its stores cannot be read.
    in_use: bool,
    /// Topics that the directory was created for.
    topics: Option<String>,
    topic_ids: BTreeMap<String, String>,
    stores: Vec<Shown>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Shown {
    partition: Partition,
    bytes: u64,
    state: State,
    /// Format, changelog partition and number of partitions.
    identity: Option<String>,
    keys: Option<u64>,
    /// Changelog offset up to which the store is equal to the changelog.
    checkpoint: Option<Offset>,
    /// Reason for which the store cannot be read.
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Readable,
    /// A running validator has it open.
    InUse,
    /// Its validator was killed: it repairs the store when it opens it.
    NotClosed,
    Unreadable,
}

pub(super) fn run(options: &InspectState, json: bool) -> anyhow::Result<Status> {
    let directory = InspectedDirectory::open(&options.dir)?;
    let inspected = inspect(&options.dir, &directory);
    if json {
        print_json(&inspected)?;
    } else {
        print(&inspected);
    }
    let is_unreadable = |store: &Shown| store.state == State::Unreadable;
    Ok(if inspected.stores.iter().any(is_unreadable) {
        Status::Problem
    } else {
        Status::Ok
    })
}

fn inspect(dir: &Path, directory: &InspectedDirectory) -> Inspected {
    Inspected {
        dir: dir.display().to_string(),
        in_use: directory.is_in_use,
        topics: directory.topics.clone(),
        topic_ids: directory.ids.clone(),
        stores: directory
            .stores
            .iter()
            .map(|file| shown(file, directory.is_in_use))
            .collect(),
    }
}

fn shown(file: &StoreFile, is_in_use: bool) -> Shown {
    let unread = |state, reason| Shown {
        partition: file.partition,
        bytes: file.bytes,
        state,
        identity: None,
        keys: None,
        checkpoint: None,
        reason,
    };
    if is_in_use {
        return unread(State::InUse, None);
    }
    match ReadOnlyStore::open(&file.path, CACHE_BYTES) {
        Ok(store) => Shown {
            identity: Some(store.identity().to_owned()),
            keys: Some(store.keys()),
            checkpoint: store.checkpoint(),
            ..unread(State::Readable, None)
        },
        Err(error) if error.needs_repair() => unread(State::NotClosed, None),
        Err(error) => unread(State::Unreadable, Some(error.to_string())),
    }
}

fn print(inspected: &Inspected) {
    println!("{}", table(&inspected.stores));
    for store in &inspected.stores {
        if let Some(reason) = &store.reason {
            println!("partition {}: {reason}", store.partition);
        }
    }
    let topics = inspected.topics.as_deref().unwrap_or("no topics yet");
    println!("{} was created for {topics}.", inspected.dir);
    for (topic, id) in &inspected.topic_ids {
        println!("    {topic} has the id {id}");
    }
    if inspected.in_use {
        println!("A running validator has locked the directory: stop it to see what its stores hold.");
    }
    if inspected
        .stores
        .iter()
        .any(|store| store.state == State::NotClosed)
    {
        println!(
            "Stores that were not closed are those of a validator that was killed: it repairs them when it starts. \
             `outbox state verify` reads a repaired copy."
        );
    }
}

fn table(stores: &[Shown]) -> Table {
    let mut table = new_table(["partition", "size", "state", "identity", "keys", "checkpoint"]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for store in stores {
        table.add_row([
            store.partition.to_string(),
            indicatif::BinaryBytes(store.bytes).to_string(),
            match store.state {
                State::Readable => "readable",
                State::InUse => "in use",
                State::NotClosed => "not closed",
                State::Unreadable => "unreadable",
            }
            .to_owned(),
            or_none(store.identity.clone()),
            or_none(store.keys.map(|keys| keys.to_string())),
            or_none(store.checkpoint.map(|checkpoint| checkpoint.to_string())),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::fs;

    use store::{Identity, Options, StateDirectory, Store, StoreWriter};

    use super::*;

    #[test]
    fn stores_are_shown_as_they_are() {
        let temporary = tempfile::tempdir().expect("a directory");
        let locked = StateDirectory::lock(temporary.path()).expect("free");
        locked.claim("orders with 3 partitions").expect("new");
        let path = locked.store(Partition(0));
        let identity = Identity {
            changelog: "changelog".into(),
            partition: Partition(0),
            partitions: 3,
        };
        let options = Options {
            cache_bytes: 1 << 20,
            recent_max: 10,
            period: None,
        };
        let writer = StoreWriter::start().expect("a thread");
        let mut opened = Store::open(&path, &identity, options, &writer)
            .expect("a store")
            .store;
        opened.apply([], Offset(7), None).expect("applied");
        opened.persist().expect("persisted");
        fs::copy(&path, locked.store(Partition(1))).expect("copied as a killed validator leaves it");
        drop(opened);
        fs::write(locked.store(Partition(2)), b"no store").expect("written");

        let of = |directory: &InspectedDirectory| inspect(temporary.path(), directory);
        let in_use = of(&InspectedDirectory::open(temporary.path()).expect("read"));
        assert!(in_use.in_use && in_use.stores.iter().all(|store| store.state == State::InUse));
        drop(locked);
        let inspected = of(&InspectedDirectory::open(temporary.path()).expect("read"));
        let states: Vec<_> = inspected.stores.iter().map(|store| store.state).collect();
        assert_eq!(states, [State::Readable, State::NotClosed, State::Unreadable]);
        assert!(inspected.stores[2].reason.is_some());
        let readable = Shown {
            bytes: 1 << 20,
            ..inspected.stores[0].clone()
        };
        let expected = serde_json::json!({"partition": 0, "bytes": 1_048_576, "state": "readable",
            "identity": "v3 changelog/0 of 3", "keys": 0, "checkpoint": 7, "reason": null});
        assert_eq!(serde_json::to_value(&readable).expect("JSON"), expected);
        let json = serde_json::to_value(Inspected {
            dir: "state".into(),
            stores: Vec::new(),
            ..inspected
        });
        let expected = serde_json::json!({"dir": "state", "in_use": false, "topics": "orders with 3 partitions",
            "topic_ids": {}, "stores": []});
        assert_eq!(json.expect("JSON"), expected);
        assert!(table(&[readable]).to_string().contains("v3 changelog/0 of 3"));
    }
}
