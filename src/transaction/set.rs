//! Sets: transactions that belong together, as queries look at them.

use crate::query::Member;

use super::Transaction;
use super::slots::Slot;

/// What belongs together (vsl-query(7), "Grouping").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Each transaction alone.
    #[default]
    Vxid,
    /// A client's request with all that it led to: restarts, ESI, requests to backends.
    Request,
    /// A client's connection with all of its requests.
    Session,
}

/// Transactions that belong together, those at the top first.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// How they belong together.
    pub grouping: Grouping,
    pub(super) members: &'a [(u32, i32)],
    pub(super) slots: &'a [Slot],
    pub(super) log: &'a [u8],
}

impl<'a> Set<'a> {
    /// The transactions.
    pub fn transactions(&self) -> impl Iterator<Item = Transaction<'a>> + use<'a> {
        let Self { slots, log, .. } = *self;
        self.members.iter().map(move |(slot, _)| slots[*slot as usize].values.transaction(log))
    }

    /// All of them, as a query sees them.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + Clone + use<'a> {
        let slots = self.slots;
        self.members.iter().map(move |(slot, level)| {
            let values = &slots[*slot as usize].values;
            Member { level: *level, vxid: values.vxid, met: &values.met }
        })
    }
}
