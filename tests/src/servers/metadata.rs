//! What one broker knows of its cluster.
//!
//! librdkafka asks whichever broker it likes, and cannot do with none: brokers before 0.9 know nobody, not even themselves, as
//! long as there is no topic (KAFKA-1867). So that each can be asked by itself, this is the first version of Kafka's metadata
//! request, which all releases know.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// For the broker to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// No answer of the small clusters here is longer.
const LONGEST: usize = 1 << 20;

/// Its length; key 3, version 0; correlation 1; the client `tests`; no topic, which stands for all.
const REQUEST: &[u8] = b"\0\0\0\x13\0\x03\0\0\0\0\0\x01\0\x05tests\0\0\0\0";

/// A broker's answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The ids of all brokers that run.
    pub(super) brokers: Vec<i32>,
    /// The leader of each partition, -1 if it has none, by topic.
    pub(super) leaders: BTreeMap<String, BTreeMap<i32, i32>>,
}

impl Metadata {
    /// Whether the broker knows nobody, as old ones do that have no topic.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Asks the broker on this port of 127.0.0.1.
    pub(super) fn ask(port: u16) -> anyhow::Result<Self> {
        let mut broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting")?;
        broker.set_read_timeout(Some(ANSWER)).context("setting a limit")?;
        broker.write_all(REQUEST).context("asking for metadata")?;
        let mut length = [0; 4];
        broker.read_exact(&mut length).context("reading metadata")?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            bail!("{length} bytes of metadata");
        }
        let mut answer = vec![0; length];
        broker.read_exact(&mut answer).context("reading metadata")?;
        Self::read(&answer)
    }

    fn read(answer: &[u8]) -> anyhow::Result<Self> {
        let mut rest = Rest(answer);
        rest.int32()?; // the correlation
        let mut metadata = Self::default();
        for _ in 0..rest.int32()? {
            metadata.brokers.push(rest.int32()?);
            rest.text()?; // the host
            rest.int32()?; // the port
        }
        for _ in 0..rest.int32()? {
            rest.int16()?; // an error of the topic; it has no partitions then
            let leaders = metadata.leaders.entry(rest.text()?).or_default();
            for _ in 0..rest.int32()? {
                rest.int16()?; // an error of the partition; it has no leader then
                let partition = rest.int32()?;
                leaders.insert(partition, rest.int32()?);
                for _ in ["replicas", "those in sync"] {
                    for _ in 0..rest.int32()? {
                        rest.int32()?;
                    }
                }
            }
        }
        Ok(metadata)
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("the metadata are cut")?;
        self.0 = rest;
        Ok(taken)
    }

    fn int16(&mut self) -> anyhow::Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn int32(&mut self) -> anyhow::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn text(&mut self) -> anyhow::Result<String> {
        let length = usize::try_from(self.int16()?).context("a text without a length")?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One broker, and a topic with two partitions of which one has no leader.
    const ANSWER: &[u8] = b"\0\0\0\x01\0\0\0\x01\0\0\0\x07\0\x01h\0\0\x23\x84\
        \0\0\0\x01\0\0\0\x01t\0\0\0\x02\
        \0\0\0\0\0\0\0\0\0\x07\0\0\0\x01\0\0\0\x07\0\0\0\x01\0\0\0\x07\
        \0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\x01\0\0\0\x08\0\0\0\0";

    #[test]
    fn an_answer_is_read_and_a_cut_one_is_an_error() {
        let metadata = Metadata::read(ANSWER).unwrap();
        assert_eq!(metadata.brokers, [7]);
        assert_eq!(metadata.leaders, BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, 7), (1, -1)]))]));
        for length in 0..ANSWER.len() {
            assert!(Metadata::read(&ANSWER[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn the_request_has_its_length() {
        assert_eq!(REQUEST.len(), 4 + usize::from(REQUEST[3]));
    }
}
