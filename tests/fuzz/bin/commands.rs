//! The fuzzer of the target `commands`.
#![no_main]

bowline_fuzz::target!("commands");
