//! The machines on a simulated disk: apply, reads, flush, merge and restart against a model.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::map_err_ignore,
    reason = "a failed unwrap or an unexpected arm is this test failing"
)]

#[path = "machine/hosted.rs"]
mod hosted;
#[path = "machine/kv.rs"]
mod kv;
#[path = "machine/kv_pages.rs"]
mod kv_pages;
#[path = "machine/model.rs"]
mod model;
#[path = "machine/random.rs"]
mod random;
#[path = "machine/replica.rs"]
mod replica;
