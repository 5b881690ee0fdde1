//! A Kerberos realm: MIT's key distribution centre on a free port of 127.0.0.1.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};

use super::{START, ports};
use crate::process::Running;
use crate::wait;

/// The realm's name.
const REALM: &str = "KAFKALOG.TEST";

/// Debian has the servers where a user's search path does not lead.
const SERVERS: &str = "/usr/sbin";

/// A realm with its centre, which ends when it is dropped.
#[derive(Debug)]
pub struct Kerberos {
    work: PathBuf,
    _centre: Running,
}

impl Kerberos {
    /// Makes a realm whose files go to `<work>/kerberos`, and starts its centre.
    ///
    /// # Errors
    ///
    /// When the programs are not there, or the centre does not answer in time.
    pub fn start(work: &Path, stop: &AtomicBool) -> anyhow::Result<Self> {
        ports::retried(|| Self::try_start(&work.join("kerberos"), stop))
    }

    fn try_start(work: &Path, stop: &AtomicBool) -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(work);
        fs::create_dir_all(work).with_context(|| format!("creating {}", work.display()))?;
        let port = ports::free()?;
        let at = |name: &str| work.join(name).display().to_string();
        let write =
            |name: &str, text: String| fs::write(work.join(name), text).with_context(|| format!("writing {name}"));
        // Hosts are known by their addresses, which no name server is to be asked about.
        write(
            "krb5.conf",
            format!(
                "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_realm = false\ndns_lookup_kdc = false\nrdns = false\n\
                 dns_canonicalize_hostname = false\nudp_preference_limit = 1\n[realms]\n{REALM} = {{\nkdc = 127.0.0.1:{port}\n}}\n\
                 [domain_realm]\n127.0.0.1 = {REALM}\n"
            ),
        )?;
        write(
            "kdc.conf",
            format!(
                "[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{REALM} = {{\n\
                 database_name = {}\nkey_stash_file = {}\nacl_file = {}\n}}\n[logging]\nkdc = STDERR\n",
                at("principal"),
                at("stash"),
                at("acl"),
            ),
        )?;
        run(work, "kdb5_util", &["create", "-s", "-r", REALM, "-P", "of the test"])?;
        let mut centre = command(work, "krb5kdc");
        let mut centre = Running::start("krb5kdc", centre.args(["-n", "-r", REALM]), work)?;
        wait::until("the key distribution centre", START, stop, || {
            centre.check()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
        Ok(Self { work: work.to_owned(), _centre: centre })
    }

    /// Makes a principal, and gives its name with the realm and the file with its key.
    ///
    /// # Errors
    ///
    /// When the realm does not.
    pub fn principal(&self, name: &str) -> anyhow::Result<(String, PathBuf)> {
        let (principal, keytab) =
            (format!("{name}@{REALM}"), self.work.join(format!("{}.keytab", name.replace('/', "-"))));
        let administer = |query: &str| run(&self.work, "kadmin.local", &["-r", REALM, "-q", query]);
        administer(&format!("addprinc -randkey {principal}"))?;
        administer(&format!("ktadd -k {} {principal}", keytab.display()))?;
        if !keytab.exists() {
            bail!("kadmin.local made no {}", keytab.display());
        }
        Ok((principal, keytab))
    }

    /// What clients are told of the realm (krb5.conf(5)): for `KRB5_CONFIG`, and Java's `java.security.krb5.conf`.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.work.join("krb5.conf")
    }
}

/// A program of the realm's administration.
fn command(work: &Path, program: &str) -> Command {
    let mut command = Command::new(Path::new(SERVERS).join(program));
    command.env("KRB5_CONFIG", work.join("krb5.conf")).env("KRB5_KDC_PROFILE", work.join("kdc.conf"));
    command
}

fn run(work: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = command(work, program).args(arguments).output();
    let output = output.with_context(|| format!("running {program}: `make test` installs it"))?;
    if !output.status.success() {
        bail!("{program} {arguments:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
