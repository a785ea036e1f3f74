//! Both logs keep every promise of the exported check.

use bowline_env::{Bell, Env};
use bowline_wal::{MemoryLog, Recovered, conformance};

use crate::kit::*;

#[test]
fn the_log_on_a_disk_conforms() {
    let world = calm(11);
    let result = live(&world, async move |env| {
        format(&env).await;
        conformance::check(|| {
            let env = env.clone();
            async move {
                let log = open(&env).await;
                (log.wal, log.found, log.bell)
            }
        })
        .await
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn the_log_in_memory_conforms() {
    let world = calm(12);
    let result = live(&world, async move |env| {
        conformance::check(|| {
            let bell: Bell = env.bell();
            async move {
                let log = MemoryLog::new(1 << 20, 1 << 16, bell.clone());
                (log, Recovered::default(), bell)
            }
        })
        .await
    });
    assert_eq!(result, Ok(()));
}
