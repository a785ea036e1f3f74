//! The fuzzer of the target `config`.
#![no_main]

bowline_fuzz::target!("config");
