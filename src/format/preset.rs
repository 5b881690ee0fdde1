//! Formats that have a name.

use super::{FormatError, Program, Settings};
use crate::transaction::CaptureTable;

/// A format by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// A JSON record a request, with the fields that webrequest tables have had since 2014.
    Webrequest,
    /// varnishncsa's default line, with the address hashed.
    Ncsa,
    /// The line that udp2log distributes: sixteen fields between tabs.
    Udp2log,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 3] = [Self::Webrequest, Self::Ncsa, Self::Udp2log];

    /// The preset of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webrequest => "webrequest",
            Self::Ncsa => "ncsa",
            Self::Udp2log => "udp2log",
        }
    }

    /// What the preset stands for.
    #[must_use]
    pub const fn notation(self) -> &'static str {
        match self {
            Self::Webrequest => concat!(
                "%l@hostname %n@sequence!num %{%Y-%m-%dT%H:%M:%SZ@dt}t %{Varnish:time_firstbyte@time_firstbyte!num}x %h@ip ",
                "%{Varnish:handling@cache_status}x %s@http_status %b@response_size!num %m@http_method %{Host@uri_host}i ",
                "%U@uri_path %q@uri_query %{Content-Type@content_type}o %{Referer@referer}i ",
                "%{X-Forwarded-For@x_forwarded_for}i %{User-Agent@user_agent}i %{Accept-Language@accept_language}i ",
                "%{X-Analytics@x_analytics}o %{Range@range}i %{X-Cache@x_cache}o %{Accept@accept}i ",
                "%{Kafkalog:salt_id@salt_id}x",
            ),
            Self::Ncsa => "%h %l %u %t \"%r\" %s %b \"%{Referer}i\" \"%{User-agent}i\"",
            Self::Udp2log => concat!(
                "%{Kafkalog:host}x\\t%n\\t%{%Y-%m-%dT%H:%M:%S}t\\t%{Varnish:time_firstbyte}x\\t%h\\t%{Varnish:handling}x/%s\\t%b\\t%m\\t",
                "http://%{Host}i%U%q\\t-\\t%{Content-Type}o\\t%{Referer}i\\t%{X-Forwarded-For}i\\t%{User-agent}i\\t",
                "%{Accept-Language}i\\t%{X-Analytics}o",
            ),
        }
    }

    /// Compiles the preset.
    ///
    /// # Errors
    ///
    /// None with the presets there are; the tests compile them all.
    pub fn compile(self, settings: Settings<'_>, table: &mut CaptureTable) -> Result<Program, FormatError> {
        match self {
            Self::Webrequest => Program::json(self.notation(), settings, table),
            Self::Ncsa => Program::line(self.notation(), settings, table),
            Self::Udp2log => Program::tab_separated(self.notation(), settings, table),
        }
    }
}
