//! libFuzzer inside of a test. `scripts/fuzz` builds the tests with instrumentation and runs one of them.
// Unsafe: libFuzzer is C++, and libfuzzer-sys has its `main` alone, not a call that a test can make.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::sync::OnceLock;

// Links libFuzzer.
use libfuzzer_sys as _;

/// Variable with the arguments of libFuzzer, separated by spaces.
const ARGUMENTS: &str = "OUTBOX_FUZZ_ARGUMENTS";

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        arguments: *mut *mut *mut c_char,
        callback: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// Returns the arguments, if libFuzzer shall run.
pub(crate) fn arguments() -> Option<Vec<String>> {
    let text = std::env::var(ARGUMENTS).ok()?;
    Some(text.split_whitespace().map(str::to_owned).collect())
}

/// Runs a target until the limits in the arguments, and ends the process: successfully, if it found nothing.
pub(crate) fn run(arguments: &[String], target: fn(&[u8])) -> ! {
    TARGET.set(target).expect("one target for each process");
    let name = std::iter::once("fuzz");
    let texts: Vec<CString> = name
        .chain(arguments.iter().map(String::as_str))
        .map(|text| CString::new(text).expect("an environment variable has no NUL"))
        .collect();
    let mut pointers: Vec<*mut c_char> = texts.iter().map(|text| text.as_ptr().cast_mut()).collect();
    let mut count = c_int::try_from(pointers.len()).expect("a few arguments");
    // As C has it, a null pointer ends them.
    pointers.push(std::ptr::null_mut());
    let mut start = pointers.as_mut_ptr();
    // SAFETY: `texts` and `pointers` outlive the call, and libFuzzer writes to neither; it replaces `start` at most.
    let status = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut start, run_one) };
    std::process::exit(status);
}

// A panic cannot leave it, and aborts the process: libFuzzer then writes the input to a file.
extern "C" fn run_one(data: *const u8, length: usize) -> c_int {
    let input = match length {
        // The pointer may then be null.
        0 => &[],
        // SAFETY: libFuzzer passes a buffer of this length, which it leaves alone until this returns.
        _ => unsafe { std::slice::from_raw_parts(data, length) },
    };
    (TARGET.get().expect("set before libFuzzer runs"))(input);
    0
}

/// Target of libfuzzer-sys's own `main`, which is not used, but linked.
#[unsafe(no_mangle)]
extern "C" fn rust_fuzzer_test_input(_input: &[u8]) -> c_int {
    unreachable!("libFuzzer calls the target itself")
}
