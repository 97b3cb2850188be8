//! Progress of the demo: bars on a terminal, plain lines elsewhere, and events on both.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::groups::POLICIES;
use crate::report::grouped;

/// Interval between the lines with the counts where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Display of the progress.
pub(crate) struct Screen {
    started: Instant,
    bars: Option<Bars>,
    total: Totals,
    shown: Progress,
    line_due: Instant,
}

/// Lengths of the bars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    /// Number of records to send.
    pub(crate) sent: u64,
    /// Number of distinct valid orders among them.
    pub(crate) distinct: u64,
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Number of orders that Kafka has acknowledged.
    pub(crate) sent: u64,
    /// Number of committed pending calls.
    pub(crate) pending: u64,
    /// Number of calls with a final state, for each policy.
    pub(crate) calls_final: [u64; POLICIES.len()],
    /// Number of requests that the APIs are processing.
    pub(crate) in_flight: u64,
}

struct Bars {
    sent: ProgressBar,
    pending: ProgressBar,
    calls_final: [ProgressBar; POLICIES.len()],
}

impl Screen {
    /// Starts the clock, and draws the bars if there is a terminal.
    pub(crate) fn new(total: Totals) -> Self {
        Self {
            started: Instant::now(),
            // On standard error, like the events: standard output has only the report.
            bars: std::io::stderr().is_terminal().then(|| Bars::new(total)),
            total,
            shown: Progress::default(),
            line_due: Instant::now() + LINE_INTERVAL,
        }
    }

    /// Prints an event with its time.
    pub(crate) fn event(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.started.elapsed().as_secs_f64());
        match &self.bars {
            // A line that is printed between two drawings would tear the bars apart.
            Some(bars) => bars.sent.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows new counts: at once as bars, else as a line every few seconds.
    pub(crate) fn show(&mut self, progress: Progress) {
        match &self.bars {
            Some(bars) => bars.show(progress),
            None if self.line_due <= Instant::now() && progress != self.shown => {
                self.line_due = Instant::now() + LINE_INTERVAL;
                self.shown = progress;
                self.event(&format!(
                    "{} of {} orders sent, {} of {} in the outbox, calls final: {}; {} in flight",
                    grouped(progress.sent),
                    grouped(self.total.sent),
                    grouped(progress.pending),
                    grouped(self.total.distinct),
                    by_policy(progress.calls_final),
                    progress.in_flight
                ));
            }
            None => {}
        }
    }

    /// Leaves the bars as they are.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.sent, &bars.pending].into_iter().chain(&bars.calls_final) {
                bar.abandon();
            }
        }
    }
}

/// Returns counts with their policies: `retry 10, park 9, verify 10`.
fn by_policy(counts: [u64; POLICIES.len()]) -> String {
    let counts = POLICIES.iter().zip(counts);
    let texts: Vec<String> = counts
        .map(|(policy, count)| format!("{} {}", policy.as_str(), grouped(count)))
        .collect();
    texts.join(", ")
}

impl Bars {
    fn new(total: Totals) -> Self {
        // Ten frames a second: more would take CPU time from the programs.
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let bar = |name: &'static str, length: u64| {
            let style = ProgressStyle::with_template(
                "{prefix:>14} {bar:40.cyan/black.bright} {pos:>7} of {len:<7} {msg}",
            )
            .map(|style| style.progress_chars("━╸─"))
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(length).with_style(style).with_prefix(name))
        };
        Self {
            sent: bar("orders sent", total.sent),
            pending: bar("in the outbox", total.distinct),
            calls_final: POLICIES.map(|policy| bar(policy.as_str(), total.distinct)),
        }
    }

    fn show(&self, progress: Progress) {
        self.sent.set_position(progress.sent);
        self.pending.set_position(progress.pending);
        for (bar, calls_final) in self.calls_final.iter().zip(progress.calls_final) {
            bar.set_position(calls_final);
            bar.set_message("calls final");
        }
    }
}
