//! What a line does once it is there: ends, cuts, changed bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;

use bowline_env::sim::{SimEnv, SimStream};
use bowline_env::{CoreNo, Env, EnvError, Kind, Listener, Nanos, Op};
use bowline_net::{Line, Security, answer, dial};

use crate::certs::Authority;
use crate::kit::{MINUTE, accept, calm, good, node, pass_on, read, sleep, write};
use crate::shared::{acceptor, dialer};

/// Runs both ends of a line.
fn run<A, B, T, U>(one: A, two: B) -> (T, U)
where
    A: AsyncFnOnce(SimEnv, Line<SimStream>) -> T + 'static,
    B: AsyncFnOnce(SimEnv, Line<SimStream>) -> U + 'static,
    T: 'static,
    U: 'static,
{
    let ours = Authority::new("ours");
    let (caller, called) = (good(&ours, 1), good(&ours, 2));
    let world = calm();
    let ends = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let (mut line, _) = accept(&env, stream, &called).await.unwrap();
        answer(&env, &mut line, &acceptor()).await.unwrap();
        two(env, line).await
    });
    let begins = world.run_on(1, MINUTE, async move |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let caller: Security = caller;
        let opened = dial(env.clone(), node(2), dialer(), None, &caller).await.unwrap();
        one(env, opened.line).await
    });
    let begins = begins.unwrap();
    world.run_until(|| ends.is_done(), MINUTE).unwrap();
    (begins, ends.take().unwrap())
}

#[test]
fn a_close_is_told_from_a_cut() {
    let (closed, seen) = run(
        async |env, mut line| {
            write(&mut line, b"the last words").await.unwrap();
            let closed = poll_fn(|cx| line.poll_close(cx)).await;
            sleep(&env, Nanos::SECOND).await;
            closed
        },
        async |_, mut line| read(&mut line, 100).await,
    );
    assert_eq!((closed, seen), (Ok(()), Ok(b"the last words".to_vec())));
    let cut = async |_: SimEnv, mut line: Line<SimStream>| {
        write(&mut line, b"some words").await.unwrap();
    };
    let ((), seen) = run(cut, async |_, mut line| {
        let words = read(&mut line, 10).await;
        (words, read(&mut line, 1).await)
    });
    let reset = EnvError::new(Op::Receive, Kind::Reset);
    assert_eq!(seen, (Ok(b"some words".to_vec()), Err(reset)));
}

/// A bit that changes on its way is found at once, in whatever byte of a record it is.
#[test]
fn a_changed_byte_ends_the_line() {
    for nth in [0, 1, 4, 5, 40, 116] {
        let ours = Authority::new("ours");
        let (one, two) = (good(&ours, 1), good(&ours, 2));
        let world = calm();
        let reads = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
            let listener = env.listen(node(2)).unwrap();
            let stream = listener.accept().await.unwrap();
            let (mut line, _) = accept(&env, stream, &two).await.unwrap();
            answer(&env, &mut line, &acceptor()).await.unwrap();
            read(&mut line, 100).await
        });
        let at_frames = Rc::new(Cell::new(false));
        let flips = Rc::clone(&at_frames);
        drop(world.spawn_on(3, CoreNo(0), async move |env: SimEnv| {
            let listener = env.listen(node(3)).unwrap();
            let mut caller = listener.accept().await.unwrap();
            let mut called = env.connect(node(2), Nanos::SECOND).await.unwrap();
            let flip = |bytes: &mut [u8]| {
                if flips.take() {
                    bytes[nth] ^= 0x10;
                }
            };
            pass_on(&mut caller, &mut called, flip).await;
        }));
        let dialed = world.run_on(1, MINUTE, async move |env: SimEnv| {
            sleep(&env, Nanos::MILLI).await;
            let mut opened = dial(env.clone(), node(3), dialer(), None, &one).await.unwrap();
            at_frames.set(true);
            write(&mut opened.line, &[7; 100]).await.unwrap();
            sleep(&env, Nanos::SECOND).await;
        });
        dialed.unwrap();
        let changed = EnvError::new(Op::Receive, Kind::Io);
        assert_eq!(reads.take(), Some(Err(changed)), "byte {nth}");
    }
}

/// More than any buffer on the way, against a reader that is slow: all of it comes, in order, and
/// a write ends only when the kernel has what it wrote.
#[test]
fn many_records_come_in_order_through_a_full_socket() {
    let bytes: Vec<u8> = (0_u32..1 << 20).flat_map(u32::to_le_bytes).collect();
    let sent = bytes.clone();
    let ((), got) = run(
        async move |_, mut line| {
            write(&mut line, &sent).await.unwrap();
            // The other side ends first.
            drop(read(&mut line, 1).await);
        },
        async |env, mut line| {
            let mut got = Vec::new();
            while got.len() < 4 << 20 {
                sleep(&env, Nanos::MILLI).await;
                got.extend(read(&mut line, 100_000.min((4 << 20) - got.len())).await.unwrap());
            }
            got
        },
    );
    assert!(got == bytes);
}
