//! What tells a running binary to end: SIGTERM, SIGINT, or the end of standard input.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The orders to end, one at a time.
#[derive(Debug)]
pub(crate) struct Orders {
    terminate: Signal,
    interrupt: Signal,
    /// Answered when standard input ends; none: nobody looks, or it has.
    stdin: Option<oneshot::Receiver<()>>,
}

impl Orders {
    /// Signals are orders from now on.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub(crate) fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, stdin: None })
    }

    /// The end of standard input is an order too. What comes before it is not looked at.
    #[expect(clippy::disallowed_methods, reason = "a blocking read, beside every core")]
    pub(crate) fn watch_stdin(&mut self) {
        let (tell, told) = oneshot::channel();
        // Reading blocks, and nothing ends it early: the thread is left to the end of the process.
        std::thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut rest = [0; 64];
            while stdin.read(&mut rest).is_ok_and(|len| len > 0) {}
            // Whoever waited for the order has gone by another.
            tell.send(()).ok();
        });
        self.stdin = Some(told);
    }

    /// Waits for the next order.
    pub(crate) async fn next(&mut self) {
        let stdin_ended = async {
            match &mut self.stdin {
                Some(told) => drop(told.await),
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {},
            _ = self.interrupt.recv() => {},
            () = stdin_ended => self.stdin = None,
        }
    }
}
