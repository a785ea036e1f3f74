//! The fuzzer of the target `batch`.
#![no_main]

bowline_fuzz::target!("batch");
