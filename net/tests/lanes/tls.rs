//! Two ends over TLS over simulated sockets: slices, stalls and resets.

use std::net::SocketAddr;
use std::sync::Arc;

use bowline_env::sim::{Fault, Profile, SimEnv, SimStream, World};
use bowline_env::{CoreNo, Env, Listener, Nanos};
use bowline_net::{Identity, Line, Pems, Security, answer, dial, greet, read_preamble};
use bowline_raft::NodeId;

use crate::certs::Authority;
use crate::shared::{acceptor, dialer};
use crate::sockets::{LIMIT, MESSAGES, Told, live};

fn security(authority: &Authority, id: u64) -> Security {
    let papers = authority.issue(&format!("node-{id}.shop"));
    let pems = Pems {
        certificate: papers.certificate.as_bytes(),
        key: papers.key.as_bytes(),
        authorities: authority.pem().as_bytes(),
    };
    Security::Tls(Arc::new(Identity::new(pems, NodeId(id), "shop").unwrap()))
}

/// The line to whom dials first with success.
async fn called(env: &SimEnv, at: SocketAddr, security: &Security) -> Line<SimStream> {
    let listener = env.listen(at).unwrap();
    loop {
        let Ok(mut stream) = listener.accept().await else { continue };
        let Ok(preamble) = read_preamble(env, &mut stream).await else { continue };
        let Ok((mut line, _)) = greet(env, stream, &preamble, security).await else { continue };
        if answer(env, &mut line, &acceptor()).await.is_ok() {
            return line;
        }
    }
}

async fn calls(env: &SimEnv, at: SocketAddr, security: &Security) -> Line<SimStream> {
    loop {
        let dialed = dial(env.clone(), at, dialer(), None, security).await;
        if let Ok(opened) = dialed {
            return opened.line;
        }
        env.sleep_until(env.now().after(Nanos::MILLI)).await;
    }
}

/// Runs a lane between two nodes; none: the acceptor's end of it broke while it was opened.
fn run(seed: u64, profile: Profile, linger: Nanos) -> Option<[Told; 2]> {
    let authority = Authority::new("ours");
    let (one, two) = (security(&authority, 1), security(&authority, 2));
    let world = World::new(seed, profile);
    let at = SocketAddr::new(World::addr(2), 7_000);
    let listens = world.spawn_on(2, CoreNo(0), async move |env: SimEnv| {
        let line = called(&env, at, &two).await;
        live(env, line, seed, linger).await
    });
    let dials = world.spawn_on(1, CoreNo(0), async move |env: SimEnv| {
        let line = calls(&env, at, &one).await;
        live(env, line, seed + 1, linger).await
    });
    world.run_until(|| listens.is_done() && dials.is_done(), LIMIT).ok()?;
    Some([listens.take().unwrap(), dials.take().unwrap()])
}

#[test]
fn every_message_arrives_in_order_over_tls() {
    let sliced = Profile::swarm().without(Fault::NetReset).without(Fault::NoBuffer);
    for (seed, profile) in [(1, sliced), (2, sliced), (3, sliced), (4, Profile::calm())] {
        for (ended, got) in run(seed, profile, Nanos::SECOND).expect("no end waits for ever") {
            assert_eq!(ended, Ok(()), "seed {seed}");
            assert!(got.into_iter().eq((0..).take(MESSAGES)), "seed {seed}");
        }
    }
}

#[test]
fn what_arrived_before_a_reset_was_in_order_over_tls() {
    let (mut broken, mut whole) = (0, 0);
    for seed in 0..20 {
        let Some(told) =
            run(seed, Profile::calm().with(Fault::NetReset).with(Fault::NetSlices), Nanos(0))
        else {
            continue;
        };
        for (ended, got) in told {
            let came = got.len();
            assert!(got.into_iter().eq((0..).take(came)), "seed {seed}");
            assert!(ended.is_err() || came == MESSAGES, "seed {seed}");
            *(if ended.is_err() { &mut broken } else { &mut whole }) += 1;
        }
    }
    assert!(0 < broken && 0 < whole, "{broken} broke, {whole} whole");
}
