//! Certificates for a server at 127.0.0.1 and its clients.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// Makes a certificate authority (`authority.pem`), and for `server` and `client` a key and a certificate that it has signed (`.key`,
/// `.crt`), all as PEM. Java servers want both in a file: `server.pem`.
///
/// # Errors
///
/// When openssl(1) is not there, or fails.
pub fn make(directory: &Path) -> anyhow::Result<()> {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
        let output = output.context("running openssl: `make setup` installs it")?;
        if !output.status.success() {
            bail!("openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    let at = |name: &str| directory.join(name);
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out authority.pem")?;
    for (side, extension) in [("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")] {
        openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={side} -keyout {side}.key -out {side}.csr"))?;
        fs::write(at("extension"), extension).context("writing the certificate's extension")?;
        openssl(&format!(
            "x509 -req -days 2 -in {side}.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
             -extfile extension -out {side}.crt"
        ))?;
    }
    let read = |name: &str| fs::read(at(name)).with_context(|| format!("reading {name}"));
    fs::write(at("server.pem"), [read("server.key")?, read("server.crt")?].concat()).context("writing server.pem")
}
