#[path = "../tests/kit/trio.rs"]
mod trio;
fn main() {
    let arg: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    for shards in arg {
        let mut t = trio::Trio::new(shards);
        t.elect();
        for batch in [1u32] {
            let rounds = (std::env::var("N").map_or(9_000_000u64, |n| n.parse().unwrap()) / shards / u64::from(batch.min(8))).clamp(3, 300_000);
            for _ in 0..3 { t.pass(batch); }
            let s = std::time::Instant::now();
            let mut n = 0;
            for _ in 0..rounds { n += t.pass(batch); }
            let e = s.elapsed();
            println!("{shards} x {batch}: {} entries, {:.1} ns per shard-batch, {:.2} M entries/s", n, e.as_nanos() as f64 / (rounds*shards) as f64, n as f64 / e.as_secs_f64() / 1e6);
        }
    }
}
