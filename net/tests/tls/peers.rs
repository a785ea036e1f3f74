//! Who is let in and who is not, on both sides, and that nothing of a hello or frame is read or
//! sent before.

use std::sync::Arc;

use bowline_env::sim::{Fault, Profile, SimEnv, World};
use bowline_env::{CoreNo, Env, EnvError, Kind, Listener, Nanos, Op};
use bowline_net::{
    Class, DialError, HandshakeError, Preamble, Security, TlsError, answer, dial, read_preamble,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::certs::Authority;
use crate::kit::{
    MINUTE, accept, accepted_from, calm, expired, good, name, node, not_yet, pass_on, read, sleep,
    with, write,
};
use crate::shared::{acceptor, dialer};

/// The preamble of node 1's dial.
fn preamble(tls: bool) -> [u8; 16] {
    Preamble { class: Class::Lane, want_core: 6, tls }.encode()
}

/// Node 1 dials node 2: what both say, how long it took, and what the acceptor vouches for.
fn meet(
    caller: Security,
    called: Security,
) -> (Result<(), DialError>, Result<bool, HandshakeError>) {
    let world = calm();
    let took_in = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let accepted = accept(&env, stream, &called).await;
        match accepted {
            Ok((mut line, hello)) => {
                let vouched = called.vouches_for(&line, hello.from);
                answer(&env, &mut line, &acceptor()).await.unwrap();
                // The dialer may go first.
                drop(read(&mut line, 1).await);
                Ok(vouched)
            },
            Err(error) => Err(error),
        }
    });
    let dialed = world.run_on(1, MINUTE, async move |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let begin = env.now();
        let dialed = dial(env.clone(), node(2), dialer(), None, &caller).await.map(|_| ());
        assert!(env.now().since(begin) < Nanos::from_millis(100), "nothing is waited for");
        dialed
    });
    let dialed = dialed.unwrap();
    world.run_until(|| took_in.is_done(), MINUTE).unwrap();
    (dialed, took_in.take().unwrap())
}

#[test]
fn two_nodes_come_to_terms_and_the_next_byte_is_the_first_frames() {
    let authority = Authority::new("ours");
    for seed in 0..20 {
        let (one, two) = (good(&authority, 1), good(&authority, 2));
        let world = World::new(seed, Profile::calm().with(Fault::NetSlices));
        let server = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
            let listener = env.listen(node(2)).unwrap();
            let stream = listener.accept().await.unwrap();
            let (mut line, hello) = accept(&env, stream, &two).await.unwrap();
            assert_eq!(hello, dialer());
            assert!(two.vouches_for(&line, hello.from));
            answer(&env, &mut line, &acceptor()).await.unwrap();
            write(&mut line, b"frame of node 2").await.unwrap();
            (read(&mut line, 15).await.unwrap(), line)
        });
        let client = async move |env: SimEnv| {
            let dialed = dial(env, node(2), dialer(), Some(acceptor().store), &one).await;
            let mut opened = dialed.unwrap();
            assert_eq!(opened.theirs, acceptor());
            write(&mut opened.line, b"frame of node 1").await.unwrap();
            read(&mut opened.line, 15).await.unwrap()
        };
        assert_eq!(world.run_on(1, MINUTE, client).unwrap(), b"frame of node 2");
        world.run_until(|| server.is_done(), MINUTE).unwrap();
        assert_eq!(server.take().unwrap().0, b"frame of node 1");
    }
}

/// `sc_01`, the acceptor's half.
#[test]
fn a_caller_without_the_right_certificate_is_refused_before_its_hello_is_read() {
    let ours = Authority::new("ours");
    let check = |caller: Security, want: TlsError| {
        let (dialed, accepted) = meet(caller, good(&ours, 2));
        assert_eq!(accepted, Err(HandshakeError::Tls(want)));
        // It learns why, as far as TLS tells it.
        assert!(matches!(dialed, Err(DialError::Tls(TlsError::Alert { .. }))), "{dialed:?}");
    };
    // A stranger that believes in our authority.
    let theirs = Authority::new("theirs");
    check(with(&ours, &theirs.issue(&name(1)), 1), TlsError::Issuer);
    check(with(&ours, &Authority::new("ours").issue(&name(1)), 1), TlsError::Issuer);
    check(with(&ours, &ours.issue_with(&name(1), expired), 1), TlsError::Expired);
    check(with(&ours, &ours.issue_with(&name(1), not_yet), 1), TlsError::NotYetValid);
    let server_only = ours.issue_with(&name(1), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    check(with(&ours, &server_only, 1), TlsError::Purpose);
}

#[test]
fn a_certificate_vouches_for_the_node_that_it_names_and_for_no_other() {
    let ours = Authority::new("ours");
    let (dialed, accepted) = meet(good(&ours, 1), good(&ours, 2));
    assert_eq!((dialed, accepted), (Ok(()), Ok(true)));
    // Node 3 says that it is node 1.
    let (_, accepted) = meet(good(&ours, 3), good(&ours, 2));
    assert_eq!(accepted, Ok(false));
    // Of one cluster, but not of the other under the same authority.
    let two = good(&ours, 2);
    let another = ours.issue("node-1.shop.example");
    let pems = bowline_net::Pems {
        certificate: another.certificate.as_bytes(),
        key: another.key.as_bytes(),
        authorities: ours.pem().as_bytes(),
    };
    let node_1 = bowline_raft::NodeId(1);
    let stranger = bowline_net::Identity::new(pems, node_1, "shop.example").unwrap();
    let (dialed, accepted) = meet(Security::Tls(Arc::new(stranger)), two);
    assert_eq!(dialed, Err(DialError::Tls(TlsError::Identity)));
    assert!(accepted.is_err(), "{accepted:?}");
}

/// `sc_01`, the dialer's half: a server is no peer because it has some certificate.
#[test]
fn a_dialer_sends_no_hello_to_whom_it_does_not_believe() {
    let ours = Authority::new("ours");
    let check = |called: Security, want: TlsError| {
        let (dialed, accepted) = meet(good(&ours, 1), called);
        assert_eq!(dialed, Err(DialError::Tls(want)));
        let alerted = matches!(accepted, Err(HandshakeError::Tls(TlsError::Alert { .. })));
        assert!(alerted, "{accepted:?}");
    };
    check(with(&ours, &Authority::new("theirs").issue(&name(2)), 2), TlsError::Issuer);
    check(with(&ours, &ours.issue_with(&name(2), expired), 2), TlsError::Expired);
    check(with(&ours, &ours.issue(&name(3)), 3), TlsError::Identity);
    let client_only = ours.issue_with(&name(2), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    check(with(&ours, &client_only, 2), TlsError::Purpose);
}

#[test]
fn clear_text_and_tls_do_not_meet() {
    let ours = Authority::new("ours");
    let (dialed, accepted) = meet(Security::Plain, good(&ours, 2));
    assert_eq!(accepted, Err(HandshakeError::Tls(TlsError::Required)));
    let reset = EnvError::new(Op::Receive, Kind::Reset);
    assert_eq!(dialed, Err(DialError::Env(reset)));
    let (dialed, accepted) = meet(good(&ours, 1), Security::Plain);
    assert_eq!(accepted, Err(HandshakeError::Tls(TlsError::NotSetUp)));
    assert!(
        matches!(dialed, Err(DialError::Tls(TlsError::Closed) | DialError::Env(_))),
        "{dialed:?}"
    );
}

/// A caller that says in its preamble what fits, and does not do it.
#[test]
fn a_hello_in_clear_text_after_a_preamble_that_promised_tls_is_no_hello() {
    let ours = Authority::new("ours");
    let clear = [&preamble(true)[..], &dialer().encode()].concat();
    let (accepted, took) = accepted_from(&calm(), good(&ours, 2), async move |_, mut stream| {
        write(&mut stream, &clear).await.unwrap();
        drop(read(&mut stream, 1).await);
    });
    assert_eq!(accepted, Err(HandshakeError::Tls(TlsError::Protocol)));
    assert!(took < Nanos::from_millis(10), "{took:?}");
}

/// A client of rustls' own that has no certificate.
#[test]
fn a_caller_without_any_certificate_is_refused() {
    let ours = Authority::new("ours");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours.pem().as_bytes()).unwrap()).unwrap();
    let (accepted, took) = accepted_from(&calm(), good(&ours, 2), async move |_, mut stream| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let server = ServerName::try_from(name(2)).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), server).unwrap();
        write(&mut stream, &preamble(true)).await.unwrap();
        while tls.is_handshaking() || tls.wants_write() {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).unwrap();
            }
            write(&mut stream, &out).await.unwrap();
            if tls.is_handshaking() {
                let came = read(&mut stream, 1).await.unwrap();
                tls.read_tls(&mut &*came).unwrap();
                tls.process_new_packets().unwrap();
            }
        }
        drop(read(&mut stream, 1).await);
    });
    assert_eq!(accepted, Err(HandshakeError::Tls(TlsError::NoCertificate)));
    assert!(took < Nanos::from_millis(500), "{took:?}");
}

/// `sc_02`: a TLS 1.3 client believes itself connected before the server has looked at its
/// certificate; so only its hello may be on its way then.
#[test]
fn the_dialer_sends_only_its_hello_before_the_welcome() {
    let ours = Authority::new("ours");
    let (one, two) = (good(&ours, 1), good(&ours, 2));
    let world = calm();
    let heard = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let (mut line, hello) = accept(&env, stream, &two).await.unwrap();
        let begin = env.now();
        let more = read(&mut line, 1).await;
        (hello, more, env.now().since(begin))
    });
    let dialed = world.run_on(1, MINUTE, async move |env: SimEnv| {
        dial(env, node(2), dialer(), None, &one).await.map(|_| ())
    });
    assert_eq!(dialed.unwrap(), Err(DialError::TimedOut));
    world.run_until(|| heard.is_done(), MINUTE).unwrap();
    let (hello, more, took) = heard.take().unwrap();
    assert_eq!(hello, dialer());
    // It was cut, so that not even a farewell of TLS came.
    assert_eq!(more, Err(EnvError::new(Op::Receive, Kind::Reset)));
    assert!(Nanos::from_millis(2_900) < took, "{took:?}");
}

/// `sc_03`: everything that node 1 ever sent, sent again.
#[test]
fn a_recorded_connection_cannot_be_replayed() {
    let ours = Authority::new("ours");
    let recorded = record(&ours);
    assert!(recorded.len() > 1_000, "{}", recorded.len());
    let two = good(&ours, 2);
    let (accepted, took) = accepted_from(&calm(), two, async move |_, mut stream| {
        write(&mut stream, &recorded).await.unwrap();
        drop(read(&mut stream, 4 << 10).await);
    });
    assert_eq!(accepted, Err(HandshakeError::Tls(TlsError::Protocol)));
    assert!(took < Nanos::from_millis(100), "{took:?}");
}

/// What node 1 sends to node 2 in a connection that comes about, from its preamble on, as node 3
/// between them sees it.
fn record(ours: &Authority) -> Vec<u8> {
    let (one, two) = (good(ours, 1), good(ours, 2));
    let world = calm();
    drop(world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let listener = env.listen(node(2)).unwrap();
        let stream = listener.accept().await.unwrap();
        let (mut line, _) = accept(&env, stream, &two).await.unwrap();
        answer(&env, &mut line, &acceptor()).await.unwrap();
        assert_eq!(read(&mut line, 9).await.unwrap(), b"one frame");
        sleep(&env, MINUTE).await;
    }));
    let between = world.spawn_on(3, CoreNo(0), async |env: SimEnv| {
        let listener = env.listen(node(3)).unwrap();
        let mut caller = listener.accept().await.unwrap();
        let mut called = env.connect(node(2), Nanos::SECOND).await.unwrap();
        let preamble = read_preamble(&env, &mut caller).await.unwrap();
        let mut recorded = preamble.encode().to_vec();
        write(&mut called, &recorded).await.unwrap();
        pass_on(&mut caller, &mut called, |bytes| recorded.extend_from_slice(bytes)).await;
        recorded
    });
    let dialed = world.run_on(1, MINUTE, async move |env: SimEnv| {
        sleep(&env, Nanos::MILLI).await;
        let mut opened = dial(env.clone(), node(3), dialer(), None, &one).await.unwrap();
        write(&mut opened.line, b"one frame").await.unwrap();
        sleep(&env, Nanos::SECOND).await;
    });
    dialed.unwrap();
    world.run_until(|| between.is_done(), MINUTE).unwrap();
    between.take().unwrap()
}
