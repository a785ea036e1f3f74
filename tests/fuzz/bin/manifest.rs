//! The fuzzer of the target `manifest`.
#![no_main]

bowline_fuzz::target!("manifest");
