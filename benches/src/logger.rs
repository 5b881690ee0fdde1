//! The two programs that are compared, and the line that both print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::find;

/// Known to both, so that neither has to look it up.
const HOST: &str = "cp1";

/// The stream of the configuration.
const STREAM: &str = "webrequest";

/// The eighteen fields: varnishkafka's notation, and the same for varnishncsa -F.
///
/// varnishncsa prints `-` for the size of an empty body, which is not JSON, so that it must be quoted. It does not know
/// the host's name.
const FIELDS: [(&str, &str, &str); 18] = [
    ("hostname", "%l@hostname", HOST),
    ("dt", "%{%Y-%m-%dT%H:%M:%S@dt}t", "%{%Y-%m-%dT%H:%M:%S}t"),
    ("time_firstbyte", "%{Varnish:time_firstbyte@time_firstbyte!num}x", "%{Varnish:time_firstbyte}x"),
    ("ip", "%h@ip", "%h"),
    ("cache_status", "%{Varnish:handling@cache_status}x", "%{Varnish:handling}x"),
    ("http_status", "%s@http_status", "%s"),
    ("response_size", "%b@response_size!num", "%b"),
    ("http_method", "%m@http_method", "%m"),
    ("uri_host", "%{Host@uri_host}i", "%{Host}i"),
    ("uri_path", "%U@uri_path", "%U"),
    ("uri_query", "%q@uri_query", "%q"),
    ("content_type", "%{Content-Type@content_type}o", "%{Content-Type}o"),
    ("referer", "%{Referer@referer}i", "%{Referer}i"),
    ("x_forwarded_for", "%{X-Forwarded-For@x_forwarded_for}i", "%{X-Forwarded-For}i"),
    ("user_agent", "%{User-Agent@user_agent}i", "%{User-Agent}i"),
    ("accept_language", "%{Accept-Language@accept_language}i", "%{Accept-Language}i"),
    ("x_analytics", "%{X-Analytics@x_analytics}o", "%{X-Analytics}o"),
    ("range", "%{Range@range}i", "%{Range}i"),
];

/// Those that kafkalog hashes and varnishncsa does not.
pub const ADDRESSES: [&str; 2] = ["ip", "x_forwarded_for"];

/// How many fields a line has.
pub const FIELD_COUNT: usize = FIELDS.len();

/// A program that renders a recording.
#[derive(Debug, Clone)]
pub enum Logger {
    /// Varnish's own.
    Varnishncsa,
    /// Ours.
    Kafkalog {
        /// The program.
        program: PathBuf,
        /// Its configuration.
        configuration: PathBuf,
    },
}

impl Logger {
    /// Ours, with a configuration that is written to `work`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn kafkalog(programs: &Programs, work: &Path) -> anyhow::Result<Self> {
        let configuration = work.join("kafkalog.toml");
        let fields: Vec<_> = FIELDS.iter().map(|(_, ours, _)| *ours).collect();
        let text = format!(
            "host = \"{HOST}\"\n[kafka]\nbootstrap = [\"127.0.0.1:9\"]\n\
             [[stream]]\nname = \"{STREAM}\"\ntopic = \"{STREAM}\"\njson = \"{}\"\n",
            fields.join(" ")
        );
        fs::write(&configuration, text).with_context(|| format!("writing {}", configuration.display()))?;
        Ok(Self::Kafkalog { program: programs.kafkalog(), configuration })
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Varnishncsa => "varnishncsa",
            Self::Kafkalog { .. } => "kafkalog",
        }
    }

    /// The program and its arguments that print a line for each request of the recording.
    #[must_use]
    pub fn command(&self, recording: &Path) -> Command {
        match self {
            Self::Varnishncsa => {
                let mut command = Command::new(find("varnishncsa"));
                command.arg("-r").arg(recording).args(["-j", "-F", &varnishncsa_format()]);
                // kafkalog's times are in UTC.
                command.env("TZ", "UTC");
                command
            }
            Self::Kafkalog { program, configuration } => {
                let mut command = Command::new(program);
                command.args(["replay", "--stdout", STREAM, "-r"]).arg(recording);
                command.arg("--config").arg(configuration).env("TZ", "UTC");
                command
            }
        }
    }
}

fn varnishncsa_format() -> String {
    let fields = FIELDS.map(|(name, _, theirs)| match name {
        "time_firstbyte" => format!("\"{name}\":{theirs}"),
        _ => format!("\"{name}\":\"{theirs}\""),
    });
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_an_object_of_all_fields() {
        let format = varnishncsa_format();
        assert!(format.starts_with(r#"{"hostname":"cp1","dt":"%{%Y-"#), "{format}");
        assert!(format.contains(r#","time_firstbyte":%{Varnish:time_firstbyte}x,"ip":"%h","#), "{format}");
        assert!(format.ends_with(r#","range":"%{Range}i"}"#), "{format}");
    }
}
