//! Listening, connecting, sending, receiving, closing, moving.

use core::future::poll_fn;
use core::net::{Ipv4Addr, SocketAddr};
use std::io::IoSlice;
use std::sync::mpsc;

use super::{kind, options};
use crate::{Class, CoreThread, Env, EnvError, EnvFactory, Kind, Listener, Moved, Nanos, Stream};

type StreamOf<E> = <E as Env>::Stream;

/// Time that a check gives a connection.
const PATIENCE: Nanos = Nanos(5_000_000_000);

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub(super) async fn a_host_has_addresses<E: Env>(env: E) {
    let own = env.resolve("127.0.0.1", 7).await.expect("it is an address already");
    assert_eq!(own, [loopback(7)]);
    let six = env.resolve("::1", 8).await.expect("and so is this");
    assert_eq!(six, ["[::1]:8".parse().expect("an address")]);
    let nobody = env.resolve("no host has blanks", 9).await;
    assert_eq!(kind(nobody), Some(Kind::NotFound));
}

/// Both ends of a new connection: the caller's and the accepted one.
async fn pair<E: Env>(env: &E) -> (StreamOf<E>, StreamOf<E>) {
    let listener = env.listen(loopback(0)).expect("a free port");
    let to = listener.local();
    assert_ne!(to.port(), 0, "the port is known");
    let caller = env.spawn(Class::Core, env.connect(to, PATIENCE));
    let accepted = listener.accept().await.expect("a connection comes in");
    let caller = caller.await.expect("a connection is made");
    assert_eq!(caller.peer(), to);
    (caller, accepted)
}

async fn read<S: Stream>(stream: &mut S, into: &mut [u8]) -> Result<usize, EnvError> {
    poll_fn(|cx| stream.poll_read(cx, into)).await
}

async fn write_all<S: Stream>(stream: &mut S, mut bytes: &[u8]) -> Result<(), EnvError> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await?;
        assert!(0 < sent && sent <= bytes.len(), "a write takes some of the bytes");
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Reads to the end.
async fn read_all<S: Stream>(stream: &mut S) -> Result<Vec<u8>, EnvError> {
    let mut all = Vec::new();
    let mut part = vec![0; 16 << 10];
    loop {
        match read(stream, &mut part).await? {
            0 => return Ok(all),
            len => all.extend_from_slice(&part[..len]),
        }
    }
}

/// Bytes that show where they belong.
fn counted(len: usize) -> Vec<u8> {
    let turn: Vec<u8> = (0..=250).collect();
    let mut bytes = turn.repeat(len / turn.len() + 1);
    bytes.truncate(len);
    bytes
}

pub(super) async fn bytes_arrive_in_order<E: Env>(env: E) {
    let (mut caller, mut accepted) = pair(&env).await;
    for text in [&b"first"[..], b"second"] {
        write_all(&mut caller, text).await.expect("the peer lives");
        let mut found = vec![0; text.len()];
        let mut at = 0;
        while at < found.len() {
            at += read(&mut accepted, &mut found[at..]).await.expect("the peer lives");
        }
        assert_eq!(found, text);
        write_all(&mut accepted, &found).await.expect("the peer lives");
        let mut back = vec![0; text.len()];
        let mut at = 0;
        while at < back.len() {
            at += read(&mut caller, &mut back[at..]).await.expect("the peer lives");
        }
        assert_eq!(back, text);
    }
}

pub(super) async fn gathered_parts_arrive_as_one<E: Env>(env: E) {
    let (mut caller, mut accepted) = pair(&env).await;
    let parts = [IoSlice::new(b""), IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    let sent = poll_fn(|cx| caller.poll_write(cx, &parts)).await.expect("the peer lives");
    assert!(0 < sent && sent <= 5, "a write takes some of the bytes");
    write_all(&mut caller, &b"abcde"[sent..]).await.expect("the peer lives");
    caller.shutdown_write().expect("the stream is open");
    assert_eq!(read_all(&mut accepted).await, Ok(b"abcde".to_vec()));
}

pub(super) async fn a_port_nobody_listens_at_refuses<E: Env>(env: E) {
    let listener = env.listen(loopback(0)).expect("a free port");
    let to = listener.local();
    drop(listener);
    env.breathe().await;
    env.sleep_until(env.now().after(Nanos::from_millis(20))).await;
    assert_eq!(kind(env.connect(to, PATIENCE).await), Some(Kind::Refused));
}

pub(super) async fn an_address_is_taken_once<E: Env>(env: E) {
    let listener = env.listen(loopback(0)).expect("a free port");
    assert_eq!(kind(env.listen(listener.local())), Some(Kind::Exists));
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    assert_eq!(kind(env.listen(elsewhere)), Some(Kind::Refused), "not an address of this node");
}

pub(super) async fn half_close_delivers_all<E: Env>(env: E) {
    let (mut caller, mut accepted) = pair(&env).await;
    let bytes = counted(256 << 10);
    let sent = bytes.clone();
    let writer = env.spawn(Class::Core, async move {
        write_all(&mut caller, &sent).await.expect("the peer lives");
        caller.shutdown_write().expect("the stream is open");
        // The other direction is open still.
        read_all(&mut caller).await
    });
    assert_eq!(read_all(&mut accepted).await.expect("all arrives"), bytes);
    write_all(&mut accepted, b"thanks").await.expect("the peer lives");
    drop(accepted);
    assert_eq!(writer.await, Ok(b"thanks".to_vec()));
}

pub(super) async fn partial_writes_deliver_all<E: Env>(env: E) {
    let (mut caller, mut accepted) = pair(&env).await;
    let bytes = counted(8 << 20);
    let mut sent = 0;
    // Nobody reads: the buffers between the two fill up.
    let waits = poll_fn(|cx| {
        while sent < bytes.len() {
            match caller.poll_write(cx, &[IoSlice::new(&bytes[sent..])]) {
                core::task::Poll::Ready(more) => sent += more.expect("the peer lives"),
                core::task::Poll::Pending => return core::task::Poll::Ready(true),
            }
        }
        core::task::Poll::Ready(false)
    });
    assert!(waits.await, "a socket's buffer is finite");
    let rest = bytes[sent..].to_vec();
    let writer = env.spawn(Class::Core, async move {
        write_all(&mut caller, &rest).await.expect("the peer lives");
        caller.shutdown_write().expect("the stream is open");
        caller
    });
    assert_eq!(read_all(&mut accepted).await.expect("all arrives"), bytes);
    drop(writer.await);
}

pub(super) async fn unread_input_then_close_is_reset<E: Env>(env: E) {
    let (mut caller, accepted) = pair(&env).await;
    write_all(&mut caller, b"never read").await.expect("the peer lives");
    env.sleep_until(env.now().after(Nanos::from_millis(50))).await;
    drop(accepted);
    // The runtime closes a dropped socket at its next look at the rings.
    env.breathe().await;
    let mut into = [0; 16];
    assert_eq!(kind(read(&mut caller, &mut into).await), Some(Kind::Reset));
}

pub(super) async fn a_moved_stream_keeps_its_bytes<E: Env>(env: E) {
    let (mut caller, accepted) = pair(&env).await;
    write_all(&mut caller, b"before").await.expect("the peer lives");
    let peer = accepted.peer();
    let mut moved = env.adopt(accepted.detach()).expect("it is of this node");
    assert_eq!(moved.peer(), peer);
    write_all(&mut caller, b" after").await.expect("the peer lives");
    caller.shutdown_write().expect("the stream is open");
    assert_eq!(read_all(&mut moved).await, Ok(b"before after".to_vec()));
}

pub(super) async fn a_stranger_is_not_adopted<E: Env>(env: E) {
    assert_eq!(kind(env.adopt(Moved::new(7_u8))), Some(Kind::Closed));
}

/// Two cores: one accepts, the other serves what was accepted.
pub(super) fn a_stream_moves_to_another_core<F: EnvFactory>(
    factory: &F,
    finish: &mut impl FnMut(&str, Vec<CoreThread>),
) {
    let (give, take) = mpsc::channel::<Moved>();
    let acceptor = factory.spawn_core(options(factory, 0), async move |env: F::Env| {
        let (mut caller, accepted) = pair(&env).await;
        write_all(&mut caller, b"to the other core").await.expect("the peer lives");
        give.send(accepted.detach()).expect("the other core waits for it");
        caller.shutdown_write().expect("the stream is open");
        let back = read_all(&mut caller).await;
        assert_eq!(back, Ok(b"to the other core".to_vec()));
    });
    let server = factory.spawn_core(options(factory, 1), async move |env: F::Env| {
        let end = env.now().after(PATIENCE);
        let moved = loop {
            if let Ok(moved) = take.try_recv() {
                break moved;
            }
            assert!(env.now() < end, "the other core hands the stream over");
            env.sleep_until(env.now().after(Nanos::MILLI)).await;
        };
        let mut stream = env.adopt(moved).expect("it is of this node");
        let bytes = read_all(&mut stream).await.expect("the peer lives");
        write_all(&mut stream, &bytes).await.expect("the peer lives");
        stream.shutdown_write().expect("the stream is open");
    });
    let cores = vec![acceptor.expect("a core starts"), server.expect("a core starts")];
    finish("a_stream_moves_to_another_core", cores);
}
