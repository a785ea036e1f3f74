//! The fuzzer of the target `stream`.
#![no_main]

bowline_fuzz::target!("stream");
