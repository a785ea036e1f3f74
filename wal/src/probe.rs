//! Which of the two ways to make a write durable is faster here: measured once, at format.

use bowline_env::{Dir, Env, EnvError, File, Mode, Name};

use crate::geometry::Geometry;
use crate::head::{SyncMode, slot_file};
use crate::options::WalOptions;

const SMALL: usize = 4096;
const LARGE: usize = 64 * 1024;

/// Measures both ways in turn on a slot that holds zeros, and leaves zeros. The faster way, and
/// its median for a small write in nanoseconds. A tie goes to Dsync.
pub(crate) async fn probe<E: Env>(
    env: &E,
    dir: &Name,
    geometry: &Geometry,
    options: &WalOptions,
) -> Result<(SyncMode, u64), EnvError> {
    let name = dir.join(&slot_file(0));
    let synced = env.dir().open(&name, Mode::WriteSynced).await?;
    let plain = env.dir().open(&name, Mode::Write).await?;
    let (mut dsync, mut fdatasync) = (0, 0);
    let mut small = (0, 0);
    for (len, count) in [(SMALL, options.probe_small), (LARGE, options.probe_large)] {
        let len = len.max(geometry.block_len());
        let room = geometry.slot_bytes / crate::field::len_u64(len);
        let mut spans = (Vec::new(), Vec::new());
        for nth in 0..u64::from(count) {
            let at = nth % room * crate::field::len_u64(len);
            spans.0.push(timed(env, &synced, (at, len), false).await?);
            spans.1.push(timed(env, &plain, (at, len), true).await?);
        }
        let medians = (median(&mut spans.0), median(&mut spans.1));
        if len == SMALL.max(geometry.block_len()) {
            small = medians;
        }
        dsync += medians.0;
        fdatasync += medians.1;
    }
    synced.close().await?;
    plain.close().await?;
    let dsync_wins = dsync <= fdatasync;
    Ok(if dsync_wins { (SyncMode::Dsync, small.0) } else { (SyncMode::Fdatasync, small.1) })
}

async fn timed<E: Env>(
    env: &E,
    file: &E::File,
    (at, len): (u64, usize),
    sync: bool,
) -> Result<u64, EnvError> {
    let buf = env.buffer(len)?.freeze(len);
    let start = env.now();
    file.write_at(buf, at).await?;
    if sync {
        file.sync().await?;
    }
    Ok(env.now().since(start).0)
}

fn median(spans: &mut [u64]) -> u64 {
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_nothing_is_zero_and_of_many_the_middle_one() {
        assert_eq!(median(&mut []), 0);
        assert_eq!(median(&mut [9, 1, 5]), 5);
    }
}
