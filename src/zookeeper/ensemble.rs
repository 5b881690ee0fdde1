//! How an ensemble is spoken to: in the clear or by TLS, as anybody or as a user.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use zookeeper_client::{Acls, Client, Connector, CreateMode, Error, SaslOptions, TlsOptions};

use super::{ConnectString, SESSION};
use crate::config::Property;

/// No certificate or key is longer.
const LONGEST: u64 = 1 << 20;

/// An ensemble: `"host:port,…/chroot"`, or a table with that as `servers`, and `tls` and `sasl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensemble {
    servers: ConnectString,
    tls: Option<Tls>,
    sasl: Option<Sasl>,
}

/// The table's form.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    servers: ConnectString,
    tls: Option<Tls>,
    sasl: Option<Sasl>,
}

/// Files of certificates, as PEM. They are read for each session, so that renewed ones are taken up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// Who has signed the servers' certificates, in which their names must stand.
    ca: PathBuf,
    /// This side's certificate, with those between it and the servers' authority.
    certificate: Option<PathBuf>,
    /// Its key.
    key: Option<PathBuf>,
}

/// A user, by DIGEST-MD5.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sasl {
    user: String,
    password: Property,
}

impl Ensemble {
    /// Begins a session: with any of the servers, in any order. Gives up when none has answered for a session's length. Runs on a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error`]: no server answers, or one does not want us.
    pub async fn connect(&self) -> Result<Client, Error> {
        self.connect_with(self.connector()?, &self.servers.to_string()).await
    }

    /// As [`connect`](Self::connect), to write: as the user that `digest`, `user:password`, names, and with the path made if it is
    /// not there.
    ///
    /// # Errors
    ///
    /// [`Error`]: likewise, or the path cannot be made.
    pub(crate) async fn connect_to_write(&self, digest: Option<&Property>) -> Result<Client, Error> {
        let mut connector = self.connector()?;
        if let Some(digest) = digest {
            connector = connector.with_auth("digest", digest.as_str().as_bytes());
        }
        let (servers, chroot) = self.servers.parts();
        let client = self.connect_with(connector, servers).await?;
        if chroot.is_empty() {
            return Ok(client);
        }
        // What is above may be others', too.
        client.mkdir(chroot, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
        client.chroot(chroot).map_err(|_| Error::UnexpectedError(format!("{chroot} is no path")))
    }

    /// Whether what is written can be its writers' alone: they are known to the servers.
    pub(crate) fn has_user(&self) -> bool {
        self.sasl.is_some()
    }

    fn connector(&self) -> Result<Connector, Error> {
        let mut connector = Client::connector().with_session_timeout(SESSION);
        if let Some(tls) = &self.tls {
            // Named, so that it is never a question which one; the first to be named stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            connector = connector.with_tls(tls.options().map_err(Error::UnexpectedError)?);
        }
        if let Some(Sasl { user, password }) = &self.sasl {
            connector = connector.with_sasl(SaslOptions::digest_md5(user.clone(), password.as_str().to_owned()));
        }
        Ok(connector)
    }

    async fn connect_with(&self, connector: Connector, servers: &str) -> Result<Client, Error> {
        match self.tls {
            Some(_) => connector.secure_connect(servers).await,
            None => connector.connect(servers).await,
        }
    }
}

impl Tls {
    fn options(&self) -> Result<TlsOptions, String> {
        let wrong = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let options = TlsOptions::new().with_pem_ca(&read(&self.ca)?).map_err(|error| wrong(&self.ca, &error))?;
        match (&self.certificate, &self.key) {
            (None, None) => Ok(options),
            (Some(certificate), Some(key)) => {
                options.with_pem_identity(&read(certificate)?, &read(key)?).map_err(|error| wrong(certificate, &error))
            }
            _ => Err("`certificate` and `key` go together".to_owned()),
        }
    }
}

/// A file of PEM. What is wrong with it is said without what is in it.
fn read(path: &Path) -> Result<String, String> {
    let wrong = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    match fs::metadata(path) {
        Err(error) => Err(wrong(&error)),
        Ok(metadata) if metadata.len() > LONGEST => Err(wrong(&"too large for a certificate or key")),
        Ok(_) => fs::read_to_string(path).map_err(|error| wrong(&error)),
    }
}

impl fmt::Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.servers.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Ensemble {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EnsembleVisitor)
    }
}

struct EnsembleVisitor;

impl<'de> Visitor<'de> for EnsembleVisitor {
    type Value = Ensemble;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"host:port,host:port/chroot\" or { servers = \"host:port/chroot\", tls = { … }, sasl = { … } }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ensemble, E> {
        let servers = ConnectString::try_from(text.to_owned()).map_err(E::custom)?;
        Ok(Ensemble { servers, tls: None, sasl: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Ensemble, A::Error> {
        let Table { servers, tls, sasl } = Table::deserialize(MapAccessDeserializer::new(map))?;
        if let Some(tls) = &tls {
            tls.options().map_err(de::Error::custom)?;
        }
        Ok(Ensemble { servers, tls, sasl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Given {
        zookeeper: Ensemble,
    }

    fn given(value: &str) -> Result<Ensemble, String> {
        let given: Result<Given, _> = toml::from_str(&format!("zookeeper = {value}"));
        given.map(|given| given.zookeeper).map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_will_do() {
        assert_eq!(given("\"zk1:2181/k\""), given("{ servers = \"zk1:2181/k\" }"));
        assert_eq!(given("\"zk1,zk2/k\"").unwrap().to_string(), "zk1,zk2/k");
    }

    #[test]
    fn passwords_are_not_shown() {
        let ensemble = given("{ servers = \"zk1\", sasl = { user = \"edge\", password = \"secret-1\" } }").unwrap();
        assert!(ensemble.has_user() && !format!("{ensemble:?} {ensemble}").contains("secret-1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let empty = empty.display();
        for (value, what) in [
            ("7".to_owned(), "expected \"host:port"),
            ("{ servers = \"a b\" }".to_owned(), "`a b` is no ZooKeeper server"),
            ("{ tls = { ca = \"/x\" } }".to_owned(), "missing field `servers`"),
            ("{ servers = \"a\", tls = { ca = \"/not/there\" } }".to_owned(), "/not/there: No such file"),
            (format!("{{ servers = \"a\", tls = {{ ca = \"{empty}\" }} }}"), "no valid tls trust anchor"),
            ("{ servers = \"a\", kerberos = 1 }".to_owned(), "unknown field `kerberos`"),
        ] {
            let error = given(&value).expect_err(&value);
            assert!(error.contains(what), "{error}");
        }
    }
}
