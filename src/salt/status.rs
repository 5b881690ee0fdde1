//! What ZooKeeper tells of the cluster's salts, for people. Never a salt: nobody could.

use std::time::Duration;

use tokio::sync::oneshot;

use super::cluster_key::ClusterKey;
use super::keeper::{KeeperError, key_path};
use super::member::EPOCHS;
use super::message;
use super::session::Session;
use super::space::{Space as _, Trouble};
use super::table::since_epoch;
use crate::config::Anonymize;
use crate::message::SaltId;

/// An epoch's salt, as ZooKeeper has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStatus {
    /// Rotation periods since 1970.
    pub epoch: u64,
    /// Since when it lasts; `None` for one that is still to come.
    pub age: Option<Duration>,
    /// The salt that the register names; `None` if it was not written with this cluster's key.
    pub salt: Option<SaltId>,
    /// The hosts that hold that salt. The first ones answer those who ask for it.
    pub holders: Vec<String>,
    /// Nodes that ask for it.
    pub requests: usize,
}

/// Looks once at what is in ZooKeeper; epochs in their order.
///
/// # Errors
///
/// In words: there is no ZooKeeper in the configuration, the key cannot be read, or ZooKeeper does not answer.
pub fn status(anonymize: &Anonymize) -> Result<Vec<EpochStatus>, String> {
    let (Some(zookeeper), Some(key)) = (&anonymize.zookeeper, &anonymize.cluster_key) else {
        return Err("there is no anonymize.zookeeper in the configuration: the salt is this node's own".into());
    };
    let path = key_path(key.get_ref());
    let key = ClusterKey::read(&path).map_err(|error| KeeperError::ClusterKey { path, error }.to_string())?;
    let (_going, mut stop) = oneshot::channel();
    let begun = Session::begin(zookeeper.get_ref(), anonymize.zookeeper_digest.as_ref(), &mut stop);
    let session = begun.map_err(|Trouble(why)| format!("{}: {why}", zookeeper.get_ref()))?;
    let mut session = session.ok_or("stopped")?;
    look(&key, anonymize.rotate.get_ref().0, &mut session).map_err(|Trouble(why)| why)
}

fn look(key: &ClusterKey, period: Duration, session: &mut Session) -> Result<Vec<EpochStatus>, Trouble> {
    let mut all = Vec::new();
    for name in session.children(EPOCHS, false)? {
        let Ok(epoch) = name.parse::<u64>() else { continue };
        let path = format!("{EPOCHS}/{epoch}");
        let register = session.read(&path, false)?;
        let salt = register.and_then(|register| message::read_register(key, epoch, &register.data));
        let mut holders = Vec::new();
        for name in session.children(&format!("{path}/holder"), false)? {
            if message::read_holder(key, epoch, &name) == salt.and_then(|id| id.generation)
                && let Some(node) = session.read(&format!("{path}/holder/{name}"), false)?
            {
                holders.push(String::from_utf8_lossy(&node.data).chars().filter(|c| !c.is_control()).collect());
            }
        }
        let requests = session.children(&format!("{path}/request"), false)?.len();
        let began = period.saturating_mul(u32::try_from(epoch).unwrap_or(u32::MAX));
        let age = since_epoch().checked_sub(began);
        all.push(EpochStatus { epoch, age, salt, holders, requests });
    }
    all.sort_by_key(|status| status.epoch);
    Ok(all)
}
