//! Opening connections on a simulated network: with peers that fit, and with all the others.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]

#[path = "shared/hello.rs"]
mod shared;

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;

use bowline_env::sim::{Fault, Profile, SimEnv, SimStream, World};
use bowline_env::{CoreNo, Env, EnvError, Kind, Listener, Nanos, Op, Stream};
use bowline_net::{
    Class, DialError, HandshakeError, Hello, HelloError, HelloKind, Line, Opened, Pending, Pipe,
    Preamble, Refusal, Security, answer, dial, greet, judge, read_preamble,
};
use shared::{acceptor, dialer};

const MINUTE: Nanos = Nanos(60_000_000_000);
const PORT: u16 = 7_500;
type Dialed = Result<Opened<SimStream>, DialError>;
type Accepted = (Preamble, Hello, Line<SimStream>);

fn node(id: u64) -> SocketAddr {
    SocketAddr::new(World::addr(id), PORT)
}

async fn write<P: Pipe>(stream: &mut P, mut bytes: &[u8]) -> Result<(), EnvError> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, &[IoSlice::new(bytes)])).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Reads `len` bytes; fewer at the end.
async fn read<P: Pipe>(stream: &mut P, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        match poll_fn(|cx| stream.poll_read(cx, &mut bytes[at..])).await.unwrap_or(0) {
            0 => break,
            more => at += more,
        }
    }
    bytes.truncate(at);
    bytes
}

async fn sleep(env: &SimEnv, span: Nanos) {
    env.sleep_until(env.now().after(span)).await;
}

/// What the dialer sends before the welcome.
fn opening() -> Vec<u8> {
    let own = dialer();
    let preamble = Preamble { class: own.class, want_core: own.want_core, tls: false };
    [&preamble.encode()[..], &own.encode()].concat()
}

/// Sends a byte a second until the other side is gone.
async fn trickle(env: SimEnv, mut stream: SimStream, bytes: Vec<u8>) {
    for byte in bytes {
        if write(&mut stream, &[byte]).await.is_err() {
            return;
        }
        sleep(&env, Nanos::SECOND).await;
    }
}

/// Node 1 dials node 2, where `peer` has the accepted connection: what comes of it, and when.
fn dial_to<F, T>(peer: F) -> (Dialed, Nanos)
where
    F: FnOnce(SimEnv, SimStream) -> T + 'static,
    T: Future<Output = ()> + 'static,
{
    let world = World::new(1, Profile::calm());
    drop(world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        peer(env, stream).await;
    }));
    let dialed = world.run_on(1, MINUTE, async |env: SimEnv| {
        let begin = env.now();
        let dialed = dial(env.clone(), node(2), dialer(), None, &Security::Plain).await;
        // The peer sees what there is to see before the world ends.
        let took = env.now().since(begin);
        sleep(&env, Nanos::SECOND).await;
        (dialed, took)
    });
    dialed.unwrap()
}

/// Node 2 answers the dial with these bytes and ends.
fn dial_answered(bytes: Vec<u8>) -> (Result<Hello, DialError>, Nanos) {
    let (dialed, took) = dial_to(async move |_, mut stream| {
        assert_eq!(read(&mut stream, opening().len()).await, opening());
        write(&mut stream, &bytes).await.unwrap();
        stream.shutdown_write().unwrap();
        // Open still, until the dialer closes.
        read(&mut stream, 1).await;
    });
    (dialed.map(|opened| opened.theirs), took)
}

/// How the acceptor of the engine goes about a connection.
async fn accept(env: &SimEnv, mut stream: SimStream) -> Result<Accepted, HandshakeError> {
    let preamble = read_preamble(env, &mut stream).await?;
    let (line, hello) = greet(env, stream, &preamble, &Security::Plain).await?;
    Ok((preamble, hello, line))
}

/// Node 2 accepts the connection of `caller` at node 1: what comes of it, and when.
fn accepted_from<F, T>(caller: F) -> (Result<(Preamble, Hello), HandshakeError>, Nanos)
where
    F: FnOnce(SimEnv, SimStream) -> T + 'static,
    T: Future<Output = ()> + 'static,
{
    let world = World::new(1, Profile::calm());
    drop(world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let stream = env.connect(node(2), Nanos::SECOND).await.unwrap();
        caller(env, stream).await;
    }));
    let accepted = world.run_on(2, MINUTE, async |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let begin = env.now();
        let accepted = accept(&env, stream).await.map(|(preamble, hello, _)| (preamble, hello));
        (accepted, env.now().since(begin))
    });
    accepted.unwrap()
}

/// The caller sends these bytes and ends.
fn accepted_bytes(bytes: Vec<u8>) -> Result<(Preamble, Hello), HandshakeError> {
    let (accepted, took) = accepted_from(async move |_, mut stream| {
        write(&mut stream, &bytes).await.unwrap();
        stream.shutdown_write().unwrap();
        read(&mut stream, 1).await;
    });
    assert!(took < Nanos::from_millis(10), "nothing is waited for: {took:?}");
    accepted
}

#[track_caller]
fn about(took: Nanos, seconds: u64) {
    let least = Nanos(seconds * Nanos::SECOND.0);
    assert!(least <= took && took < least.after(Nanos::from_millis(10)), "{took:?}");
}

/// A whole connection: both judge, both agree, and the first frames stand right after the hellos.
/// The connection's slices arrive as the network likes.
#[test]
fn two_nodes_come_to_terms_and_the_next_byte_is_the_first_frames() {
    for seed in 0..40 {
        let world = World::new(seed, Profile::calm().with(Fault::NetSlices));
        let server = world.spawn_on(2, CoreNo(0), async |env: SimEnv| {
            let listener = env.listen(node(2)).unwrap();
            let stream = listener.accept().await.unwrap();
            let (preamble, hello, mut line) = accept(&env, stream).await.unwrap();
            assert_eq!((preamble.class, preamble.want_core, preamble.tls), (Class::Lane, 6, false));
            assert_eq!(hello, dialer());
            let agreed = judge(&acceptor(), &hello, None).unwrap();
            answer(&env, &mut line, &acceptor()).await.unwrap();
            write(&mut line, b"frame of node 2").await.unwrap();
            (agreed, read(&mut line, 15).await, line)
        });
        let client = async |env: SimEnv| {
            let mut opened = dial(env, node(2), dialer(), Some(acceptor().store), &Security::Plain)
                .await
                .unwrap();
            assert_eq!(opened.theirs, acceptor());
            write(&mut opened.line, b"frame of node 1").await.unwrap();
            (opened.agreed, read(&mut opened.line, 15).await)
        };
        let (agreed, frame) = world.run_on(1, MINUTE, client).unwrap();
        assert_eq!(frame, b"frame of node 2");
        world.run_until(|| server.is_done(), MINUTE).unwrap();
        let (its, frame, _stream) = server.take().unwrap();
        assert_eq!(frame, b"frame of node 1");
        assert_eq!((agreed.frame_max, agreed.features), (its.frame_max, its.features));
        assert_eq!((agreed.window, its.window), (acceptor().window, dialer().window));
    }
}

/// A TLS 1.3 client believes itself connected before the server has looked at its certificate; so
/// nothing else may be on its way then.
#[test]
fn the_dialer_sends_only_preamble_and_hello_before_the_welcome() {
    let (dialed, took) = dial_to(async |env: SimEnv, mut stream| {
        let begin = env.now();
        assert_eq!(read(&mut stream, 1 << 10).await, opening());
        about(env.now().since(begin), 3);
    });
    assert_eq!(dialed.map(|_| ()), Err(DialError::TimedOut));
    about(took, 3);
}

#[test]
fn a_dial_is_bounded_in_time() {
    let (dialed, took) = dial_to(async |env: SimEnv, _stream| sleep(&env, MINUTE).await);
    assert_eq!(dialed.map(|_| ()), Err(DialError::TimedOut), "it never reads");
    about(took, 3);
    let (dialed, took) = dial_to(async |env, stream| {
        trickle(env, stream, acceptor().encode()).await;
    });
    assert_eq!(dialed.map(|_| ()), Err(DialError::TimedOut), "a byte a second");
    about(took, 3);
    let world = World::new(1, Profile::calm());
    let nowhere = SocketAddr::from(([192, 0, 2, 1], PORT));
    let dialed = world.run_on(1, MINUTE, async move |env: SimEnv| {
        let begin = env.now();
        (dial(env.clone(), nowhere, dialer(), None, &Security::Plain).await, env.now().since(begin))
    });
    let (dialed, took) = dialed.unwrap();
    let error = EnvError::new(Op::Connect, Kind::TimedOut);
    assert_eq!(dialed.map(|_| ()), Err(DialError::Env(error)));
    about(took, 1);
}

#[test]
fn a_port_nobody_listens_at_is_told_from_one_that_is_silent() {
    let world = World::new(1, Profile::calm());
    drop(world.spawn_on(2, CoreNo(0), async |env: SimEnv| sleep(&env, MINUTE).await));
    let dialed = world
        .run_on(1, MINUTE, async |env| dial(env, node(2), dialer(), None, &Security::Plain).await);
    let error = EnvError::new(Op::Connect, Kind::Refused);
    assert_eq!(dialed.unwrap().map(|_| ()), Err(DialError::Env(error)));
}

#[test]
fn a_peer_that_answers_something_else_is_found_out_at_once() {
    let check = |bytes: &[u8], want| {
        let (dialed, took) = dial_answered(bytes.to_vec());
        assert_eq!(dialed, Err(DialError::Hello(want)), "{bytes:?}");
        assert!(took < Nanos::from_millis(10), "nothing is waited for: {took:?}");
    };
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", HelloError::Magic);
    check(b"-ERR unknown command\r\n", HelloError::Magic);
    check(&[0x15, 3, 3, 0, 2, 2, 40], HelloError::Magic);
    check(&[0xa5; 4 << 10], HelloError::Magic);
    check(&opening(), HelloError::Magic);
    let kind = |kind| Hello { kind, ..acceptor() }.encode();
    check(&kind(HelloKind::Hello), HelloError::Kind { byte: 1 });
    check(&Hello { echo: 1, ..acceptor() }.encode(), HelloError::Echo);
    let mut lie = acceptor().encode();
    lie[152..156].copy_from_slice(&u32::MAX.to_le_bytes());
    check(&lie, HelloError::RecordLength { len: u32::MAX });
    let mut rotten = acceptor().encode();
    rotten[170] ^= 1;
    check(&rotten, HelloError::Checksum);
}

#[test]
fn a_peer_may_close_at_any_byte_of_its_welcome() {
    let welcome = acceptor().encode();
    for cut in 0..welcome.len() {
        let (dialed, took) = dial_answered(welcome[..cut].to_vec());
        let need = [4, 156, welcome.len()].into_iter().find(|end| cut < *end).unwrap() - cut;
        assert_eq!(dialed, Err(DialError::Hello(HelloError::Truncated { need })), "{cut}");
        assert!(took < Nanos::from_millis(10), "nothing is waited for: {took:?}");
    }
    assert_eq!(dial_answered(welcome).0, Ok(acceptor()));
}

#[test]
fn a_peer_may_close_before_it_has_read() {
    let (dialed, _) = dial_to(async |_, stream| drop(stream));
    assert!(matches!(dialed, Err(DialError::Env(_) | DialError::Hello(_))), "{dialed:?}");
    for len in [1, 16, 17] {
        let (dialed, took) = dial_to(async move |_, mut stream| {
            read(&mut stream, len).await;
        });
        let reset = EnvError::new(Op::Receive, Kind::Reset);
        assert_eq!(dialed.map(|_| ()), Err(DialError::Env(reset)), "{len}");
        assert!(took < Nanos::from_millis(10), "nothing is waited for: {took:?}");
    }
}

#[test]
fn both_sides_can_refuse() {
    for refusal in [Refusal::Duplicate, Refusal::Draining, Refusal::WrongCluster] {
        let (dialed, _) = dial_to(async move |env, stream| {
            let (_, hello, mut line) = accept(&env, stream).await.unwrap();
            let kind = HelloKind::Refuse(refusal);
            let refuse = Hello { kind, echo: hello.nonce, ..acceptor() };
            answer(&env, &mut line, &refuse).await.unwrap();
        });
        assert_eq!(dialed.map(|_| ()), Err(DialError::Refused(refusal)));
    }
    // The answer is judged too: an acceptor that welcomes everybody binds nobody.
    let (dialed, _) = dial_answered(Hello { cluster: 1, ..acceptor() }.encode());
    assert_eq!(dialed, Err(DialError::Refused(Refusal::WrongCluster)));
    let own = Hello { store: 1, ..acceptor() };
    assert_eq!(judge(&own, &dialer(), Some(1)), Err(Refusal::StoreReplaced));
}

#[test]
fn a_node_that_was_met_in_another_life_is_told_which() {
    let recall = Hello { kind: HelloKind::Refuse(Refusal::Recall), known: 30, ..acceptor() };
    let told = |refuse: Hello| dial_answered(refuse.encode()).0;
    assert_eq!(told(recall.clone()), Err(DialError::Recall { life: 30 }));
    assert_eq!(told(Hello { cluster: 1, ..recall }), Err(DialError::Refused(Refusal::Recall)));
}

#[test]
fn a_node_that_dials_itself_is_told_so() {
    let world = World::new(1, Profile::calm());
    drop(world.spawn_on(1, CoreNo(0), async |env: SimEnv| {
        let listener = env.listen(node(1)).unwrap();
        let stream = listener.accept().await.unwrap();
        let (_, hello, mut line) = accept(&env, stream).await.unwrap();
        let own = Hello { nonce: 77, to: hello.from, echo: hello.nonce, ..dialer() };
        let refusal = judge(&own, &hello, None).unwrap_err();
        let refuse = Hello { kind: HelloKind::Refuse(refusal), ..own };
        answer(&env, &mut line, &refuse).await.unwrap();
    }));
    let dialed = world.spawn_on(1, CoreNo(1), async |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        dial(env, node(1), dialer(), None, &Security::Plain).await.map(|_| ())
    });
    world.run_until(|| dialed.is_done(), MINUTE).unwrap();
    assert_eq!(dialed.take(), Some(Err(DialError::Refused(Refusal::SelfConnection))));
}

#[test]
fn a_record_that_cannot_be_sent_is_an_error_of_its_own_node() {
    let mut own = dialer();
    own.record.address = "x".repeat(256);
    let (accepted, _) = accepted_from(async move |env: SimEnv, stream| {
        let dialed =
            dial(env.clone(), node(2), own.clone(), None, &Security::Plain).await.map(|_| ());
        assert_eq!(dialed, Err(DialError::Hello(HelloError::Record)));
        let mut line = Line::plain(stream);
        let answered = answer(&env, &mut line, &own).await;
        assert_eq!(answered, Err(HandshakeError::Hello(HelloError::Record)));
        write(&mut line, &opening()).await.unwrap();
    });
    assert_eq!(accepted.unwrap().1, dialer(), "nothing else was sent");
}

#[test]
fn nw_02_a_caller_is_bounded_in_time() {
    let silent = async |env: SimEnv, _stream| sleep(&env, MINUTE).await;
    let (accepted, took) = accepted_from(silent);
    assert_eq!(accepted, Err(HandshakeError::TimedOut));
    about(took, 1);
    let (accepted, took) = accepted_from(async |env, stream| trickle(env, stream, opening()).await);
    assert_eq!(accepted, Err(HandshakeError::TimedOut), "a byte a second");
    about(took, 1);
    for at_once in [16, 17, 171] {
        let (accepted, took) = accepted_from(async move |env, mut stream| {
            write(&mut stream, &opening()[..at_once]).await.unwrap();
            trickle(env, stream, opening()[at_once..].to_vec()).await;
        });
        assert_eq!(accepted, Err(HandshakeError::TimedOut), "a byte a second after {at_once}");
        about(took, 3);
    }
}

#[test]
fn a_caller_of_another_kind_is_found_out_at_once() {
    let check = |bytes: &[u8], want| {
        assert_eq!(accepted_bytes(bytes.to_vec()), Err(HandshakeError::Hello(want)), "{bytes:?}");
    };
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HelloError::Magic);
    check(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", HelloError::Magic);
    check(&[&[0x16, 3, 1, 2, 0, 1, 0, 1][..], &[7; 500]].concat(), HelloError::Magic);
    check(&[0xa5; 4 << 10], HelloError::Magic);
    check(&opening()[16..], HelloError::Magic);
    let bytes = opening();
    let (preamble, hello) = bytes.split_at(16);
    let after_preamble = |bytes: &[u8]| [preamble, bytes].concat();
    check(&after_preamble(b"GET / HTTP/1.1\r\n\r\n"), HelloError::Magic);
    check(&after_preamble(preamble), HelloError::Magic);
    check(&after_preamble(&acceptor().encode()), HelloError::Kind { byte: 2 });
    let mut rotten = hello.to_vec();
    rotten[99] ^= 0x40;
    check(&after_preamble(&rotten), HelloError::Checksum);
}

#[test]
fn a_caller_may_close_at_any_byte() {
    let bytes = opening();
    for cut in 0..bytes.len() {
        let ends = [16, 20, 172, bytes.len()];
        let need = ends.into_iter().find(|end| cut < *end).unwrap() - cut;
        let want = HandshakeError::Hello(HelloError::Truncated { need });
        assert_eq!(accepted_bytes(bytes[..cut].to_vec()), Err(want), "{cut}");
    }
    assert!(accepted_bytes(bytes).is_ok());
}

/// A length that lies makes nobody wait for bytes that do not come.
#[test]
fn a_caller_that_lies_about_its_length_is_found_out_by_its_first_156_bytes() {
    for record_len in [513_u32, 1 << 20, u32::MAX] {
        let mut bytes = opening();
        bytes[16 + 152..16 + 156].copy_from_slice(&record_len.to_le_bytes());
        bytes.truncate(16 + 156);
        let want = HandshakeError::Hello(HelloError::RecordLength { len: record_len });
        assert_eq!(accepted_bytes(bytes), Err(want));
    }
}

#[test]
fn an_answer_to_a_peer_that_does_not_read_is_bounded_in_time() {
    let world = World::new(1, Profile::calm());
    drop(world.spawn_on(1, CoreNo(0), async |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let _stream = env.connect(node(2), Nanos::SECOND).await.unwrap();
        sleep(&env, MINUTE).await;
    }));
    let took = world.run_on(2, MINUTE, async |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let mut stream = listener.accept().await.unwrap();
        let full = write(&mut stream, &vec![0; 256 << 10]).await;
        let begin = env.now();
        let answered = answer(&env, &mut Line::plain(stream), &acceptor()).await;
        assert_eq!((full, answered), (Ok(()), Err(HandshakeError::TimedOut)));
        env.now().since(begin)
    });
    about(took.unwrap(), 3);
}

/// Whatever the network does, each side ends in time with an answer of its own.
#[test]
fn on_a_bad_network_both_sides_end_in_time() {
    let mut opened = 0;
    for seed in 0..300 {
        let world = World::new(seed, Profile::swarm());
        drop(world.spawn_on(2, CoreNo(0), async |env: SimEnv| {
            let listener = env.listen(node(2)).unwrap();
            let stream = listener.accept().await.unwrap();
            let mut accepted = accept(&env, stream).await;
            if let Ok((_, hello, line)) = &mut accepted {
                assert_eq!(*hello, dialer());
                drop(answer(&env, line, &acceptor()).await);
            }
            sleep(&env, MINUTE).await;
        }));
        let dialed = world.run_on(1, Nanos(30_000_000_000), async |env| {
            dial(env, node(2), dialer(), None, &Security::Plain).await.map(|opened| opened.theirs)
        });
        match dialed.unwrap() {
            Ok(theirs) => {
                assert_eq!(theirs, acceptor());
                opened += 1;
            },
            Err(DialError::Env(_) | DialError::TimedOut) => {},
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(opened > 200, "{opened} of 300");
}

#[test]
fn nw_02_connections_before_their_hello_are_limited_per_address_and_in_all() {
    let pending = Pending::new();
    let from = |host: u8, port: u16| SocketAddr::from(([10, 0, 0, host], port));
    let mut guards: Vec<_> =
        (0..16).map(|port| pending.clone().enter(from(1, port)).unwrap()).collect();
    assert!(pending.enter(from(1, 99)).is_none(), "another port is the same address");
    let mapped = SocketAddr::new("::ffff:10.0.0.1".parse().unwrap(), 1);
    assert!(pending.enter(mapped).is_none(), "another spelling is the same address");
    for host in 2..=4 {
        guards.extend((0..16).map(|port| pending.enter(from(host, port)).unwrap()));
    }
    assert_eq!(pending.count(), 64);
    assert!(pending.enter(from(5, 0)).is_none(), "the node is full");
    drop(guards.remove(20));
    let guard = pending.enter(from(5, 0)).unwrap();
    assert!(pending.enter(from(5, 1)).is_none(), "full again");
    drop(guard);
    drop(guards.remove(0));
    assert!(pending.enter(from(1, 99)).is_some(), "its place is free again");
    drop(guards);
    assert_eq!(pending.count(), 0);
}

#[test]
fn every_error_says_cause_and_fix() {
    let env = || EnvError::new(Op::Connect, Kind::Refused);
    let check = |text: String, cause: &str, fix: &str| {
        assert!(text.contains(cause) && text.contains(fix), "{text}");
    };
    check(DialError::Env(env()).to_string(), "Connect: refused", "check that it runs");
    check(
        DialError::Hello(HelloError::Magic).to_string(),
        "is no node",
        "check the peer's address",
    );
    check(DialError::TimedOut.to_string(), "did not answer", "check that the port");
    let refused = DialError::Refused(Refusal::StoreReplaced).to_string();
    check(refused, "the storage of the node was replaced", "remove the node");
    check(HandshakeError::Env(env()).to_string(), "failed", "Connect: refused");
    check(HandshakeError::Hello(HelloError::Echo).to_string(), "caller", "another hello");
}
