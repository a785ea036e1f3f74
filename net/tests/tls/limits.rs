//! Callers that nobody knows yet cost little time and memory.

use bowline_env::Nanos;
use bowline_env::sim::SimEnv;
use bowline_net::{Class, HandshakeError, Preamble, TlsError};

use crate::certs::Authority;
use crate::kit::{MINUTE, accepted_from, calm, good, read, sleep, write};

/// A preamble, and the begin of a handshake message of `len` bytes, in records of 4 KiB.
fn endless(len: usize) -> Vec<u8> {
    let mut out = Preamble { class: Class::Lane, want_core: 0, tls: true }.encode().to_vec();
    let mut message = vec![1, 0, 0xff, 0xf0];
    message.resize(len, 7);
    for record in message.chunks(4 << 10) {
        let [high, low] = [record.len() >> 8, record.len() & 0xff];
        out.extend([22, 3, 1, u8::try_from(high).unwrap(), u8::try_from(low).unwrap()]);
        out.extend(record);
    }
    out
}

fn about_three_seconds(took: Nanos) {
    let least = Nanos(3 * Nanos::SECOND.0);
    assert!(least <= took && took < least.after(Nanos::from_millis(10)), "{took:?}");
}

#[test]
fn a_caller_that_says_nothing_or_little_is_bounded_in_time() {
    let ours = Authority::new("ours");
    let silent = async |env: SimEnv, mut stream| {
        write(&mut stream, &endless(0)[..16]).await.unwrap();
        sleep(&env, MINUTE).await;
    };
    let (accepted, took) = accepted_from(&calm(), good(&ours, 2), silent);
    assert_eq!(accepted, Err(HandshakeError::TimedOut));
    about_three_seconds(took);
    let trickles = async |env: SimEnv, mut stream| {
        write(&mut stream, &endless(0)[..16]).await.unwrap();
        for byte in &endless(4 << 10)[16..] {
            if write(&mut stream, &[*byte]).await.is_err() {
                return;
            }
            sleep(&env, Nanos::from_millis(100)).await;
        }
    };
    let (accepted, took) = accepted_from(&calm(), good(&ours, 2), trickles);
    assert_eq!(accepted, Err(HandshakeError::TimedOut));
    about_three_seconds(took);
}

#[test]
fn a_message_without_end_is_cut_after_16_kib() {
    let ours = Authority::new("ours");
    let two = good(&ours, 2);
    // What the world takes for the same bytes without TLS is not the acceptor's.
    let bytes_max = |flood: usize, want: HandshakeError, security| {
        let mut accepted = None;
        let used = allocation_counter::measure(|| {
            let bytes = endless(flood);
            let world = calm();
            let (told, took) = accepted_from(&world, security, async move |_, mut stream| {
                drop(write(&mut stream, &bytes).await);
                drop(read(&mut stream, 1).await);
            });
            assert!(took < Nanos::from_millis(100), "{took:?}");
            accepted = Some(told);
        });
        assert_eq!(accepted, Some(Err(want)));
        used.bytes_max
    };
    let length = HandshakeError::Tls(TlsError::Length);
    let none = HandshakeError::Tls(TlsError::NotSetUp);
    let with = bytes_max(60 << 10, length, two);
    let without = bytes_max(60 << 10, none, bowline_net::Security::Plain);
    let more = with.saturating_sub(without);
    assert!(more < 48 << 10, "{more} bytes for a caller that nobody knows");
}
