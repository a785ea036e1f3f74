//! `sc_03`: what a node sent to another one, sent again on a new connection. A go-between that
//! keeps what it carries stands before node 3.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "it is no part of a node")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bowline::PeerFault;

use crate::kit::{Trio, free_port};

/// What each connection's caller sent.
type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// Listens at a port of its own and carries connections to node 3. Ends with the process.
fn go_between(trio: &mut Trio) -> Kept {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for node in Trio::NODES {
        trio.config(node).cluster.peers[2].address = format!("127.0.0.1:{port}");
    }
    let (kept, to) = (Kept::default(), trio.port(3));
    let all = Arc::clone(&kept);
    thread::spawn(move || {
        for caller in listener.incoming() {
            let (Ok(caller), Ok(called)) = (caller, TcpStream::connect(("127.0.0.1", to))) else {
                continue;
            };
            let nth = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let keep = Arc::clone(&all);
            let ends = [caller.try_clone(), called.try_clone()].map(Result::unwrap);
            let [back_to, back_from] = ends;
            thread::spawn(move || {
                let keep = |bytes: &[u8]| keep.lock().unwrap()[nth].extend_from_slice(bytes);
                carry(caller, called, keep);
            });
            thread::spawn(move || carry(back_from, back_to, |_| {}));
        }
    });
    kept
}

fn carry(mut from: TcpStream, mut to: TcpStream, keep: impl Fn(&[u8])) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        keep(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Both ends may be gone already.
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}

/// Sends to node 3 what the nodes before it sent, and expects nothing but a counted refusal.
pub(crate) fn replay(mut trio: Trio, fault: PeerFault) {
    let kept = go_between(&mut trio);
    trio.start_all();
    trio.fill("value");
    trio.wait_lanes(3);
    let recorded: Vec<_> =
        kept.lock().unwrap().iter().filter(|it| it.len() > 1_000).cloned().collect();
    assert!(!recorded.is_empty(), "node 3 was spoken to");
    let counts = |trio: &Trio| {
        let refused = trio.engine(3).metrics().cores[0].peers_refused;
        (trio.lanes_up(3), refused[fault.place()])
    };
    for bytes in recorded {
        let (up, refused) = counts(&trio);
        let mut again = TcpStream::connect(("127.0.0.1", trio.port(3))).unwrap();
        again.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        // It may be cut off while it still sends.
        drop(again.write_all(&bytes));
        let mut answer = Vec::new();
        if let Err(error) = again.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        while counts(&trio).1 == refused {
            thread::yield_now();
        }
        assert_eq!(counts(&trio), (up, refused + 1));
    }
    trio.check(3, "value");
    trio.stop_all();
}
