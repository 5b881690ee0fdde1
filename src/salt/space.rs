//! What the protocol needs of ZooKeeper.

use thiserror::Error;

/// Whose life a node shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It stays until somebody deletes it.
    Persistent,
    /// It goes with its writer's session.
    Ephemeral,
}

/// A node's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) data: Vec<u8>,
    /// Grows with each change of the data.
    pub(super) version: i32,
}

/// ZooKeeper does not do what it is asked; in words.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{0}")]
pub(super) struct Trouble(pub(super) String);

/// A tree of nodes that all members see, as ZooKeeper has it. Paths are absolute, below the configured one.
///
/// What is read while `watched` wakes the member when it changes.
pub(super) trait Space {
    /// A node's content, if the node exists.
    fn read(&mut self, path: &str, watched: bool) -> Result<Option<Node>, Trouble>;

    /// The names of a node's children, in order; none if the node does not exist.
    fn children(&mut self, path: &str, watched: bool) -> Result<Vec<String>, Trouble>;

    /// Creates a node below one that exists; `false` if it is there, or the one above is not.
    fn create(&mut self, path: &str, data: &str, life: Life) -> Result<bool, Trouble>;

    /// Changes a node's content, if it still has this version.
    fn write(&mut self, path: &str, data: &str, version: i32) -> Result<bool, Trouble>;

    /// Deletes a node without children, if it exists.
    fn delete(&mut self, path: &str) -> Result<(), Trouble>;
}
