//! The fuzzer of the target `frames`.
#![no_main]

bowline_fuzz::target!("frames");
