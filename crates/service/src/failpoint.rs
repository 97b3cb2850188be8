//! Named steps at which a test kills the process or takes a guard away. Without the feature `failpoints`
//! they are nothing.
//!
//! A step is configured by the environment, in the syntax of the crate `fail`:
//! `FAILPOINTS="before-commit=5*off->return"` lets five commits through and kills at the sixth.

/// SIGKILLs the process here if the failpoint of this name is configured to `return`; nothing of it runs
/// any more, as if its machine had lost power.
#[doc(inline)]
pub use crate::__kill_at as kill_at;

/// Stops the process here, by SIGSTOP, if the failpoint of this name is configured to `return`: a machine
/// that stands still at the worst moment. SIGCONT lets it go on.
#[doc(inline)]
pub use crate::__freeze_at as freeze_at;

/// `true` if the failpoint of this name is configured to `return`: then the code leaves out a guard, to
/// show that the tests see it missing. A constant `false` without the feature.
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

/// Whether the failpoint is configured to `return` this time.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
#[must_use]
pub fn returns(name: &str) -> bool {
    use std::sync::Once;

    static CONFIGURED: Once = Once::new();
    // The scenario clears all failpoints when it is dropped, and this one is for the whole process.
    CONFIGURED.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    fail::fail_point!(name, |_| true);
    false
}

/// Ends the process by SIGKILL.
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub fn kill(name: &str) -> ! {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    // Written without the logger, which might hold a lock or a buffer.
    eprintln!("{{\"level\":\"WARN\",\"message\":\"killed at failpoint\",\"failpoint\":\"{name}\"}}");
    let sent = kill(Pid::this(), Signal::SIGKILL);
    unreachable!("the process outlived its SIGKILL at {name}: {sent:?}");
}

/// Stops the process by SIGSTOP, until somebody sends SIGCONT.
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

    /// Story: a process goes through two steps three times each; one of them is configured to kill at the
    /// third time. The process is this test, started once more.
    #[test]
    fn a_step_kills_when_it_is_configured_and_only_with_the_feature() {
        use std::os::unix::process::ExitStatusExt as _;

        if std::env::var_os(CHILD).is_some() {
            for _ in 0..3 {
                kill_at!("test-other-step");
                kill_at!("test-step");
            }
            // With the feature nobody comes here; without it the guard stands, whatever is configured.
            std::process::exit(if guard_removed!("test-guard") { 1 } else { 0 });
        }
        let name = "failpoint::tests::a_step_kills_when_it_is_configured_and_only_with_the_feature";
        let run = |failpoints: &str| {
            std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", name])
                .env(CHILD, "1")
                .env("FAILPOINTS", failpoints)
                .output()
                .expect("started")
        };
        let killed = run("test-step=2*off->return;test-guard=return");
        let signal = cfg!(feature = "failpoints").then_some(9);
        assert_eq!(killed.status.signal(), signal, "{killed:?}");
        assert_eq!(killed.status.success(), !cfg!(feature = "failpoints"));
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn a_guard_is_removed_only_where_that_is_configured() {
        assert!(!guard_removed!("test-guard-here"));
        fail::cfg("test-guard-here", "return").expect("a valid action");
        assert!(guard_removed!("test-guard-here"));
        assert!(!guard_removed!("test-guard-elsewhere"));
    }
}
