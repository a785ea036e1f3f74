//! Three nodes in one process that speak TLS over real sockets, and strangers at their ports. A
//! package of its own, so that whoever builds other tests of the engine builds no certificates.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is this test failing")]
#![expect(clippy::panic, reason = "so is a panic that says more")]

#[path = "../../net/tests/shared/certs.rs"]
mod certs;
#[path = "../sockets/kit.rs"]
mod kit;
#[path = "../sockets/replay.rs"]
mod replay;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline::{Code, NodeId, PeerFault};
use bowline_net::{Class, Hello, HelloKind, NodeRecord, Preamble, Refusal, Versions};
use rcgen::{CertificateParams, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certs::{Authority, Papers};
use crate::kit::Trio;
use crate::replay::replay;

fn name(node: u64) -> String {
    format!("node-{node}.bowline")
}

fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1990, 1, 1);
    params.not_after = date_time_ymd(2000, 1, 1);
}

/// Writes files of `[tls]` for a node and names them in its configuration.
fn give(trio: &mut Trio, node: u64, authority: &Authority, papers: &Papers) {
    let dir = trio.config(node).node.data_dir.clone();
    let write = |kind: &str, text: &str| -> PathBuf {
        let path = dir.with_file_name(format!("{kind}-{node}.pem"));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let files = [
        write("cert", &papers.certificate),
        write("key", &papers.key),
        write("ca", authority.pem()),
    ];
    let tls = &mut trio.config(node).tls;
    [tls.cert_file, tls.key_file, tls.ca_file] = files;
}

/// Three nodes that speak TLS.
fn trio(authority: &Authority) -> Option<Trio> {
    let mut trio = Trio::new()?;
    for node in Trio::NODES {
        give(&mut trio, node, authority, &authority.issue(&name(node)));
    }
    Some(trio)
}

fn refused(trio: &Trio, node: u64) -> [u64; PeerFault::ALL.len()] {
    trio.engine(node).metrics().cores[0].peers_refused
}

#[test]
fn sc_02_three_nodes_speak_tls_and_take_one_back() {
    let authority = Authority::new("ours");
    let Some(mut trio) = trio(&authority) else { return };
    trio.start_all();
    trio.fill("one");
    for node in Trio::NODES {
        trio.check(node, "one");
        let faults = refused(&trio, node);
        for fault in [PeerFault::ClearText, PeerFault::Certificate, PeerFault::Identity] {
            assert_eq!(faults[fault.place()], 0, "node {node}: {}", fault.name());
        }
        assert!(0 < trio.lanes_up(node));
    }
    let first = trio.leader();
    let [away, other] = Trio::others(first);
    let key = trio.key_led_by(first);
    trio.client(first).put(&key, "put here, got there").wait().unwrap();
    let got = trio.client(other).get(&key).wait().unwrap();
    assert_eq!(got.as_deref(), Some(&b"put here, got there"[..]));
    trio.stop(away);
    trio.fill("two");
    trio.start(away);
    trio.ready(away);
    trio.check(away, "two");
    trio.stop(first);
    trio.fill("three");
    trio.start(first);
    for node in Trio::NODES {
        trio.ready(node);
        trio.check(node, "three");
    }
    trio.stop(2);
    trio.stop(3);
    trio.wait_leaderless(1);
    trio.stop_all();
}

#[test]
fn sc_03_a_recorded_connection_is_refused_by_tls() {
    let authority = Authority::new("ours");
    if let Some(trio) = trio(&authority) {
        replay(trio, PeerFault::Handshake);
    }
}

/// A node of another authority: whoever it dials or is dialed by refuses it.
#[test]
fn sc_01_a_node_of_another_authority_is_part_of_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Some(mut trio) = trio(&ours) else { return };
    give(&mut trio, 2, &theirs, &theirs.issue(&name(2)));
    for node in Trio::NODES {
        trio.start(node);
    }
    trio.ready(1);
    trio.ready(3);
    trio.fill_through(1, "value");
    trio.check(3, "value");
    assert_eq!(trio.lanes_up(2), 0);
    let certificate = PeerFault::Certificate.place();
    assert!(0 < refused(&trio, 1)[certificate], "node 1 dialed it");
    trio.stop_all();
}

/// A connection to node 3, with its preamble sent.
fn knock(trio: &Trio, tls: bool) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", trio.port(3))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.write_all(&Preamble { class: Class::Lane, want_core: 0, tls }.encode()).unwrap();
    socket
}

/// Sends a byte each 100 ms until the other side ends the connection: after how long it did.
#[expect(clippy::disallowed_methods, reason = "real sockets in real time")]
fn trickle(mut socket: TcpStream, bytes: &[u8]) -> Duration {
    let begin = Instant::now();
    let mut bytes = bytes.iter().cycle();
    loop {
        drop(socket.write_all(&[*bytes.next().unwrap()]));
        match socket.read(&mut [0; 256]) {
            Ok(0) => return begin.elapsed(),
            Ok(_) => {},
            Err(error) if error.kind() == ErrorKind::WouldBlock => {},
            Err(_reset) => return begin.elapsed(),
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it is kept");
    }
}

/// A client that goes the whole way of TLS, with or without papers.
fn shake(
    trio: &Trio,
    authority: &Authority,
    papers: Option<&Papers>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match papers {
        None => config.with_no_client_auth(),
        Some(Papers { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        },
    };
    let server = ServerName::try_from(name(3)).unwrap();
    let tls = ClientConnection::new(Arc::new(config), server).unwrap();
    let socket = knock(trio, true);
    socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    StreamOwned::new(tls, socket)
}

/// The hello of somebody who says to be node 1.
fn hello() -> Hello {
    Hello {
        kind: HelloKind::Hello,
        class: Class::Lane,
        versions: Versions::OURS,
        features: 0,
        required: 0,
        cluster: 1,
        from: NodeId(1),
        to: NodeId(3),
        store: 1,
        boot: 99,
        epoch: 99,
        nonce: 1,
        echo: 0,
        from_core: 0,
        want_core: 0,
        cores: 1,
        machine: 0,
        frame_max: 1 << 20,
        window: 2 << 20,
        table_version: 0,
        claimed: 0,
        known: 0,
        record: NodeRecord {
            node: NodeId(1),
            address: "127.0.0.1:1".into(),
            client_address: String::new(),
            cores: 1,
            streams: 1,
        },
    }
}

/// Waits until node 3 has counted one more of `fault`, and sees that no lane came of it.
fn counted(trio: &Trio, fault: PeerFault, before: (u64, u64)) {
    while refused(trio, 3)[fault.place()] == before.0 {
        std::thread::yield_now();
    }
    assert_eq!(refused(trio, 3)[fault.place()], before.0 + 1, "{}", fault.name());
    assert_eq!(trio.lanes_up(3), before.1, "a lane came of {}", fault.name());
}

/// What node 3 counted of a fault, and its lanes.
fn so_far(trio: &Trio, fault: PeerFault) -> (u64, u64) {
    (refused(trio, 3)[fault.place()], trio.lanes_up(3))
}

#[test]
fn sc_01_strangers_are_cut_off_and_counted() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Some(mut trio) = trio(&ours) else { return };
    trio.start_all();
    trio.wait_lanes(3);
    let check = |fault: PeerFault, limit: Duration, meet: &dyn Fn() -> Duration| {
        let before = so_far(&trio, fault);
        let took = meet();
        assert!(took < limit, "{}: {took:?}", fault.name());
        counted(&trio, fault, before);
    };
    let soon = Duration::from_secs(3);
    // To the millisecond it is looked at in the simulator.
    let late = Duration::from_secs(10);
    let bytes = hello().encode();
    check(PeerFault::ClearText, soon, &|| trickle(knock(&trio, false), &bytes));
    check(PeerFault::Handshake, soon, &|| trickle(knock(&trio, true), &bytes));
    // The begin of a record that may still become one.
    check(PeerFault::TimedOut, late, &|| trickle(knock(&trio, true), &[22, 3, 1, 16, 0, 1, 0]));
    let stale = ours.issue_with(&name(1), expired);
    let foreign = theirs.issue(&name(1));
    for papers in [None, Some(&stale), Some(&foreign)] {
        check(PeerFault::Certificate, soon, &|| say_hello(shake(&trio, &ours, papers)).0);
    }
    let two = ours.issue(&name(2));
    check(PeerFault::Identity, soon, &|| {
        let (took, answer) = say_hello(shake(&trio, &ours, Some(&two)));
        let answer = Hello::decode(&answer).unwrap();
        assert_eq!(answer.kind, HelloKind::Refuse(Refusal::WrongIdentity));
        took
    });
    trio.fill("still");
    trio.check(3, "still");
    trio.stop_all();
}

/// Says hello and listens to the end.
#[expect(clippy::disallowed_methods, reason = "real sockets in real time")]
fn say_hello(mut tls: StreamOwned<ClientConnection, TcpStream>) -> (Duration, Vec<u8>) {
    let begin = Instant::now();
    let mut answer = Vec::new();
    if tls.write_all(&hello().encode()).is_ok() {
        // Whom it refuses it may cut off.
        drop(tls.read_to_end(&mut answer));
    }
    (begin.elapsed(), answer)
}

#[test]
fn sc_01_tls_is_not_for_a_node_without_it() {
    let Some(mut trio) = Trio::new() else { return };
    trio.start_all();
    trio.wait_lanes(3);
    let before = so_far(&trio, PeerFault::TlsNotSetUp);
    assert!(trickle(knock(&trio, true), &[22, 3, 1]) < Duration::from_secs(3));
    counted(&trio, PeerFault::TlsNotSetUp, before);
    trio.stop_all();
}

#[test]
fn bow_0704_files_that_cannot_be_used_come_out_of_start() {
    let ours = Authority::new("ours");
    let Some(mut trio) = trio(&ours) else { return };
    let refuses = |trio: &mut Trio, part: &str| {
        let error = trio.try_start(1).unwrap_err();
        assert_eq!(error.code(), Code::TLS_FILES, "{error:#}");
        let text = format!("{error:#}");
        assert!(text.contains(part) && text.contains("fix:"), "{part}: {text}");
    };
    let good = ours.issue(&name(1));
    std::fs::remove_file(&trio.config(1).tls.key_file).unwrap();
    refuses(&mut trio, "No such file");
    give(&mut trio, 1, &ours, &Papers { key: ours.issue(&name(1)).key, ..good.clone() });
    refuses(&mut trio, "not that of the certificate");
    give(&mut trio, 1, &ours, &Papers { certificate: String::new(), ..good.clone() });
    refuses(&mut trio, "no certificate");
    give(&mut trio, 1, &ours, &ours.issue(&name(2)));
    refuses(&mut trio, "does not name this node");
    give(&mut trio, 1, &ours, &ours.issue_with(&name(1), expired));
    refuses(&mut trio, "has expired");
    give(&mut trio, 1, &Authority::new("theirs"), &good);
    refuses(&mut trio, "not signed by one of the authorities");
    give(&mut trio, 1, &ours, &good);
    trio.start_all();
    trio.stop_all();
}

#[test]
fn sc_06_a_key_that_others_may_use_is_refused() {
    let ours = Authority::new("ours");
    let Some(mut trio) = trio(&ours) else { return };
    let key = trio.config(1).tls.key_file.clone();
    for mode in [0o644, 0o604, 0o602, 0o601, 0o620] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let error = trio.try_start(1).unwrap_err();
        assert_eq!(error.code(), Code::TLS_FILES, "{mode:o}: {error:#}");
        let (text, fix) = (format!("{error:#}"), format!("chmod 600 {}", key.display()));
        assert!(text.contains(&fix), "{mode:o}: {text}");
        assert!(!trio.config(1).node.data_dir.exists(), "nothing was founded");
    }
    // A group may read it: so keys are given to a service that does not own them.
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    trio.start_all();
    trio.stop_all();
}
