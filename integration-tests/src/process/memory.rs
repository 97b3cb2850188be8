//! Memory of a process, from Linux' `/proc`.

use anyhow::{Context, Result};

/// Returns the peak resident memory of a process, in KiB.
///
/// # Errors
/// The process does not run, or the system is not Linux.
pub fn peak_kib(id: u32) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status =
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}; measuring needs Linux"))?;
    peak_in(&status).with_context(|| format!("no peak memory in {path}"))
}

fn peak_in(status: &str) -> Option<u64> {
    // The peak, so that one read at the end covers the whole run.
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_from_proc_status() {
        let status = "Name:\tx\nVmPeak:\t9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t7 kB\n";
        assert_eq!(peak_in(status), Some(1234));
        assert_eq!(peak_in("Name:\tx\n"), None);
    }
}
