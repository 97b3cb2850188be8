//! Progress of a command that reads topics.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time after which progress is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Progress on standard error, once reading has taken a second, and only on a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            bar: bar.with_style(ProgressStyle::default_spinner()),
            since: Instant::now(),
            is_shown: false,
        }
    }

    /// Counts a record of the topic.
    pub(crate) fn read(&mut self, topic: &str) {
        self.bar.inc(1);
        if !self.bar.position().is_multiple_of(1024) {
            return;
        }
        if !self.is_shown && self.since.elapsed() > SHOWN_AFTER {
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar
            .set_message(format!("{} records read, now {topic}", self.bar.position()));
    }

    /// Shows what is waited for, however few records were read.
    pub(crate) fn wait(&self, message: String) {
        if self.since.elapsed() > SHOWN_AFTER && self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(message);
        self.bar.tick();
    }

    /// Shows what is being done.
    pub(crate) fn show(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Removes the progress from the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
