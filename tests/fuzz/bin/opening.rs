//! The fuzzer of the target `opening`.
#![no_main]

bowline_fuzz::target!("opening");
