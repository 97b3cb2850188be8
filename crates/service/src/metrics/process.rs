//! Metrics of the process, under the names that dashboards for Prometheus expect.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Collector that reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: SystemTime,
}

impl ProcessCollector {
    /// Creates the collector of a process that starts now.
    pub(super) fn new() -> Self {
        Self {
            started: SystemTime::now(),
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A value that the kernel does not give is left out: a 0 would look like a measurement.
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

/// Resources used by this process; `None` where the kernel does not give the value.
#[derive(Debug, Default, PartialEq)]
struct Process {
    memory_bytes: Option<u64>,
    memory_max_bytes: Option<u64>,
    threads: Option<u64>,
    open_fds: Option<u64>,
    cpu_seconds: Option<f64>,
}

impl Process {
    fn read() -> Self {
        // Outside Linux these files do not exist. Metrics are no reason to fail, so the values stay empty.
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
        // proc(5): the second field is the program's name in parentheses and may contain spaces, so the
        // fields are counted from the last parenthesis: utime is the 12th behind it, stime the 13th. The unit
        // is sysconf(_SC_CLK_TCK), 100 per second on every Linux in use.
        let ticks = stat.rsplit_once(')').and_then(|(_, rest)| {
            let mut fields = rest.split_whitespace().skip(11);
            Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
        });
        Self {
            // The kernel writes kB and means KiB.
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
    fn proc_files_are_parsed() {
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
