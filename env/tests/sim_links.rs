//! What a cut, slow or reset way between two simulated nodes does to what is sent on it.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;

use bowline_env::sim::{Profile, SimEnv, SimStream, World};
use bowline_env::{CoreNo, Env, EnvError, Kind, Listener, Nanos, Stream};

const MINUTE: Nanos = Nanos(60_000_000_000);

/// One side of the connection between node 1, which made it, and node 2.
#[derive(Clone)]
struct Side {
    stream: Rc<RefCell<SimStream>>,
}

impl Side {
    fn new(stream: SimStream) -> Self {
        Self { stream: Rc::new(RefCell::new(stream)) }
    }

    /// Writes what the socket takes within a second.
    fn write(&self, world: &World, bytes: usize) -> usize {
        let (side, block) = (self.clone(), vec![7; bytes]);
        let write = async move {
            let parts = [IoSlice::new(&block)];
            poll_fn(|cx| side.stream.borrow_mut().poll_write(cx, &parts)).await.unwrap()
        };
        let task = world.spawn_client(write);
        world.run_for(Nanos::SECOND);
        task.take().unwrap_or(0)
    }

    /// Reads once, if something comes within a second.
    fn read(&self, world: &World) -> Option<Result<usize, EnvError>> {
        let side = self.clone();
        let read = async move {
            let mut into = vec![0; 1 << 20];
            poll_fn(|cx| side.stream.borrow_mut().poll_read(cx, &mut into)).await
        };
        let task = world.spawn_client(read);
        world.run_for(Nanos::SECOND);
        task.take()
    }
}

async fn listen(env: SimEnv) -> SimStream {
    env.listen("0.0.0.0:7000".parse().unwrap()).unwrap().accept().await.unwrap()
}

async fn connect(env: SimEnv) -> Result<SimStream, EnvError> {
    env.sleep_until(env.now().after(Nanos::MILLI)).await;
    env.connect(SocketAddr::new(World::addr(2), 7_000), Nanos::SECOND).await
}

/// Two nodes that are connected.
fn pair() -> (World, Side, Side) {
    let world = World::new(1, Profile::calm());
    // The streams live as long as their cores.
    let held = Rc::new(RefCell::new((None, None)));
    let (one, two) = (Rc::clone(&held), Rc::clone(&held));
    drop(world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        two.borrow_mut().1 = Some(Side::new(listen(env).await));
        std::future::pending::<()>().await;
    }));
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        one.borrow_mut().0 = Some(Side::new(connect(env).await.unwrap()));
        std::future::pending::<()>().await;
    }));
    world.run_for(Nanos::SECOND);
    let (one, two) = held.take();
    (world, one.unwrap(), two.unwrap())
}

#[test]
fn what_is_sent_into_a_cut_arrives_when_it_is_mended() {
    let (world, one, two) = pair();
    world.link(1, 2).cut();
    assert_eq!(one.write(&world, 100), 100, "the socket takes it");
    assert_eq!(two.read(&world), None);
    assert_eq!(two.write(&world, 50), 50);
    assert_eq!(one.read(&world), Some(Ok(50)), "the way back is whole");
    world.link(1, 2).mend();
    assert_eq!(two.read(&world), Some(Ok(100)));
}

#[test]
fn without_acknowledgements_the_socket_fills() {
    let (world, one, two) = pair();
    world.link(2, 1).cut();
    assert_eq!(one.write(&world, 1 << 20), 256 << 10);
    assert_eq!(two.read(&world), Some(Ok(256 << 10)));
    assert_eq!(one.write(&world, 1), 0, "nobody told that there is room");
    world.link(2, 1).mend();
    assert_eq!(one.write(&world, 1), 1);
}

#[test]
fn a_connection_needs_both_ways() {
    for (from, to) in [(1, 2), (2, 1)] {
        let world = World::new(1, Profile::calm());
        drop(world.spawn_on(2, CoreNo(0), async move |env: SimEnv| listen(env).await));
        world.link(from, to).cut();
        let error = world.run_on(1, MINUTE, connect).unwrap().unwrap_err();
        assert_eq!(error.kind, Kind::TimedOut);
        world.link(from, to).mend();
        assert!(world.run_on(1, MINUTE, connect).unwrap().is_ok());
    }
}

#[test]
fn a_long_cut_breaks_what_waited_for_it() {
    let (world, one, two) = pair();
    world.link(1, 2).cut();
    assert_eq!(one.write(&world, 100), 100);
    world.run_for(Nanos(16 * Nanos::SECOND.0));
    world.link(1, 2).mend();
    assert_eq!(one.read(&world).unwrap().unwrap_err().kind, Kind::Reset);
    let seen = two.read(&world).unwrap();
    assert!(seen == Ok(100) || seen.unwrap_err().kind == Kind::Reset, "all or nothing of it");
}

#[test]
fn a_reset_is_seen_on_both_sides() {
    let (world, one, two) = pair();
    world.link(2, 1).reset();
    assert_eq!(one.read(&world).unwrap().unwrap_err().kind, Kind::Reset);
    assert_eq!(two.read(&world).unwrap().unwrap_err().kind, Kind::Reset);
}

#[test]
fn a_slow_way_is_slow_in_its_direction() {
    let (world, one, two) = pair();
    world.link(1, 2).slow(15_000);
    assert_eq!((one.write(&world, 9), two.read(&world)), (9, Some(Ok(9))), "1.5 s");
    assert_eq!(one.write(&world, 9), 9);
    let before = world.now();
    two.write(&world, 9);
    assert_eq!(one.read(&world), Some(Ok(9)));
    assert!(world.now().since(before) > Nanos::SECOND);
    world.link(1, 2).slow(1);
    assert_eq!(two.read(&world), Some(Ok(9)));
}
