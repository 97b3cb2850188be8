//! Description of the machine, and resources that a process has used, from Linux's `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time and memory that a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// CPU time, user and system.
    pub(crate) cpu: Duration,
    /// Peak resident memory, in KiB.
    pub(crate) memory_peak_kib: u64,
}

/// Unit of the CPU times in `/proc`: hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Returns what the process with this id has used so far.
pub(crate) fn used(id: u32) -> Result<Used> {
    let read = |file: &str| {
        let path = format!("/proc/{id}/{file}");
        fs::read_to_string(&path).with_context(|| format!("reading {path}: measurements need Linux"))
    };
    let ticks = cpu_ticks(&read("stat")?).context("parsing the CPU time of a process")?;
    Ok(Used {
        cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        memory_peak_kib: harness::process::memory::peak_kib(id)?,
    })
}

/// Returns one line about the machine.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| value_of(&text, "model name").map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".into());
    let memory_gib = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kib_of(&text, "MemTotal"))
        .map_or(0, |kib| kib >> 20);
    // Figures of a dev build are not comparable with those of a release build.
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    format!(
        "{cores} cores of {model}, {memory_gib} GiB; bench built with profile {build}; \
         Kafka on the same machine"
    )
}

/// Returns the sum of fields 14 and 15 of `/proc/PID/stat`, user and system time.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name, in parentheses, may contain spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    // The state is field 3, so user time is the twelfth behind the name.
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    value_of(text, name)?.strip_suffix("kB")?.trim().parse().ok()
}

fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_parsed_behind_any_program_name() {
        let stat = "4242 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(300));
    }
}
