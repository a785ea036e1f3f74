//! The fuzzer of the target `token`.
#![no_main]

bowline_fuzz::target!("token");
