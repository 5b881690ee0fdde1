//! The memory of open transactions.
//!
//! Each has a slot; slots are used again with their memory, so that nothing is allocated once there are enough. A list
//! through those that have not ended, oldest first, finds the ones to give up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::{Index, IndexMut};
use std::time::Instant;

use crate::log::Position;

use super::family::Family;
use super::values::Values;

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) values: Values,
    pub(super) began: Instant,
    pub(super) position: Option<Position>,
    pub(super) family: Family,
    older: u32,
    younger: u32,
}

#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_vxid: HashMap<u64, u32, BuildHasherDefault<VxidHasher>>,
    oldest: u32,
    youngest: u32,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_vxid: HashMap::with_capacity_and_hasher(limit + 1, BuildHasherDefault::default()),
            oldest: NONE,
            youngest: NONE,
        }
    }

    /// The slot of a transaction.
    #[inline]
    pub(super) fn of(&self, vxid: u64) -> Option<u32> {
        self.by_vxid.get(&vxid).copied()
    }

    /// How many are in use.
    pub(super) fn in_use(&self) -> usize {
        self.by_vxid.len()
    }

    /// The one that has been open longest.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// All of them, free ones included.
    pub(super) fn all(&self) -> &[Slot] {
        &self.slots
    }

    /// A slot for a transaction that begins now.
    pub(super) fn open(&mut self, vxid: u64, captures: usize, now: Instant, position: Option<Position>) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let (values, family) = (Values::new(), Family::default());
            self.slots.push(Slot { values, began: now, position, family, older: NONE, younger: NONE });
            (self.slots.len() - 1) as u32
        });
        let youngest = std::mem::replace(&mut self.youngest, slot);
        let entry = &mut self[slot];
        entry.values.begin(vxid, captures);
        entry.family.begin();
        (entry.began, entry.position, entry.older, entry.younger) = (now, position, youngest, NONE);
        match self.slots.get_mut(youngest as usize) {
            Some(youngest) => youngest.younger = slot,
            None => self.oldest = slot,
        }
        self.by_vxid.insert(vxid, slot);
        slot
    }

    /// Takes it out of the list of those that have not ended.
    pub(super) fn end(&mut self, slot: u32) {
        let entry = &self[slot];
        let (older, younger) = (entry.older, entry.younger);
        match self.slots.get_mut(older as usize) {
            Some(older) => older.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(younger as usize) {
            Some(younger) => younger.older = older,
            None => self.youngest = older,
        }
    }

    /// Frees it. What is in it stays until it is opened again.
    pub(super) fn free(&mut self, slot: u32) {
        let vxid = self[slot].values.vxid;
        self.by_vxid.remove(&vxid);
        self.free.push(slot);
    }
}

impl Index<u32> for Slots {
    type Output = Slot;

    #[inline]
    fn index(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }
}

impl IndexMut<u32> for Slots {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }
}

/// vxids are handed out in sequence, so that one multiplication spreads them well enough.
#[derive(Debug, Default)]
struct VxidHasher(u64);

impl Hasher for VxidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, vxid: u64) {
        // 2⁶⁴ divided by the golden ratio; the table uses the top bits as well as the bottom ones.
        self.0 = (self.0 ^ vxid).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}
