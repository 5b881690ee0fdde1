//! The two programs that are compared, and the lines that both print.

use std::ffi::OsString;
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

/// A query that is true of one request in a hundred.
const QUERY: &str = "ReqURL ~ '^/page/Article_number_[0-9]7[?]' and RespStatus == 200";

/// A program that renders a recording.
#[derive(Debug, Clone)]
pub struct Logger {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Logger {
    /// For people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The program and its arguments that print a line for each request of the recording.
    #[must_use]
    pub fn command(&self, recording: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // kafkalog's times are in UTC.
        command.args(&self.arguments).arg("-r").arg(recording).env("TZ", "UTC");
        command
    }
}

/// What both programs are made to do.
#[derive(Debug)]
pub struct Task {
    /// For people.
    pub name: &'static str,
    /// varnishncsa.
    pub theirs: Logger,
    /// kafkalog.
    pub ours: Logger,
    /// Whether both print the same bytes; otherwise [`agreement`](crate::agreement) tells what may differ.
    pub exact: bool,
}

/// All tasks, the first of which prints a line for every request; with a configuration that is written to `work`.
///
/// # Errors
///
/// When it cannot be written.
pub fn tasks(programs: &Programs, work: &Path) -> anyhow::Result<Vec<Task>> {
    let configuration = work.join("kafkalog.toml");
    let fields: Vec<_> = FIELDS.iter().map(|(_, ours, _)| *ours).collect();
    let text = format!(
        "host = \"{HOST}\"\n[kafka]\nbootstrap = [\"127.0.0.1:9\"]\n\
         [[stream]]\nname = \"{STREAM}\"\ntopic = \"{STREAM}\"\njson = \"{}\"\n",
        fields.join(" ")
    );
    fs::write(&configuration, text).with_context(|| format!("writing {}", configuration.display()))?;
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let theirs =
        |arguments: &[&str]| Logger { name: "varnishncsa", program: find("varnishncsa"), arguments: words(arguments) };
    let ours = |arguments: Vec<OsString>| Logger { name: "kafkalog", program: programs.kafkalog(), arguments };
    let format = varnishncsa_format();
    let json = ["-j", "-F", &format];
    let mut replay = words(&["replay", "--stdout", STREAM, "--config"]);
    replay.push(configuration.into());
    let same = |name, arguments: &[&str]| Task {
        name,
        theirs: theirs(arguments),
        ours: ours(words(&[&["ncsa"], arguments].concat())),
        exact: true,
    };
    Ok(vec![
        Task { name: "a stream of 18 JSON fields, hashed", theirs: theirs(&json), ours: ours(replay), exact: false },
        same("ncsa: 18 JSON fields", &json),
        same("ncsa: the default line", &[]),
        same("ncsa: a selective query", &["-q", QUERY]),
    ])
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
