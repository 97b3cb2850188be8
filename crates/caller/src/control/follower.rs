//! The follower of the control topic, on a thread of its own: reports to the run loop when an operator pauses or
//! resumes the calls of this group.

use std::time::Duration;

use anyhow::Context as _;
use kafka::changelog::{ChangelogReader, ReadError};
use records::control::Switch;
use records::{Bounds, Offset, Partition};

use crate::config::Config;
use crate::control::Control;
use crate::effects::completion::{Completion, Completions};

/// The only partition of the control topic.
const PARTITION: Partition = Partition(0);
/// Interval between two looks at the topic's end, so that callers stop within a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the thread. It ends with the run loop.
///
/// # Errors
/// The client or the thread cannot be created.
pub(crate) fn follow(config: &Config, completions: Completions) -> anyhow::Result<()> {
    let mut follower = Follower {
        reader: ChangelogReader::open(&config.kafka, &config.topics.control)?,
        topic: config.topics.control.clone(),
        group_id: config.kafka.group_id.clone(),
        next: None,
    };
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let mut is_unreadable = false;
            while !completions.is_closed() {
                let control = follower.read();
                // A failure that lasts is reported once.
                let is_repeated = is_unreadable && matches!(control, Some(Control::Unreadable(_)));
                if let Some(control) = control.filter(|_| !is_repeated) {
                    is_unreadable = matches!(control, Control::Unreadable(_));
                    completions.send(Completion::Control(control));
                }
                std::thread::sleep(INTERVAL);
            }
        })
        .context("the thread that follows the control topic cannot be started")?;
    Ok(())
}

struct Follower {
    reader: ChangelogReader,
    topic: String,
    group_id: String,
    /// Offset to read from; `None` before the first read, and after a failure.
    next: Option<Offset>,
}

impl Follower {
    /// Reads to the topic's end. Returns `None` if it has no news of this group.
    fn read(&mut self) -> Option<Control> {
        match self.read_to_end() {
            Ok(control) => control,
            Err(error) => {
                // From the start: after a failure the state is reported again, also if nothing is new.
                self.next = None;
                Some(Control::Unreadable(error))
            }
        }
    }

    fn read_to_end(&mut self) -> anyhow::Result<Option<Control>> {
        // The high watermark: a pause that is just being committed is waited for.
        let bounds = self.reader.bounds(PARTITION, REQUEST_TIMEOUT)?;
        // A topic that was created again is read as a new one.
        let from = self.next.filter(|next| *next <= bounds.end);
        let start = from.unwrap_or(bounds.start).max(bounds.start);
        let mut latest = None;
        let range = Bounds {
            start,
            end: bounds.end,
        };
        let read = self.reader.read_other(&self.topic, PARTITION, range, |record| {
            if record.key == self.group_id.as_bytes() {
                latest = Some(record.value.map(Switch::parse).transpose());
            }
            Ok::<(), std::convert::Infallible>(())
        });
        match read {
            Ok(()) | Err(ReadError::Cancelled) => {}
            Err(ReadError::Client(error)) => return Err(error.into()),
            Err(ReadError::Sink(never)) => match never {},
        }
        self.next = Some(bounds.end);
        Ok(match (latest, from) {
            (Some(Ok(switch)), _) => Some(Control::Switch(switch)),
            (Some(Err(error)), _) => Some(Control::Invalid(error)),
            (None, None) => Some(Control::Switch(None)),
            (None, Some(_)) => None,
        })
    }
}
