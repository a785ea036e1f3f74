//! Where a replay begins: the newest complete checkpoint, its live slots and all newer ones.

use crate::checkpoint;
use crate::error::OpenError;
use crate::forward::shows_life;
use crate::frame::{BOOT, COVER, FIRST, Head, kind};
use crate::head::Super;
use crate::scan::{Expect, Scanner, SlotRead, SlotState};

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) slot_no: u32,
    pub(crate) epoch: u64,
    /// The life that wrote it.
    pub(crate) boot: u64,
    /// Frames of its first chunk and of its end.
    pub(crate) first_lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) slots: Vec<checkpoint::SlotState>,
}

/// What follows a complete checkpoint.
struct After {
    /// It is that of a boot: it counts only if the boot ended.
    boots: bool,
    boot: u64,
    block_no: u32,
    expect: Expect,
}

/// A slot to be walked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) slot_no: u32,
    pub(crate) epoch: u64,
    pub(crate) boot: u64,
    /// Number of its first frame, if a checkpoint lists it.
    pub(crate) first_lsn: Option<u64>,
    /// Number of its last frame, if it was closed when a checkpoint listed it.
    pub(crate) last_lsn: Option<u64>,
    /// The file is lost with all its frames.
    pub(crate) lost: bool,
    /// Head of its first frame.
    pub(crate) head: Option<Head>,
    /// It begins a life: the life's first frame, and the last one that it kept.
    pub(crate) birth: Option<(u64, u64)>,
}

/// What is to be walked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) states: Vec<SlotState>,
    pub(crate) base: Option<Base>,
    pub(crate) links: Vec<Link>,
    /// A slot that nothing lists is lost: it may have been the newest.
    pub(crate) newest_lost: bool,
}

/// Reads every slot's header and the heads of checkpoints. None that ends beyond `limit` is begun
/// at.
pub(crate) async fn plan<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    superblock: &Super,
    limit: u64,
) -> Result<Plan, OpenError> {
    let (slot_count, clean_lsn) = (superblock.slot_count, superblock.clean_lsn);
    let mut states = Vec::new();
    for slot_no in 0..slot_count {
        states.push(scanner.slot_state(slot_no).await);
    }
    let mut newest: Vec<(u64, u32)> =
        (0..).zip(&states).filter_map(|(slot_no, state)| Some((state.epoch()?, slot_no))).collect();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    let mut base = None;
    let mut newer = Vec::new();
    for (epoch, slot_no) in newest {
        if let Some((found, after)) = complete(scanner, slot_no, epoch).await?
            && found.end_lsn <= limit
            && counts(scanner, (&found, &after), (&newer, &states), clean_lsn).await?
        {
            base = Some(found);
            break;
        }
        newer.push(slot_no);
    }
    if let Some(base) = &base {
        correct(scanner, base, &mut states).await;
    }
    let mut links = base.as_ref().map_or_else(Vec::new, |base| listed(base, &states));
    for slot_no in newer.into_iter().rev() {
        let state = &states[usize::try_from(slot_no).expect("usize holds a u32")];
        links.push(Link {
            slot_no,
            epoch: state.epoch().expect("it was sorted by epoch"),
            boot: state.boot(),
            first_lsn: None,
            last_lsn: None,
            lost: false,
            head: None,
            birth: None,
        });
    }
    for link in &mut links {
        if !link.lost {
            link.head = scanner.first_head(link.slot_no, link.epoch).await;
        }
    }
    for at in 0..links.len() {
        links[at].birth = birth(scanner, &links, at, &states).await;
    }
    let after = base.as_ref().map_or(0, |base| base.epoch);
    drop_unfinished(scanner, &mut links, after, clean_lsn).await?;
    let is_listed = |slot_no: u32| links.iter().any(|link| link.slot_no == slot_no);
    let newest_lost =
        (0..).zip(&states).any(|(slot_no, state)| *state == SlotState::Lost && !is_listed(slot_no));
    Ok(Plan { states, base, links, newest_lost })
}

/// Whether a complete checkpoint is one to begin at: not behind the cut of a later life that went
/// on, and not of a boot that never ended.
async fn counts<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    (base, after): (&Base, &After),
    (newer, states): (&[u32], &[SlotState]),
    clean_lsn: u64,
) -> Result<bool, OpenError> {
    let mut known = !after.boots || clean_lsn >= base.end_lsn;
    for slot_no in newer {
        let state = &states[usize::try_from(*slot_no).expect("usize holds a u32")];
        let epoch = state.epoch().expect("it was sorted by epoch");
        let head = scanner.first_head(*slot_no, epoch).await;
        let life = match (state, head) {
            (_, Some(head)) if head.flags & BOOT != 0 => Some((head.lsn, head.prev_lsn)),
            (SlotState::Good(head), _) if head.life_lsn != 0 => {
                Some((head.life_lsn, head.life_cut))
            },
            _ => None,
        };
        if let Some((first, cut)) = life
            && first > base.end_lsn
            && any_shows_life(scanner, *slot_no, epoch).await?
        {
            if cut < base.end_lsn {
                return Ok(false);
            }
            known = true;
        }
        known = known || (state.boot() == after.boot && head.is_some());
    }
    if known {
        return Ok(true);
    }
    let next = scanner.frame_at(base.slot_no, after.block_no, &after.expect).await?;
    if next.is_some_and(|found| shows_life(&found)) {
        return Ok(true);
    }
    any_shows_life(scanner, base.slot_no, base.epoch).await
}

/// The newest complete checkpoint before `base` that ends at `proved` or before.
pub(crate) async fn complete_before<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    plan: &Plan,
    base: &Base,
    proved: u64,
) -> Result<Option<Base>, OpenError> {
    let older = |(_, state): &(u32, &SlotState)| state.epoch().is_some_and(|at| at < base.epoch);
    let mut slots: Vec<(u64, u32)> = (0..)
        .zip(&plan.states)
        .filter(older)
        .filter_map(|(slot_no, state)| Some((state.epoch()?, slot_no)))
        .collect();
    slots.sort_unstable_by(|a, b| b.cmp(a));
    for (epoch, slot_no) in slots {
        if let Some((found, _)) = complete(scanner, slot_no, epoch).await?
            && found.end_lsn <= proved
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A live slot under an older header than listed, with frames of the listed epoch: they count.
async fn correct<R: SlotRead>(scanner: &mut Scanner<'_, R>, base: &Base, states: &mut [SlotState]) {
    for row in base.slots.iter().filter(|row| row.live) {
        let at = usize::try_from(row.slot_no).expect("usize holds a u32");
        let Some(state) = states.get_mut(at) else { continue };
        if state.epoch().is_some_and(|epoch| epoch < row.epoch) {
            let hits = scanner.hits(row.slot_no).await;
            if let Some(hit) = hits.iter().find(|hit| hit.epoch == row.epoch) {
                *state = SlotState::Frames { epoch: hit.epoch, boot: hit.boot };
            }
        }
    }
}

/// Where the life begins whose first slot this is. Its BOOT frame says it; if that is lost, the
/// slot's header does.
async fn birth<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    links: &[Link],
    at: usize,
    states: &[SlotState],
) -> Option<(u64, u64)> {
    let link = &links[at];
    if let Some(head) = link.head {
        return (head.flags & BOOT != 0).then_some((head.lsn, head.prev_lsn));
    }
    let nth = usize::try_from(link.slot_no).expect("usize holds a u32");
    let Some(SlotState::Good(head)) = states.get(nth) else { return None };
    if link.lost || head.life_lsn == 0 {
        return None;
    }
    let is_first = match link.first_lsn {
        Some(first) => first == head.life_lsn,
        None => links[..at].iter().all(|before| before.boot != link.boot),
    };
    let hits = scanner.hits_near(link.slot_no, 1).await;
    let used = hits.iter().any(|hit| hit.epoch == link.epoch);
    (is_first && used).then_some((head.life_lsn, head.life_cut))
}

/// The slots that a checkpoint calls live, with its own, by first frame.
fn listed(base: &Base, states: &[SlotState]) -> Vec<Link> {
    let mut rows: Vec<_> = base.slots.iter().filter(|row| row.live).collect();
    rows.sort_by_key(|row| row.first_lsn);
    let mut links = Vec::new();
    for row in rows {
        let state = usize::try_from(row.slot_no).ok().and_then(|at| states.get(at));
        let epoch = state.and_then(SlotState::epoch);
        if epoch.is_some_and(|epoch| epoch > row.epoch) {
            continue; // recycled since: dead
        }
        let own = row.epoch == base.epoch;
        let link = Link {
            slot_no: row.slot_no,
            epoch: row.epoch,
            boot: state.map_or(0, SlotState::boot),
            first_lsn: Some(row.first_lsn),
            last_lsn: (!own).then_some(row.last_lsn),
            lost: epoch != Some(row.epoch),
            head: None,
            birth: None,
        };
        links.push(link);
    }
    links
}

/// The checkpoint at the head of a slot, if every frame up to its end is good.
async fn complete<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    slot_no: u32,
    epoch: u64,
) -> Result<Option<(Base, After)>, OpenError> {
    let mut expect = Expect { epoch, ..Expect::default() };
    let mut block_no = 1;
    let mut first_lsn = 0;
    let mut boots = false;
    loop {
        let Some(found) = scanner.frame_at(slot_no, block_no, &expect).await? else {
            return Ok(None);
        };
        let head = found.head;
        if block_no == 1 {
            if head.flags & FIRST == 0 {
                return Ok(None);
            }
            first_lsn = head.lsn;
        }
        // A bad body of somebody else's does not make the checkpoint incomplete.
        let is_bad = |nth: usize| found.bad.binary_search(&nth).is_ok();
        let mut end = None;
        for (nth, row) in found.rows().enumerate().filter(|(_, row)| !row.is_echo()) {
            let ours = matches!(row.kind, kind::CHECKPOINT | kind::CHECKPOINT_END);
            if ours && (is_bad(nth) || row.a != first_lsn) {
                return Ok(None);
            }
            if row.kind == kind::CHECKPOINT_END {
                end = checkpoint::SlotState::parse_end(found.body(&row));
                if end.is_none() {
                    return Ok(None);
                }
            }
        }
        if !found.dir_good {
            return Ok(None);
        }
        boots |= head.flags & BOOT != 0;
        block_no += head.blocks;
        expect.lsn = Some(head.lsn + 1);
        expect.prev_crc = Some(head.crc());
        if let Some(slots) = end {
            let boot = head.boot;
            let base = Base { slot_no, epoch, boot, first_lsn, end_lsn: head.lsn, slots };
            return Ok(Some((base, After { boots, boot, block_no, expect })));
        }
    }
}

/// Drops the slots of lives that crashed before their boot was complete: nothing of them was ever
/// answered. A life that shows a sign of having gone on is kept: then its checkpoint is damaged.
async fn drop_unfinished<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    links: &mut Vec<Link>,
    after: u64,
    clean_lsn: u64,
) -> Result<(), OpenError> {
    let boots: Vec<u64> = links
        .iter()
        .filter(|link| link.epoch > after)
        .filter(|link| link.birth.is_some())
        .map(|link| link.boot)
        .collect();
    for boot in boots {
        let own: Vec<Link> = links.iter().filter(|link| link.boot == boot).cloned().collect();
        let used = own.iter().filter(|link| link.head.is_some()).count();
        let first = own.iter().filter_map(|link| link.birth).map(|birth| birth.0).min();
        let known_later = links.iter().any(|link| {
            let cut = link.birth.filter(|_| link.boot > boot).map(|birth| birth.1);
            cut.is_some_and(|cut| first.is_some_and(|lsn| cut >= lsn))
        });
        let closed = clean_lsn > 0 && first.is_some_and(|lsn| clean_lsn >= lsn);
        let mut went_on = used > 1 || known_later || closed;
        for link in &own {
            went_on = went_on || any_shows_life(scanner, link.slot_no, link.epoch).await?;
        }
        if !went_on {
            links.retain(|link| link.boot != boot || link.epoch <= after);
        }
    }
    Ok(())
}

/// Whether a slot holds a frame that only a boot that had ended can have written.
async fn any_shows_life<R: SlotRead>(
    scanner: &mut Scanner<'_, R>,
    slot_no: u32,
    epoch: u64,
) -> Result<bool, OpenError> {
    for hit in scanner.hits(slot_no).await {
        if hit.epoch != epoch {
            continue;
        }
        if hit.flags & COVER != 0 {
            return Ok(true);
        }
        let expect = Expect { epoch, lsn: Some(hit.lsn), ..Expect::default() };
        if let Some(found) = scanner.frame_at(slot_no, hit.block_no, &expect).await?
            && shows_life(&found)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
