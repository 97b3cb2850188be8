//! Loss of the end of a partition's log on all replicas, as after an unclean leader election or a restored
//! disk.
//!
//! The log ends with a whole transaction afterwards, so that none is left open in it.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes of a batch before its length field ends: base offset and length.
const LENGTH_END: usize = 12;
/// Position of the attributes in a batch of format 2.
const ATTRIBUTES: usize = 21;
/// Position of the last offset, relative to the base offset.
const LAST_OFFSET_DELTA: usize = 23;
/// Position of the producer id.
const PRODUCER: usize = 43;
/// Length of the header of a batch.
const HEADER: usize = 61;
const TRANSACTIONAL: u16 = 0x10;
const CONTROL: u16 = 0x20;

/// Place after a batch at which no transaction is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boundary {
    /// Position in the file.
    bytes: usize,
    /// Offset of the next record.
    next: i64,
}

/// Truncates a partition's log in the data folders of all its replicas, whose brokers must be stopped, so
/// that at least one whole transaction is lost. Returns the offset at which the log ends then; none if it is
/// too short.
///
/// # Errors
/// A file cannot be read or changed.
pub fn lose_tail(data: &[PathBuf], partition: &str) -> Result<Option<i64>> {
    let logs: Vec<PathBuf> = data
        .iter()
        .map(|folder| folder.join(partition))
        .filter(|folder| folder.is_dir())
        .collect();
    let Some(first) = logs.first() else {
        return Ok(None);
    };
    let Some(segment) = last_segment(first)? else {
        return Ok(None);
    };
    let ends = boundaries(&read(&segment)?);
    // About a tenth of the transactions: most of the log stays, and more than the last one is lost.
    let Some(end) = ends
        .len()
        .checked_sub(2 + ends.len() / 10)
        .map(|index| ends[index])
    else {
        return Ok(None);
    };
    for log in &logs {
        truncate(log, end.next)?;
    }
    Ok(Some(end.next))
}

/// Truncates the log of one replica after the batch that ends before this offset.
fn truncate(log: &Path, next: i64) -> Result<()> {
    let Some(segment) = last_segment(log)? else {
        return Ok(());
    };
    // A replica that has less than that keeps all it has.
    let Some(end) = boundaries(&read(&segment)?)
        .into_iter()
        .find(|end| end.next == next)
    else {
        return Ok(());
    };
    OpenOptions::new()
        .write(true)
        .open(&segment)
        .and_then(|file| file.set_len(end.bytes as u64))
        .with_context(|| format!("truncating {}", segment.display()))?;
    // The broker rebuilds the indexes and the producers' state of a log that was not closed in order.
    for extension in ["index", "timeindex", "txnindex"] {
        remove(&segment.with_extension(extension))?;
    }
    for file in files(log)? {
        if file.extension().is_some_and(|extension| extension == "snapshot") {
            remove(&file)?;
        }
    }
    Ok(())
}

/// Returns each place after a batch at which no transaction is open.
fn boundaries(segment: &[u8]) -> Vec<Boundary> {
    let mut open = std::collections::HashSet::new();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(batch) = segment.get(at..).filter(|rest| rest.len() >= HEADER) {
        let length = u32::from_be_bytes(array(batch, 8)) as usize;
        // Brokers preallocate nothing here, so zeros are the end of a batch that was not written in full.
        if length == 0 || batch.len() < LENGTH_END + length {
            break;
        }
        let attributes = u16::from_be_bytes(array(batch, ATTRIBUTES));
        let producer = i64::from_be_bytes(array(batch, PRODUCER));
        if attributes & CONTROL != 0 {
            open.remove(&producer);
        } else if attributes & TRANSACTIONAL != 0 {
            open.insert(producer);
        }
        at += LENGTH_END + length;
        if open.is_empty() {
            let base = i64::from_be_bytes(array(batch, 0));
            let last = i32::from_be_bytes(array(batch, LAST_OFFSET_DELTA));
            found.push(Boundary {
                bytes: at,
                next: base + i64::from(last) + 1,
            });
        }
    }
    found
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

/// Returns the log file of the last segment.
fn last_segment(log: &Path) -> Result<Option<PathBuf>> {
    Ok(files(log)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        // Named by the first offset, with leading zeros.
        .max())
}

fn files(log: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(log)
        .and_then(|files| files.map(|file| Ok(file?.path())).collect())
        .with_context(|| format!("listing {}", log.display()))
}

fn read(segment: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(segment)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("reading {}", segment.display()))?;
    Ok(bytes)
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("deleting {}", file.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64, records: i32, attributes: u16, producer: i64) -> Vec<u8> {
        let mut batch = vec![0; HEADER + 10];
        let length = u32::try_from(batch.len() - LENGTH_END).expect("short");
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[ATTRIBUTES..][..2].copy_from_slice(&attributes.to_be_bytes());
        batch[LAST_OFFSET_DELTA..][..4].copy_from_slice(&(records - 1).to_be_bytes());
        batch[PRODUCER..][..8].copy_from_slice(&producer.to_be_bytes());
        batch
    }

    #[test]
    fn log_is_cut_between_transactions() {
        let marker = TRANSACTIONAL | CONTROL;
        let log = [
            batch(0, 2, TRANSACTIONAL, 7),
            batch(2, 1, TRANSACTIONAL, 8),
            batch(3, 1, marker, 7),
            batch(4, 1, marker, 8),
            batch(5, 3, TRANSACTIONAL, 7),
            batch(8, 1, marker, 7),
            batch(9, 1, TRANSACTIONAL, 7),
        ]
        .concat();
        let bytes = HEADER + 10;
        assert_eq!(
            boundaries(&log),
            [
                Boundary {
                    bytes: 4 * bytes,
                    next: 5
                },
                Boundary {
                    bytes: 6 * bytes,
                    next: 9
                }
            ]
        );
        // A batch that was not written in full ends the log.
        assert_eq!(boundaries(&log[..6 * bytes - 1]).len(), 1);
    }

    #[test]
    fn replicas_end_at_one_offset() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = [1, 2].map(|node| folder.path().join(node.to_string()));
        let transaction = |number: i64| {
            [
                batch(2 * number, 1, TRANSACTIONAL, 7),
                batch(2 * number + 1, 1, TRANSACTIONAL | CONTROL, 7),
            ]
            .concat()
        };
        // The second replica lacks the last transaction.
        for (data, count) in data.iter().zip([20, 19]) {
            let log = data.join("changelog-0");
            fs::create_dir_all(&log).expect("a folder");
            let bytes: Vec<u8> = (0..count).flat_map(transaction).collect();
            fs::write(log.join("00000000000000000000.log"), bytes).expect("written");
            fs::write(log.join("00000000000000000030.snapshot"), "").expect("written");
        }
        assert_eq!(lose_tail(&data, "changelog-0").expect("cut"), Some(34));
        for data in &data {
            let log = data.join("changelog-0");
            let ends = boundaries(&read(&log.join("00000000000000000000.log")).expect("read"));
            assert_eq!(ends.last().map(|end| end.next), Some(34));
            assert!(!log.join("00000000000000000030.snapshot").exists());
        }
        assert_eq!(lose_tail(&data, "changelog-1").expect("none"), None);
    }
}
