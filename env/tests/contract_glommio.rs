//! The contract of the seam on the production machine, in a directory of its own.
#![cfg(all(feature = "glommio", feature = "contract"))]

use bowline_env::contract;
use bowline_env::glommio::GlommioFactory;
use bowline_env::{EnvFactory, UringState};

#[test]
#[expect(clippy::disallowed_methods, reason = "the switch is the environment's, by design")]
fn the_production_machine_keeps_the_contract() {
    let home = tempfile::tempdir().unwrap();
    let factory = GlommioFactory::new(home.path());
    let io_uring = factory.facts().io_uring;
    if io_uring != UringState::Ready && std::env::var("BOWLINE_NO_URING").as_deref() == Ok("1") {
        return;
    }
    assert_eq!(io_uring, UringState::Ready, "BOWLINE_NO_URING=1 skips what needs io_uring");
    contract::check_all(&factory, |name, cores| {
        for core in cores {
            assert_eq!(core.join(), Ok(()), "{name}");
        }
    });
}
