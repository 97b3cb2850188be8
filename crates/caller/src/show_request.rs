//! `--show-request`: the request of one record of the outbox, as this caller would send it now. Nothing is sent.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use kafka::group_offsets::GroupOffsets;
use records::{Bounds, Position, pending};

use crate::config::Config;
use crate::http::Api;
use crate::outbox::pending_call::Callable;

const CLIENT_ID: &str = "caller-show-request";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Prints the request of the record at this position.
///
/// # Errors
/// The outbox has no such record, or no request can be made of it.
pub(crate) fn run(config: &Config, position: &Position) -> anyhow::Result<()> {
    println!("{}", text(config, position)?);
    Ok(())
}

fn text(config: &Config, position: &Position) -> anyhow::Result<String> {
    let topic = config.topics.pending.as_str();
    ensure!(
        position.topic == topic,
        "{position} is not in the outbox, {topic:?}: `outbox order KEY` shows where its calls are"
    );
    let api = Api::new(&config.api)?;
    let offsets = GroupOffsets::open(&config.kafka, CLIENT_ID)?;
    let kept = offsets.bounds(topic, position.partition, REQUEST_TIMEOUT)?;
    let mut shown = None;
    if (kept.start..kept.end).contains(&position.offset) {
        let bounds = Bounds {
            start: position.offset,
            end: position.offset.next(),
        };
        offsets.read::<anyhow::Error>(topic, position.partition, bounds, |record| {
            let value = Bytes::copy_from_slice(record.value);
            let traceparent = pending::trace_context(record.key, &record.headers.readable);
            let document = registry::document(&config.schema_registry, &value)?.map(Bytes::from);
            shown = Some(
                Callable::new(
                    record.key,
                    &value,
                    document.as_ref(),
                    traceparent.as_deref(),
                    &api,
                )
                .map(|call| api.shown(&call.request))
                .map_err(|why| format!("{}: {}", why.reason, why.detail)),
            );
            Ok(())
        })?;
    }
    match shown {
        Some(Ok(text)) => Ok(text),
        Some(Err(why)) => {
            bail!("no request can be made of {position}, and its call becomes a dead letter: {why}")
        }
        None => None.with_context(|| {
            format!(
                "{topic}/{} has no record at {}: it holds {} to {}, and markers between \
            them",
                position.partition, position.offset, kept.start, kept.end
            )
        }),
    }
}
