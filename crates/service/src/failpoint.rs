//! Failpoints: named steps at which a test kills or stops the process, makes an operation fail, or disables a guard.
//!
//! They exist only with the feature `failpoints`; otherwise the macros expand to nothing. A failpoint is
//! configured by the environment, in the syntax of the crate `fail`:
//! `FAILPOINTS="before-commit=5*off->return"` passes five times and kills at the sixth. The failpoints of
//! [`guard_removed`] have names that begin with `guard-`.

/// Kills the process here with SIGKILL if the failpoint is configured to `return`. No destructor runs, and
/// buffers of the process are lost; what the kernel has already accepted is not.
#[doc(inline)]
pub use crate::__kill_at as kill_at;

/// Stops the process here with SIGSTOP if the failpoint is configured to `return`: a virtual machine that is
/// paused at the worst moment. SIGCONT resumes it.
#[doc(inline)]
pub use crate::__freeze_at as freeze_at;

/// Returns `true` if the failpoint is configured to `return`. The code then does as if an operation had failed that no
/// test can make fail from outside. A constant `false` without the feature.
#[doc(inline)]
pub use crate::__fails_at as fails_at;

/// Returns `true` if the failpoint is configured to `return`. The code then omits a guard, and the tests must
/// fail: that proves that they cover the guard. A constant `false` without the feature.
#[doc(inline)]
pub use crate::__guard_removed as guard_removed;

#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! __kill_at {
    ($name:expr) => {
        if $crate::failpoint::returns($name) {
            $crate::failpoint::kill($name)
        }
    };
}

#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __kill_at {
    ($name:expr) => {{
        // Checks that the name is a constant text in builds without the feature too.
        const _: &str = $name;
    }};
}

#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! __freeze_at {
    ($name:expr) => {
        if $crate::failpoint::returns($name) {
            $crate::failpoint::freeze($name)
        }
    };
}

#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __freeze_at {
    ($name:expr) => {{
        const _: &str = $name;
    }};
}

#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! __fails_at {
    ($name:expr) => {
        $crate::failpoint::returns($name)
    };
}

#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __fails_at {
    ($name:expr) => {{
        const _: &str = $name;
        false
    }};
}

#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[macro_export]
macro_rules! __guard_removed {
    ($name:expr) => {
        $crate::failpoint::returns($name)
    };
}

#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __guard_removed {
    ($name:expr) => {{
        const _: &str = $name;
        false
    }};
}

/// Returns `true` if the failpoint is configured to `return` this time.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[must_use]
pub fn returns(name: &str) -> bool {
    use std::sync::Once;

    static CONFIGURED: Once = Once::new();
    // Reads FAILPOINTS. Leaked, because a dropped scenario clears all failpoints and this one lasts as long
    // as the process.
    CONFIGURED.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    fail::fail_point!(name, |_| true);
    false
}

/// Kills the process with SIGKILL.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub fn kill(name: &str) -> ! {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    // Not through the logger: it may hold a lock, or keep the line in a buffer that SIGKILL discards.
    eprintln!("{{\"level\":\"WARN\",\"message\":\"killed at failpoint\",\"failpoint\":\"{name}\"}}");
    let sent = kill(Pid::this(), Signal::SIGKILL);
    // A process that went on would make the test pass for the wrong reason.
    unreachable!("the process outlived its SIGKILL at {name}: {sent:?}");
}

/// Stops the process with SIGSTOP, until SIGCONT.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub fn freeze(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    eprintln!("{{\"level\":\"WARN\",\"message\":\"frozen at failpoint\",\"failpoint\":\"{name}\"}}");
    let sent = kill(Pid::this(), Signal::SIGSTOP);
    debug_assert!(sent.is_ok(), "{sent:?}");
}

#[cfg(test)]
mod tests {
    use super::{guard_removed, kill_at};

    const CHILD: &str = "OUTBOX_TEST_FAILPOINT_CHILD";

    /// A process passes two failpoints three times each; one of them is configured to kill at the third pass.
    /// The process is this test, run as a child process.
    #[test]
    fn failpoint_kills_only_with_the_feature() {
        use std::os::unix::process::ExitStatusExt as _;

        if std::env::var_os(CHILD).is_some() {
            for _ in 0..3 {
                kill_at!("test-other-failpoint");
                kill_at!("test-failpoint");
            }
            // Reached only without the feature: then the guard stays, whatever is configured.
            std::process::exit(if guard_removed!("guard-test") { 1 } else { 0 });
        }
        let name = "failpoint::tests::failpoint_kills_only_with_the_feature";
        let run = |failpoints: &str| {
            std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", name])
                .env(CHILD, "1")
                .env("FAILPOINTS", failpoints)
                .output()
                .expect("started")
        };
        let killed = run("test-failpoint=2*off->return;guard-test=return");
        let signal = cfg!(feature = "failpoints").then_some(9);
        assert_eq!(killed.status.signal(), signal, "{killed:?}");
        assert_eq!(killed.status.success(), !cfg!(feature = "failpoints"));
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn guard_is_removed_only_if_configured() {
        assert!(!guard_removed!("guard-test-configured"));
        fail::cfg("guard-test-configured", "return").expect("a valid action");
        assert!(guard_removed!("guard-test-configured"));
        assert!(!guard_removed!("guard-test-other"));
    }
}
