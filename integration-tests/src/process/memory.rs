//! The memory of a process, as Linux tells.

use anyhow::{Context, Result};

/// The most memory that a process ever had, in KiB.
///
/// # Errors
/// It does not run, or this is not Linux.
pub fn peak_kib(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status =
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}; measuring needs Linux"))?;
    peak_in(&status).with_context(|| format!("no peak memory in {path}"))
}

fn peak_in(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read() {
        let status = "Name:\tx\nVmPeak:\t9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t7 kB\n";
        assert_eq!(peak_in(status), Some(1234));
        assert_eq!(peak_in("Name:\tx\n"), None);
    }
}
