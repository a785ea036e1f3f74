//! The fuzzer of the target `transfer`.
#![no_main]

bowline_fuzz::target!("transfer");
