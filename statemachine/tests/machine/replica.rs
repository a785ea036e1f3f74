//! A shard on a simulated disk: the log is a list of payloads, the manifest a value that survives.

use std::rc::Rc;

use bowline_env::sim::SimEnv;
use bowline_statemachine::envelope::{self, ENVELOPE_LEN, Head};
use bowline_statemachine::store::{Pins, Store, StoreOptions};
use bowline_statemachine::{
    Answer, AsOf, Damage, EntryRef, Machine, Output, Pressure, Query, Read, Staged,
};
use bytes::{Bytes, BytesMut};

pub(crate) const SHARD: u64 = 9;

/// What the flushes of these tests write down beside the state.
pub(crate) fn as_of(version: u16) -> AsOf {
    AsOf { term: 1, version, conf: Bytes::from_static(b"members") }
}

/// A payload as the core's loop would write it.
pub(crate) fn payload(stamp_ms: u64, kind: u8, ver: u16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; ENVELOPE_LEN];
    let body_len = u32::try_from(body.len()).unwrap();
    envelope::encode(&mut out, stamp_ms, Head { kind, flags: 0, ver }, body_len);
    out.extend_from_slice(body);
    out
}

/// The body that an encoder writes.
pub(crate) fn body(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

/// One replica of [`SHARD`].
pub(crate) struct Replica<M: Machine<SimEnv>> {
    pub(crate) store: Rc<Store<SimEnv>>,
    pub(crate) machine: M,
    /// Payloads; the first has index 1. Stands for the log.
    pub(crate) log: Vec<Vec<u8>>,
    /// The last manifest that went into the log.
    pub(crate) manifest: Option<Bytes>,
}

impl<M: Machine<SimEnv>> Replica<M> {
    pub(crate) async fn create(env: SimEnv, options: StoreOptions) -> Self {
        let store = Store::new(env, options);
        store.prepare().await.unwrap();
        let machine = M::open(&store, SHARD, None).await.unwrap();
        Self { store, machine, log: Vec::new(), manifest: None }
    }

    /// Puts a payload into the log and applies it.
    pub(crate) async fn commit(&mut self, payload: Vec<u8>) -> Option<Output> {
        self.log.push(payload);
        let from = self.machine.applied();
        let outputs = self.apply_to(self.log.len() as u64).await;
        assert!(outputs.len() as u64 == self.machine.applied() - from, "one output per entry");
        outputs.into_iter().last()
    }

    /// Applies what the log holds up to `index`.
    pub(crate) async fn apply_to(&mut self, index: u64) -> Vec<Output> {
        let first = self.machine.applied() + 1;
        let range = usize::try_from(first - 1).unwrap()..usize::try_from(index).unwrap();
        let entries: Vec<_> = (first..)
            .zip(&self.log[range])
            .map(|(index, payload)| EntryRef { index, term: 1, payload })
            .collect();
        let mut pins = Pins::new();
        loop {
            match self.machine.stage(&entries, &pins) {
                Staged::Ready => break,
                Staged::Cold(reads) => self.store.load(reads, &mut pins).await.unwrap(),
                other => panic!("{other:?}"),
            }
        }
        let mut outputs = Vec::new();
        for entry in entries {
            self.machine.apply(entry, &pins, &mut outputs);
        }
        outputs
    }

    /// Asks until every page is there.
    pub(crate) async fn read(&self, query: &Query) -> Result<Answer, Damage> {
        let mut pins = Pins::new();
        loop {
            match self.machine.read(query, &pins) {
                Read::Ready(answer) => return Ok(answer),
                Read::Cold(reads) => {
                    let before = pins.count();
                    self.store.load(reads, &mut pins).await?;
                    assert!(pins.count() > before, "each round gets further");
                },
                Read::Damaged(damage) => return Err(damage),
            }
        }
    }

    /// Runs the next job to its end. False: none is due.
    pub(crate) async fn job(&mut self, why: Pressure) -> bool {
        let Some(job) = self.machine.next_job(why, &as_of(M::VERSION)) else {
            return false;
        };
        let done = job.run().await.unwrap();
        let (index, _, manifest) = self.machine.manifest_after(&done).unwrap();
        assert!(index <= self.machine.applied(), "a run never leads");
        self.manifest = Some(manifest);
        self.machine.publish(done);
        true
    }

    /// Starts again from the last manifest.
    pub(crate) async fn reopen(&mut self) {
        let manifest = self.manifest.clone();
        self.machine = M::open(&self.store, SHARD, manifest.as_deref()).await.unwrap();
        assert_eq!(self.machine.applied(), self.machine.flushed());
    }

    /// Starts again from the last manifest and applies the log after it.
    pub(crate) async fn restart(&mut self) {
        self.reopen().await;
        self.apply_to(self.log.len() as u64).await;
    }
}
