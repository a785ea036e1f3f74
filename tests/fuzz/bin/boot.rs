//! The fuzzer of the target `boot`.
#![no_main]

bowline_fuzz::target!("boot");
