//! What is seen while the story runs: bars on a terminal, plain lines elsewhere, events on both.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the numbers are written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of the run.
pub(crate) struct Screen {
    started: Instant,
    bars: Option<Bars>,
    total: Totals,
    shown: Numbers,
    line_due: Instant,
}

/// How far each bar goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    /// Records to send.
    pub(crate) sent: u64,
    /// Distinct valid orders among them.
    pub(crate) distinct: u64,
}

/// How far things have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Orders that Kafka has.
    pub(crate) sent: u64,
    /// Committed pending calls.
    pub(crate) pending: u64,
    /// Calls with a final state.
    pub(crate) ended: u64,
    /// Requests that the API is at work on.
    pub(crate) in_flight: u64,
}

struct Bars {
    sent: ProgressBar,
    pending: ProgressBar,
    ended: ProgressBar,
}

impl Screen {
    /// Draws the first picture.
    pub(crate) fn new(total: Totals) -> Self {
        Self {
            started: Instant::now(),
            bars: std::io::stderr().is_terminal().then(|| Bars::new(total)),
            total,
            shown: Numbers::default(),
            line_due: Instant::now() + LINE_EVERY,
        }
    }

    /// Something happened that a person may want to know.
    pub(crate) fn event(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.started.elapsed().as_secs_f64());
        match &self.bars {
            Some(bars) => bars.sent.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The numbers have moved.
    pub(crate) fn show(&mut self, numbers: Numbers) {
        match &self.bars {
            Some(bars) => bars.show(numbers),
            None if self.line_due <= Instant::now() && numbers != self.shown => {
                self.line_due = Instant::now() + LINE_EVERY;
                self.shown = numbers;
                self.event(&format!(
                    "sent {} of {}, in the outbox {} of {}, called {}, in flight {}",
                    numbers.sent,
                    self.total.sent,
                    numbers.pending,
                    self.total.distinct,
                    numbers.ended,
                    numbers.in_flight
                ));
            }
            None => {}
        }
    }

    /// The bars stay as they are.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.sent, &bars.pending, &bars.ended] {
                bar.abandon();
            }
        }
    }
}

impl Bars {
    fn new(total: Totals) -> Self {
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
            ended: bar("called", total.distinct),
        }
    }

    fn show(&self, numbers: Numbers) {
        self.sent.set_position(numbers.sent);
        self.pending.set_position(numbers.pending);
        self.ended.set_position(numbers.ended);
        self.ended.set_message(format!("{} in flight", numbers.in_flight));
    }
}
