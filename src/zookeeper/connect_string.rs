//! Where ZooKeeper is.

use std::fmt;

use serde::Deserialize;

/// `host:port,…/chroot`: the servers of an ensemble, and the path that everything is below. Port 2181 may be left out.
///
/// Source: the ZooKeeper Programmer's Guide, "ZooKeeper Sessions".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ConnectString(String);

impl TryFrom<String> for ConnectString {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (servers, chroot) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text.as_str(), ""),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let is_host = |host: &str| match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.bytes().all(is_name),
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let wrong = servers.split(',').find(|server| match server.rsplit_once(':') {
            Some((host, port)) if !server.ends_with(']') => !is_host(host) || !is_port(port),
            _ => !is_host(server),
        });
        if let Some(wrong) = wrong {
            return Err(format!("`{wrong}` is no ZooKeeper server, expected \"host:port,host:port/chroot\""));
        }
        // As ZooKeeper's own rule for paths.
        if !chroot.is_empty()
            && chroot[1..].split('/').any(|part| matches!(part, "" | "." | "..") || part.chars().any(char::is_control))
        {
            return Err(format!("`{chroot}` is no ZooKeeper path, expected one such as \"/kafka/eqiad\""));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConnectString {
    /// The servers, and the path with its leading `/`, or nothing.
    pub(super) fn parts(&self) -> (&str, &str) {
        self.0.split_at(self.0.find('/').unwrap_or(self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_chroots_are_checked() {
        for text in ["zk1", "zk1:2181", "zk1:2181,zk2:2182/kafka/eqiad", "[::1]:2181,10.0.0.1", "[::1]/k"] {
            assert!(ConnectString::try_from(text.to_owned()).is_ok(), "{text}");
        }
        for (text, what) in [
            ("", "`` is no ZooKeeper server"),
            ("zk1:0", "`zk1:0`"),
            ("zk1:x/k", "`zk1:x`"),
            ("zk1,,zk2", "`` is no"),
            ("::1:2181", "`::1:2181`"),
            ("tcp://zk1", "`tcp:` is no"),
            ("zk1/", "`/` is no ZooKeeper path"),
            ("zk1/a//b", "`/a//b`"),
            ("zk1/a/", "`/a/`"),
        ] {
            let error = ConnectString::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains(what), "{error}");
        }
    }
}
