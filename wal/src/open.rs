//! Formatting a stream, and opening it: everything found is verified, made durable, and this life
//! is on record before anybody hears of it.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use bowline_env::{Bell, Dir, Env, EnvError, File, Kind, Name, Op};
use bowline_raft::Lsn;

use crate::error::{LogError, OpenError, StageError};
use crate::field::countable;
use crate::geometry::{Geometry, SLOTS_AT_FORMAT};
use crate::head::{SUPER_LEN, Super, SuperCopy, SyncMode, slot_file};
use crate::log::{Recovered, StreamId};
use crate::options::{SyncChoice, WalOptions};
use crate::recover::{LSN_SKIP, Recovery, recover};
use crate::scan::Found;
use crate::shared::{Files, OpenSlots, Ref, Shared, SuperFile, mode_of};
use crate::slots::LATE_MAX;
use crate::stream::{Start, Stream};
use crate::tasks;
use crate::wake::Wake;

/// Makes a stream's directory anew.
pub(crate) async fn format<E: Env>(
    env: &E,
    dir: &Name,
    id: StreamId,
    geometry: Geometry,
    options: WalOptions,
) -> Result<(), OpenError> {
    geometry.check()?;
    env.dir().make_dir(dir).await?;
    for (name, _) in env.dir().list(Some(dir)).await? {
        env.dir().remove(&dir.join(name.file())).await?;
    }
    env.dir().sync(Some(dir)).await?;
    for slot_no in 0..SLOTS_AT_FORMAT {
        let name = dir.join(&slot_file(slot_no));
        env.dir().create_filled(&name, geometry.slot_bytes, options.fill_rate).await?;
    }
    let (sync_mode, probe_ns) = match options.sync {
        SyncChoice::Dsync => (SyncMode::Dsync, 0),
        SyncChoice::Fdatasync => (SyncMode::Fdatasync, 0),
        SyncChoice::Auto => crate::probe::probe(env, dir, &geometry, &options).await?,
    };
    let mut uuid = [0; 16];
    env.fill_random(&mut uuid);
    let superblock = Super {
        sequence: 1,
        slot_count: SLOTS_AT_FORMAT,
        sync_mode,
        probe_ns,
        ..Super::new(id, u128::from_le_bytes(uuid), &geometry)
    };
    let mut bytes = superblock.to_bytes().to_vec();
    bytes.resize(geometry.block_len(), 0);
    for copy in [SuperCopy::B, SuperCopy::A] {
        env.dir().write_whole(&dir.join(copy.file()), bytes.clone().into()).await?;
    }
    Ok(())
}

/// Whether a stream is there that was used: a vote or an entry of any shard. What a founding that
/// crashed left is no such stream. Nothing is written.
pub(crate) async fn holds_entries<E: Env>(
    env: &E,
    dir: &Name,
    options: &WalOptions,
) -> Result<bool, OpenError> {
    let superblock = match read_supers(env, dir).await {
        Ok((superblock, ..)) => superblock,
        Err(OpenError::Unreadable) => return Ok(false),
        Err(error) => return Err(error),
    };
    superblock.check_version(false)?;
    let geometry = superblock.geometry(options.log_bytes);
    if geometry.check().is_err() {
        return Ok(false);
    }
    let (slots, _) = open_slots(env, dir, &superblock).await?;
    let recovery = Box::pin(recover(&slots, &superblock, geometry)).await;
    for file in slots.files.into_iter().flatten() {
        file.close().await?;
    }
    let used = |log: &crate::shard::ShardLog| log.hard_state.term.0 > 0 || log.last > 0;
    Ok(recovery?.replay.index.iter().any(used))
}

/// The frame cap that a stream was formatted with. Nothing is written.
pub(crate) async fn frame_cap<E: Env>(env: &E, dir: &Name, id: StreamId) -> Result<u32, OpenError> {
    let (superblock, ..) = read_supers(env, dir).await?;
    superblock.check_version(true)?;
    superblock.check_id(id)?;
    superblock.geometry(0).check()?;
    Ok(superblock.frame_cap)
}

/// Opens a stream.
pub(crate) async fn open<E: Env>(
    env: &E,
    dir: &Name,
    id: StreamId,
    options: WalOptions,
    signal: Bell,
) -> Result<(Ref<E>, Recovered), OpenError> {
    let (superblock, copy, both) = read_supers(env, dir).await?;
    superblock.check_version(true)?;
    superblock.check_id(id)?;
    let geometry = superblock.geometry(options.log_bytes);
    geometry.check()?;
    let a = super_file(env, dir, SuperCopy::A, &superblock).await?;
    let b = super_file(env, dir, SuperCopy::B, &superblock).await?;
    let (slots, whole) = open_slots(env, dir, &superblock).await?;
    let mut recovery = Box::pin(recover(&slots, &superblock, geometry)).await?;
    let Recovery { lsn_seen, epoch_seen, boot_seen, .. } = recovery;
    if !countable([lsn_seen, epoch_seen, boot_seen, superblock.sequence]) {
        return Err(OpenError::Numbers);
    }
    for slot_no in recovery.newest_slots() {
        let at = usize::try_from(slot_no).expect("usize holds a u32");
        if let Some(file) = &slots.files[at] {
            file.sync().await?;
        }
    }
    let files = slots.files.into_iter().zip(whole).map(|(file, whole)| file.filter(|_| whole));
    // A superblock that is lost may have named a life, which may have left a write under way.
    let boot = boot_seen + if both { 1 } else { 2 };
    let mut table = recovery.slot_table(&geometry);
    table.quiet_at = (!recovery.is_quiet()).then(|| env.now().after(LATE_MAX));
    let start = Start {
        lsn: lsn_seen + LSN_SKIP,
        cut: recovery.outcome.tail.proved,
        cut_crc: recovery.outcome.tail.proved_crc,
        boot,
        tag: superblock.tag(),
        complete_epoch: recovery.complete_epoch,
    };
    let mut index = core::mem::take(&mut recovery.replay.index);
    index.fit();
    let own = env.clone();
    let buffers = Box::new(move |len| own.scratch(len));
    let stream = Stream::new(geometry, options, (index, table), start, buffers);
    let shared = Rc::new(Shared {
        env: env.clone(),
        dir: dir.clone(),
        geometry,
        stream: RefCell::new(stream),
        files: Files::new(files.collect()),
        superblock: RefCell::new(SuperFile { current: superblock, copy, a, b }),
        sync: superblock.sync_mode,
        signal,
        writer: Wake::default(),
        keeper: Wake::default(),
        preparer: Wake::default(),
        closer: Wake::default(),
        stopped: Cell::new(false),
        tasks: Cell::new(0),
        stalled: Cell::new(false),
        uncounted: Cell::new(None),
        unsynced: RefCell::new(Vec::new()),
    });
    name_life(&shared, both, (boot, epoch_seen)).await?;
    let frames = core::mem::take(&mut recovery.outcome.tail.frames);
    Box::pin(record_boot(&shared, &frames)).await?;
    let recovered = recovered(&shared, &mut recovery, boot);
    tasks::start(&shared);
    Ok((shared, recovered))
}

/// Names this life in the superblock. `settle`: the newer copy may not be durable yet.
async fn name_life<E: Env>(
    shared: &Shared<E>,
    settle: bool,
    (boot, epoch_seen): (u64, u64),
) -> Result<(), OpenError> {
    if settle {
        shared.settle_super().await?;
    }
    let change = |superblock: &mut Super| {
        superblock.boot = boot;
        superblock.max_epoch = epoch_seen;
    };
    Ok(shared.write_super(change).await?)
}

/// What is handed out: the shards as the index, which the stream has now, says.
fn recovered<E: Env>(shared: &Shared<E>, recovery: &mut Recovery, boot: u64) -> Recovered {
    let mut stream = shared.stream.borrow_mut();
    core::mem::swap(&mut recovery.replay.index, &mut stream.index);
    let shards = recovery.replay.recovered();
    core::mem::swap(&mut recovery.replay.index, &mut stream.index);
    Recovered { boot, report: recovery.report.clone(), shards }
}

/// Reads both superblocks; the newer valid one, with every slot that is there counted, and whether
/// the other is valid too. `super.a` is the first file that a core opens.
async fn read_supers<E: Env>(env: &E, dir: &Name) -> Result<(Super, SuperCopy, bool), OpenError> {
    let mut found = [None, None];
    for (nth, copy) in [SuperCopy::A, SuperCopy::B].into_iter().enumerate() {
        let name = dir.join(copy.file());
        match env.dir().open(&name, bowline_env::Mode::Read).await {
            Ok(file) => {
                let len = SUPER_LEN.max(file.block());
                if let Ok(bytes) = file.read_at(0, len).await {
                    found[nth] = Super::parse(&bytes);
                }
                file.close().await?;
            },
            Err(error) if error.kind == Kind::NotFound => {},
            Err(error) => return Err(OpenError::Env(error)),
        }
    }
    let [a, b] = found;
    let both = a.is_some() && b.is_some();
    let (mut superblock, copy) = Super::choose(a, b)?;
    let files = env.dir().list(Some(dir)).await?;
    superblock.count_slots(files.iter().map(|(name, len)| (name.file(), *len)));
    Ok((superblock, copy, both))
}

/// A superblock file; one that is missing is written anew from the other.
async fn super_file<E: Env>(
    env: &E,
    dir: &Name,
    copy: SuperCopy,
    superblock: &Super,
) -> Result<E::File, OpenError> {
    let (name, mode) = (dir.join(copy.file()), mode_of(superblock.sync_mode));
    match env.dir().open(&name, mode).await {
        Err(error) if error.kind == Kind::NotFound => {
            let mut bytes = superblock.to_bytes().to_vec();
            bytes.resize(superblock.geometry(0).block_len(), 0);
            env.dir().write_whole(&name, bytes.into()).await?;
            Ok(env.dir().open(&name, mode).await?)
        },
        other => Ok(other?),
    }
}

/// Opens every slot file that there is; which of them have their full length.
async fn open_slots<E: Env>(
    env: &E,
    dir: &Name,
    superblock: &Super,
) -> Result<(OpenSlots<E>, Vec<bool>), OpenError> {
    let lengths = env.dir().list(Some(dir)).await?;
    let (mut files, mut whole) = (Vec::new(), Vec::new());
    for slot_no in 0..superblock.slot_count {
        let file = slot_file(slot_no);
        let len = lengths.iter().find(|(name, _)| name.file() == file).map(|(_, len)| *len);
        let opened = match env.dir().open(&dir.join(&file), mode_of(superblock.sync_mode)).await {
            Ok(file) => Some(file),
            Err(error) if error.kind == Kind::NotFound => None,
            Err(error) => return Err(OpenError::Env(error)),
        };
        whole.push(len == Some(superblock.slot_bytes));
        files.push(opened);
    }
    Ok((OpenSlots { files }, whole))
}

/// Puts this life on record: a slot of its own, BOOT, what it copies, the whole checkpoint, and a
/// frame that covers them, one after the other, durable.
async fn record_boot<E: Env>(shared: &Shared<E>, frames: &[Found]) -> Result<(), OpenError> {
    let mut prepare = shared.stream.borrow_mut().slots.poll_prepare();
    if prepare.is_none() {
        prepare = grow_or_wait(shared).await?;
    }
    let (slot_no, _) = prepare.ok_or(OpenError::Full)?;
    shared.prepare(slot_no).await?;
    shared.stream.borrow_mut().slots.handle_prepared(slot_no, true);
    let staged = shared.stream.borrow_mut().stage_boot(frames);
    let end = staged.map_err(|error| {
        if let StageError::Poisoned(cause) = error {
            OpenError::Log(cause)
        } else if error == StageError::Full {
            OpenError::Full
        } else {
            OpenError::Env(EnvError::new(Op::Buffer, Kind::NoMemory))
        }
    })?;
    while shared.stream.borrow().durable() < end {
        write_next(shared).await?;
    }
    Ok(())
}

/// No slot is free: makes one, or else waits until those are that a late write might hit.
async fn grow_or_wait<E: Env>(shared: &Shared<E>) -> Result<Option<(u32, u64)>, OpenError> {
    let grow = shared.stream.borrow_mut().poll_grow();
    if let Some(slot_no) = grow {
        tasks::grow(shared, slot_no).await?;
        shared.stream.borrow_mut().slots.handle_grown(true);
    } else {
        let quiet_at = shared.stream.borrow().slots.quiet_at;
        if let Some(at) = quiet_at {
            shared.env.sleep_until(at).await;
        }
        shared.stream.borrow_mut().slots.quieten(shared.env.now());
    }
    Ok(shared.stream.borrow_mut().slots.poll_prepare())
}

/// Writes one frame of the boot.
async fn write_next<E: Env>(shared: &Shared<E>) -> Result<Lsn, OpenError> {
    let (now, wall) = (shared.env.now(), shared.env.wall());
    let op = shared.stream.borrow_mut().next_write(now, wall);
    let op = op.ok_or(OpenError::Full)?;
    let (lsn, slot_no) = (op.lsn, op.slot_no);
    let written = tasks::write(shared, op).await;
    written.map_err(|error| LogError::Write { kind: error.kind })?;
    if shared.sync == SyncMode::Fdatasync {
        let file = shared.files.slot(slot_no).expect("a slot in use has a file");
        file.sync().await.map_err(|error| LogError::Sync { kind: error.kind })?;
    }
    shared.written(lsn);
    Ok(Lsn(lsn))
}
