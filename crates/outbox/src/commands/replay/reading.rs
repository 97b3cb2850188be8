//! Reader of the topics of the calls.

use crate::config::Config;
use crate::topics_reader::TopicsReader;

/// Reader of the topics of the calls.
pub(super) struct ReplayReader<'a> {
    pub(super) config: &'a Config,
    pub(super) group: &'a str,
    pub(super) reader: TopicsReader,
}

impl<'a> ReplayReader<'a> {
    pub(super) fn open(config: &'a Config, group: &'a str) -> anyhow::Result<Self> {
        let topics = &config.topics;
        let names = [
            topics.pending.as_str(),
            &topics.parked,
            &topics.processed,
            &topics.call_dead_letters,
        ];
        Ok(Self {
            config,
            group,
            reader: TopicsReader::open(&config.connection_as(group), &names)?,
        })
    }

    /// Returns the id of the outbox, if the brokers report one.
    pub(super) fn outbox_id(&self) -> Option<String> {
        let identity = self.reader.identity(&self.config.topics.pending)?;
        Some(identity.id.to_string()).filter(|id| !id.is_empty())
    }
}
