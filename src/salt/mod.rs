//! Salts that all nodes of a cluster share and no disk ever holds.
//!
//! ```text
//!  ZooKeeper ◀──▶ member ──▶ salts, by epoch ──▶ the reader, a request at a time
//!    (sealed)     thread       (in memory)
//! ```
//!
//! ZooKeeper writes everything to its disks and never takes it out. So it is told which salt is an epoch's, by an id that tells
//! nothing of it, and carries the salt itself only sealed with one-shot keys: see [`message`] for what is written, [`member`] for
//! who writes it when. Once an epoch is over and all nodes have wiped its salt, nothing can bring it back.

mod cluster_key;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keeper;
mod member;
mod message;
mod session;
#[cfg(test)]
mod simulation;
mod space;
mod status;
mod table;

pub use cluster_key::{ClusterKey, ClusterKeyError};
pub use keeper::{Keeper, KeeperError};
pub use status::{EpochStatus, status};
pub(crate) use table::since_epoch;
pub use table::{Clock, GRACE, Held, Missing, Salts};
