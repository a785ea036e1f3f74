//! Group commit for a store that has none: the first caller in commits for all who wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::load::Putter;

/// A store that commits many puts at once.
pub(crate) trait Batched: Sync {
    /// Returns once all are durable.
    fn commit(&self, puts: &[([u8; 8], Vec<u8>)]) -> Result<(), String>;
}

/// What an application would put in front of such a store.
pub(crate) struct Grouped<S> {
    store: S,
    queue: Mutex<Queue>,
    turned: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<([u8; 8], Vec<u8>)>,
    /// The round that `waiting` will be committed in.
    round: u64,
    /// Rounds below it are durable.
    done: u64,
    committing: bool,
    failed: Option<String>,
}

impl<S: Batched> Grouped<S> {
    /// In front of `store`.
    pub(crate) fn new(store: S) -> Self {
        Self { store, queue: Mutex::new(Queue::default()), turned: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Batched> Putter for Grouped<S> {
    fn put(&self, _client: usize, key: [u8; 8], value: &[u8]) -> Result<(), String> {
        let mut queue = self.lock();
        queue.waiting.push((key, value.to_vec()));
        let mine = queue.round;
        while queue.committing && queue.done <= mine {
            queue = self.turned.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.done > mine {
            return queue.failed.clone().map_or(Ok(()), Err);
        }
        let puts = std::mem::take(&mut queue.waiting);
        queue.round += 1;
        queue.committing = true;
        drop(queue);
        let outcome = self.store.commit(&puts);
        let mut queue = self.lock();
        queue.done = mine + 1;
        queue.committing = false;
        queue.failed = queue.failed.take().or(outcome.clone().err());
        drop(queue);
        self.turned.notify_all();
        outcome
    }
}
