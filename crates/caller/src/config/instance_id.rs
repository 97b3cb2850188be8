//! Name of an instance that has none in its settings.

/// Returns the name of this process: `HOST-PID`.
pub(super) fn of_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    from(&host, std::process::id())
}

fn from(host: &str, process: u32) -> String {
    match host.trim() {
        "" => format!("caller-{process}"),
        host => format!("{host}-{process}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_has_host_and_process() {
        assert_eq!(from("node-7\n", 12), "node-7-12");
        assert_eq!(from("", 12), "caller-12");
        assert!(of_process().ends_with(&format!("-{}", std::process::id())));
    }
}
