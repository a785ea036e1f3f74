//! The fuzzer of the target `membership`.
#![no_main]

bowline_fuzz::target!("membership");
