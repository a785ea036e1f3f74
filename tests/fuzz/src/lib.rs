//! Runs a target by its name. The binaries beside it, one a target, are what `cargo fuzz` builds.

#[path = "../../targets/all.rs"]
#[expect(dead_code, reason = "how often a plain test mutates is nothing to a fuzzer")]
mod all;

/// Runs one input.
///
/// # Panics
///
/// If the target does: that is a finding. If there is no such target: a bug of the binary.
pub fn run(name: &str, bytes: &[u8]) {
    let target = all::ALL.iter().find(|target| target.name == name).expect("a known target");
    target.run(bytes);
}

/// The entry of a fuzzer for one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::run($name, bytes));
    };
}
