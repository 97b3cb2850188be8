//! The registry that each program fills, with what is the same for all: build and process.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// What [`encode`] writes, as the header `content-type` says it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry that holds `outbox_build_info` and the process's memory, processor time, threads and files.
/// Fill it, then hand it to [`crate::admin`]; metrics are shared handles and count on.
#[must_use]
pub fn registry(program: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new(vec![("program", program), ("version", version)]);
    registry.register("outbox_build", "The program and its version", build);
    registry.register_collector(Box::new(ProcessCollector {
        started: SystemTime::now(),
    }));
    registry
}

/// The registry's metrics in the text format of OpenMetrics, which Prometheus reads.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    text::encode(&mut text, registry).expect("a String takes all that is written");
    text
}

/// What the kernel counts for this process, read at each scrape. Under the names that dashboards expect.
#[derive(Debug)]
struct ProcessCollector {
    started: SystemTime,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<u64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
            }
            None => Ok(()),
        };
        let process = Process::read();
        let bytes = Some(&Unit::Bytes);
        gauge(
            "process_resident_memory",
            "Memory in use",
            bytes,
            process.memory_bytes,
        )?;
        gauge(
            "process_resident_memory_max",
            "Peak of the memory in use",
            bytes,
            process.memory_max_bytes,
        )?;
        gauge("process_threads", "Threads", None, process.threads)?;
        gauge(
            "process_open_fds",
            "Open files and sockets",
            None,
            process.open_fds,
        )?;
        let started = self
            .started
            .duration_since(UNIX_EPOCH)
            .ok()
            .map(|since| since.as_secs());
        gauge(
            "process_start_time",
            "Start, since 1970 UTC",
            Some(&Unit::Seconds),
            started,
        )?;
        if let Some(cpu_seconds) = process.cpu_seconds {
            let counter = ConstCounter::new(cpu_seconds);
            let help = "Processor time used, by user and system";
            let metric_type = counter.metric_type();
            counter.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                metric_type,
            )?)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default, PartialEq)]
struct Process {
    memory_bytes: Option<u64>,
    memory_max_bytes: Option<u64>,
    threads: Option<u64>,
    open_fds: Option<u64>,
    cpu_seconds: Option<f64>,
}

impl Process {
    /// What is not there, as outside Linux, is left out.
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            open_fds: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64),
            ..Self::parse(&status, &stat)
        }
    }

    fn parse(status: &str, stat: &str) -> Self {
        let number = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        // The second field is the program's name in parentheses and may hold spaces; behind it the user's
        // time is the 12th field and the system's the 13th, in ticks of 1/100 s on every Linux of today.
        let ticks = stat.rsplit_once(')').and_then(|(_, rest)| {
            let mut fields = rest.split_whitespace().skip(11);
            Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
        });
        Self {
            memory_bytes: number("VmRSS").map(|kib| kib * 1024),
            memory_max_bytes: number("VmHWM").map(|kib| kib * 1024),
            threads: number("Threads"),
            open_fds: None,
            cpu_seconds: ticks.map(|ticks| f64::from(ticks) / 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_process_stand_in_the_text() {
        let text = encode(&registry("validator", "1.2.3"));
        assert!(
            text.contains("outbox_build_info{program=\"validator\",version=\"1.2.3\"} 1"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
        for name in [
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_start_time_seconds ",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("{text}"));
            let value: f64 = line[name.len()..].parse().expect("a number");
            assert!(value > 0.0 || name.starts_with("process_cpu"), "{line}");
        }
    }

    #[test]
    fn the_kernel_s_figures_are_read_in_their_units() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        let stat = "1 (a b) c) S 0 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 0";
        let expected = Process {
            memory_bytes: Some(1_048_576),
            memory_max_bytes: Some(2_097_152),
            threads: Some(7),
            open_fds: None,
            cpu_seconds: Some(2.0),
        };
        assert_eq!(Process::parse(status, stat), expected);
        assert_eq!(Process::parse("", ""), Process::default());
    }
}
