//! Removes runs: those whose last manifest entry is gone durably and whose last reader let go, and
//! at boot what no manifest names.

use std::collections::BTreeSet;
use std::rc::Rc;

use bowline_env::{Class, Dir as _, Env, EnvError, Kind, Nanos};

use super::{Section, Store};
use crate::run::{is_temporary, run_name, run_of, runs_dir};

/// How often a dying run is looked at again while a reader holds it.
const LOOK_AGAIN: Nanos = Nanos::from_millis(100);

/// What the search for files that no manifest names did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Files removed.
    pub removed: usize,
    /// Files kept, because a manifest may be lost.
    pub kept: usize,
}

impl<E: Env> Store<E> {
    /// Gives a section up whose manifest entry is gone durably: its run is removed when the last
    /// reader lets go. Values handed out of its mapping stay valid.
    pub fn retire(self: &Rc<Self>, section: Rc<Section<E>>) {
        {
            let mut dying = self.dying().borrow_mut();
            // Twice it would hold itself.
            if dying.iter().any(|other| Rc::ptr_eq(other, &section)) {
                return;
            }
            dying.push(section);
        }
        if self.start_reaper() {
            let store = Rc::clone(self);
            drop(self.env().spawn(Class::Background, async move { store.reap().await }));
        }
    }

    async fn reap(self: Rc<Self>) {
        loop {
            let dead = self.take_dead();
            let is_done = dead.is_empty() && self.dying().borrow().is_empty();
            if is_done {
                return self.end_reaper();
            }
            if dead.is_empty() {
                self.env().sleep_until(self.env().now().after(LOOK_AGAIN)).await;
            }
            for section in dead {
                let run = section.run();
                drop(section);
                if !self.has_section_of(run) {
                    self.files().forget(run);
                    self.files().tidy().await;
                    // What cannot be removed now is an orphan: the next boot removes it.
                    let removed = self.env().dir().remove(&run_name(run)).await;
                    self.count_removed(removed.is_ok());
                }
            }
        }
    }

    /// Sections that nobody holds but the list of the dying.
    fn take_dead(&self) -> Vec<Rc<Section<E>>> {
        let mut dying = self.dying().borrow_mut();
        let all = core::mem::take(&mut *dying);
        let (dead, rest) = all.into_iter().partition(|section| Rc::strong_count(section) == 1);
        *dying = rest;
        dead
    }

    /// Removes files of the runs directory that no manifest names. Once per node, before any job
    /// starts; `live` holds the runs of every manifest of every stream. With `undamaged` false
    /// nothing is removed: an orphan may be the last copy.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed or a file not removed.
    pub async fn collect_orphans(
        &self,
        live: &BTreeSet<u128>,
        undamaged: bool,
    ) -> Result<Orphans, EnvError> {
        let (dir, runs) = (self.env().dir(), runs_dir());
        let mut found = Orphans::default();
        for (name, _) in dir.list(Some(&runs)).await? {
            // The name may come with its directory or without it.
            let file = name.file();
            if run_of(file).is_some_and(|run| live.contains(&run)) {
                continue;
            }
            let is_ours = run_of(file).is_some() || is_temporary(file);
            if !is_ours || !undamaged {
                found.kept += 1;
                continue;
            }
            match dir.remove(&runs.join(file)).await {
                Ok(()) => found.removed += 1,
                Err(error) if error.kind == Kind::NotFound => {},
                Err(error) => return Err(error),
            }
        }
        if found.removed > 0 {
            dir.sync(Some(&runs)).await?;
        }
        Ok(found)
    }
}
