//! A node of one core over a directory of its own.

use core::future::Future;

use bowline_env::glommio::{GlommioEnv, GlommioFactory};
use bowline_env::{CoreOptions, EnvError, EnvFactory, Kind};
use tempfile::TempDir;

/// A directory on the disk that the sources are on: `/tmp` may be memory.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made")
}

pub(crate) fn options(factory: &GlommioFactory) -> CoreOptions {
    let cpu = factory.facts().cpus[0];
    CoreOptions { cpu, cores: 1, direct_io: true, ..CoreOptions::default() }
}

/// Runs `main` as the one core of a node over a new directory.
pub(crate) fn on_core<T: Future<Output = ()> + 'static>(
    main: impl FnOnce(GlommioEnv) -> T + Send + 'static,
) {
    let dir = directory();
    let factory = GlommioFactory::new(dir.path());
    let core = factory.spawn_core(options(&factory), main).expect("the core starts");
    core.join().expect("the core ends well");
}

pub(crate) fn kind<T: core::fmt::Debug>(result: Result<T, EnvError>) -> Kind {
    result.expect_err("it fails").kind
}
