//! The node's one port for peers. Core 0 accepts, reads the 16 bytes that name a core, and hands
//! the socket to it; nothing else is believed or done before that core has the hello.

use std::rc::Rc;
use std::sync::Arc;

use bowline_env::{Class, Env, Listener, Stream};
use bowline_net::{Pending, PendingGuard, read_preamble};
use tokio::sync::{Semaphore, mpsc};

use crate::core::lanes::connect::{Arrival, Doorman};
use crate::metrics::PeerFault;

/// Connections that wait for one core.
pub(super) const ARRIVALS_MAX: usize = 64;

/// Accepts until the core's gate closes.
pub(super) fn listen<E: Env>(
    env: &E,
    doorman: &Rc<Doorman<E>>,
    listener: E::Listener,
    doors: Vec<mpsc::Sender<Arrival>>,
) {
    let (env, doorman) = (env.clone(), Rc::clone(doorman));
    let doors: Rc<[_]> = doors.into();
    let task = {
        let env = env.clone();
        async move {
            let pending = Pending::new();
            while let Some(accepted) = doorman.gate.or(listener.accept()).await {
                let Ok(stream) = accepted else {
                    // No descriptors, as a rule: those that end give some back.
                    let soon = env.now().after(bowline_env::Nanos::from_millis(100));
                    let _: Option<()> = doorman.gate.or(env.sleep_until(soon)).await;
                    continue;
                };
                let Some(guard) = pending.enter(stream.peer()) else {
                    tracing::debug!(from = %stream.peer(), "too many connections without a hello");
                    continue;
                };
                let doorman = Rc::clone(&doorman);
                let hand_over = hand_over(Rc::clone(&doorman), stream, Rc::clone(&doors), guard);
                drop(env.spawn(Class::Core, async move {
                    let _: Option<()> = doorman.gate.or(hand_over).await;
                }));
            }
        }
    };
    drop(env.spawn(Class::Core, task));
}

/// Finds out which core a connection wants, and gives it the socket.
async fn hand_over<E: Env>(
    doorman: Rc<Doorman<E>>,
    mut stream: E::Stream,
    doors: Rc<[mpsc::Sender<Arrival>]>,
    guard: PendingGuard,
) {
    match read_preamble(&doorman.env, &mut stream).await {
        Ok(preamble) => {
            let door = &doors[usize::from(preamble.want_core) % doors.len()];
            let arrival = Arrival { preamble, socket: stream.detach() };
            if door.try_send(arrival).is_err() {
                tracing::debug!("a core takes no more connections");
            }
        },
        Err(error) => doorman.note(PeerFault::of(&error), &stream.peer(), &error),
    }
    drop(guard);
}

/// Shakes hands with those whom core 0 sends here.
pub(super) fn receive<E: Env>(
    env: &E,
    doorman: &Rc<Doorman<E>>,
    mut arrivals: mpsc::Receiver<Arrival>,
) {
    let (spawner, doorman) = (env.clone(), Rc::clone(doorman));
    let task = async move {
        let handshakes = Arc::new(Semaphore::new(ARRIVALS_MAX));
        while let Some(Some(arrival)) = doorman.gate.or(arrivals.recv()).await {
            let Ok(guard) = Arc::clone(&handshakes).try_acquire_owned() else { continue };
            let receive = Rc::clone(&doorman).receive(arrival);
            drop(spawner.spawn(Class::Core, async move {
                receive.await;
                drop(guard);
            }));
        }
    };
    drop(env.spawn(Class::Core, task));
}
