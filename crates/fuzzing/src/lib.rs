//! Fuzz targets: functions that parse bytes of somebody else and assert what must hold of the result.
//!
//! A target is a test, beside what it parses, in a module called `fuzz`. In each run of the tests it gets the inputs
//! committed in the folder `fuzz/TARGET` of its crate, and seeded mutations of them. `scripts/fuzz` runs the same
//! targets with libFuzzer, which looks for inputs that reach other code, for as long as one says.
//!
//! Not bolero, which does both, because it needs one exact version of `indexmap`, and other dependencies a later one.
//! Not `cargo fuzz`, whose targets see no private function of a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

#[cfg(feature = "libfuzzer")]
mod libfuzzer;
mod mutation;

use mutation::{Mutation, mutated};

/// Variable that sets the seed, as a failure prints it.
const SEED: &str = "OUTBOX_FUZZ_SEED";
/// Variable that sets the number of mutated inputs of each target.
const CASES: &str = "OUTBOX_FUZZ_CASES";
/// Variable that sets for how many seconds each target gets as many inputs of one seed after the other. Default: of one.
const SECONDS: &str = "OUTBOX_FUZZ_SECONDS";
/// Mutated inputs of each target by default: all targets together take some seconds.
const CASES_DEFAULT: u32 = 2_000;
/// Maximum number of mutations of an input.
const MUTATIONS_MAX: usize = 6;

/// Punctuation of JSON, for targets that read it.
pub const JSON: &[&str] = &["{", "}", "[", "]", ",", ":", "\""];

/// Runs the fuzz target of this name. `$tokens` are the pieces of its syntax.
#[macro_export]
macro_rules! check {
    ($name:literal, $tokens:expr, $target:expr) => {
        $crate::run(env!("CARGO_MANIFEST_DIR"), $name, $tokens, $target)
    };
}

/// Runs a target with the inputs in the folder `fuzz/NAME` of its crate, and mutations of them. See [`check!`].
///
/// # Panics
/// The target panics with one of them, or the folder has no input.
pub fn run(folder_of_crate: &str, name: &str, tokens: &[&str], target: fn(&[u8])) {
    let folder = Path::new(folder_of_crate).join("fuzz").join(name);
    let inputs = read_inputs(&folder);
    // A mutation of nothing reaches nothing.
    assert!(!inputs.is_empty(), "{} has no input", folder.display());
    #[cfg(feature = "libfuzzer")]
    if let Some(arguments) = libfuzzer::arguments() {
        libfuzzer::run(&arguments, target);
    }
    for (path, input) in &inputs {
        println!("{}", path.display());
        target(input);
    }
    let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, input)| input).collect();
    let started = Instant::now();
    let time = Duration::from_secs(number(SECONDS).unwrap_or(0));
    let mut seed = number(SEED).unwrap_or_else(rand::random);
    loop {
        if let Err(failure) = run_mutated(&inputs, tokens, target, seed, cases()) {
            panic!(
                "the target {name} fails with {SEED}={seed}: {}\nIts smallest input: b\"{}\"\nOnce it is repaired, \
                 commit that as a file in {}",
                failure.reason,
                failure.input.escape_ascii(),
                folder.display()
            );
        }
        if started.elapsed() >= time {
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

/// Failure of a target.
struct Failure {
    reason: String,
    /// Smallest input that was found for it.
    input: Vec<u8>,
}

fn run_mutated(
    inputs: &[Vec<u8>],
    tokens: &[&str],
    target: fn(&[u8]),
    seed: u64,
    cases: u32,
) -> Result<(), Failure> {
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        // The input itself is committed, not the seed of it, which another version of proptest reads otherwise.
        failure_persistence: None,
        ..Config::default()
    };
    let mutations = prop::collection::vec(any::<Mutation>(), 0..=MUTATIONS_MAX);
    let strategy = (any::<prop::sample::Index>(), mutations);
    let outcome = TestRunner::new(config).run(&strategy, |(index, mutations)| {
        target(&mutated(inputs, index, &mutations, tokens));
        Ok::<(), TestCaseError>(())
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Abort(reason)) => panic!("no inputs could be made: {reason}"),
        Err(TestError::Fail(reason, (index, mutations))) => Err(Failure {
            reason: reason.to_string(),
            input: mutated(inputs, index, &mutations, tokens),
        }),
    }
}

fn cases() -> u32 {
    number(CASES)
        .and_then(|cases| u32::try_from(cases).ok())
        .unwrap_or(CASES_DEFAULT)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, expected a number")))
}

fn read_inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of the folder").path())
        .collect();
    // By name, so that a seed leads to the same inputs on each machine.
    paths.sort_unstable();
    let read = |path: PathBuf| {
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("{{"), "planted");
    }

    #[test]
    fn planted_defect_is_found_and_made_small() {
        let inputs = [b"{\"a\":1}".to_vec()];
        let seeds = 1..=10;
        for seed in seeds {
            let Err(failure) = run_mutated(&inputs, &["{", "}"], planted, seed, CASES_DEFAULT) else {
                panic!("not found with the seed {seed}");
            };
            assert!(failure.reason.contains("planted"), "{}", failure.reason);
            assert!(failure.input.len() < 20, "{}", failure.input.escape_ascii());
        }
    }

    #[test]
    fn seed_leads_to_the_same_input() {
        let inputs = [b"{\"a\":1}".to_vec(), b"[]".to_vec()];
        let found = || {
            let failure = run_mutated(&inputs, &["{"], planted, 3, CASES_DEFAULT).expect_err("planted");
            failure.input
        };
        assert_eq!(found(), found());
    }
}
