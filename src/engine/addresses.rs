//! What becomes of addresses, for those who ask beside the log.

use std::sync::Arc;

use crate::anonymize::{Anonymizer, parse};
use crate::config::IpFunction;
use crate::salt::Keeper;
use crate::secret::scrub_stack;

/// Bytes of stack that hashing an address uses at the most.
const STACK: usize = 1 << 10;

/// An engine's way with addresses, apart from the engine. Keeps its salts for as long as it lives.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub(super) keeper: Arc<Keeper>,
    pub(super) ip: IpFunction,
    pub(super) ip6_prefix: u8,
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keeper, &other.keeper) && (self.ip, self.ip6_prefix) == (other.ip, other.ip6_prefix)
    }
}

impl Addresses {
    /// Appends what becomes of the address that a text writes, under the current salt; `false`, with nothing appended, if it is none,
    /// or none is shown.
    pub fn append(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(address) = parse(text) else { return false };
        let is_shown = {
            let held = self.keeper.salts().current();
            let anonymizer = Anonymizer::new(self.ip, held.salt(), self.ip6_prefix);
            anonymizer.is_some_and(|anonymizer| {
                anonymizer.append(address, out);
                true
            })
        };
        // This thread is varnishd's, and does not know when the salt is over.
        scrub_stack::<STACK>();
        is_shown
    }

    /// The current salt's id, where addresses are hashed and there is one.
    #[must_use]
    pub fn salt_id(&self) -> Option<String> {
        let held = self.keeper.salts().current();
        let anonymizer = Anonymizer::new(self.ip, held.salt(), self.ip6_prefix)?;
        anonymizer.salt_id().map(|id| id.to_string())
    }
}
