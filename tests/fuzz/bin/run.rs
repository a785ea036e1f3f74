//! The fuzzer of the target `run`.
#![no_main]

bowline_fuzz::target!("run");
